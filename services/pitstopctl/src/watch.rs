//! Follows an update to its end: what changed between two pictures becomes events, events become bars, lines or JSON.

mod model;
mod printer;

use std::time::Duration;

use futures_util::StreamExt as _;
use pitstop_dbus::ManagerProxy;

pub use printer::Printer;

use crate::error::CtlError;
use model::{Event, Model};

/// How often the picture is taken without a signal: after a restart of the TCU nobody signals that the services are back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// An update's end is looked for among this many of the newest.
const HISTORY: u32 = 50;

/// Follows `update`, or the running or next one. Services that restart meanwhile are waited for.
pub async fn follow(manager: &ManagerProxy<'_>, update: Option<String>, mut printer: Printer) -> Result<(), CtlError> {
    let mut transitions = manager.receive_transition().await.map_err(CtlError::of_read("Manager"))?;
    let mut steps = manager.receive_step_changed().await.map_err(CtlError::of_read("Manager"))?;
    let mut model = Model::new(update);
    loop {
        for event in look(manager, &mut model).await? {
            printer.print(&event);
            if let Event::Ended { update, end, text } = event {
                return if end == "all-new" { Ok(()) } else { Err(CtlError::Ended { update, end, text }) };
            }
        }
        // A lost stream (the bus went) only leaves the timer.
        tokio::select! {
            Some(_) = transitions.next() => {}
            Some(_) = steps.next() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn look(manager: &ManagerProxy<'_>, model: &mut Model) -> Result<Vec<Event>, CtlError> {
    let (status, steps) = match manager.get_status().await.map_err(CtlError::of_call("Manager")) {
        Ok(picture) => picture,
        Err(CtlError::NoService(_)) => return Ok(model.away()),
        Err(other) => return Err(other),
    };
    let mut events = model.apply(&status, &steps);
    // One that is not running any more has ended, and its end stands in the history.
    if let Some(gone) = model.gone(&status) {
        let entries = manager.get_history(HISTORY).await.map_err(CtlError::of_call("Manager"))?;
        if let Some(entry) = entries.into_iter().find(|entry| entry.update == gone) {
            events.push(Event::Ended { update: entry.update, end: entry.end, text: entry.error_text });
        }
    }
    Ok(events)
}
