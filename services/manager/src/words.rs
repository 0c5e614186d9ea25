//! Where errors become words: for the record, the status line and the driver.

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Failure, Record};
use pitstop_types::UpdateEnd;

/// The record's form of a bus error.
pub fn failure(error: &OtaError) -> Failure {
    Failure::new(error.short_name(), error.text())
}

/// What the driver is told of the end (UN R156 7.2.2.4). Short: the screen has its own words around it.
pub fn notice(record: &Record) -> String {
    let reason = record.reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default();
    match record.end {
        Some(UpdateEnd::AllNew) => format!("The update is installed. {}", record.decision.facts.changes),
        Some(UpdateEnd::AllOld) => format!("The update could not be installed; everything is as before. {reason}"),
        Some(UpdateEnd::NeedsWorkshop) => {
            let ecu = record.reason.as_ref().and_then(|reason| reason.ecu.as_ref());
            let who = ecu.map_or_else(String::new, |ecu| format!(" Affected: {ecu}."));
            format!("The vehicle needs a workshop.{who} {reason}")
        }
        Some(UpdateEnd::Declined) => "The update was declined.".to_owned(),
        Some(UpdateEnd::Refused) => format!("The update was refused; nothing was changed. {reason}"),
        Some(UpdateEnd::Superseded) => "A newer update took its place.".to_owned(),
        Some(UpdateEnd::Cancelled) => "The update was cancelled; nothing was changed.".to_owned(),
        Some(UpdateEnd::Expired) => "The update is no longer offered.".to_owned(),
        None => String::new(),
    }
    .trim_end()
    .to_owned()
}

/// The text of a failure with the ECU it is about, as screens and the history show it.
pub fn reason(failure: &Failure) -> String {
    failure.ecu.as_ref().map_or_else(|| failure.text.clone(), |ecu| format!("{ecu}: {}", failure.text))
}
