//! The driver is asked.

use std::time::Duration;

use pitstop_lifecycle::{Answer, Event, Record};
use pitstop_types::{Digest, UserChoice};

use super::{FIRST_PAUSE, LONGEST_PAUSE, Performer, Result};
use crate::tether::Tether;

/// Between two looks for the driver's answer, should its signal be lost.
const LOOK_FOR_ANSWER: Duration = Duration::from_secs(2);

impl Performer {
    /// Shows the prompt and waits for the answer that is stored.
    pub(super) async fn ask(&self, record: &Record, times: u32, tether: &Tether) -> Result<Event> {
        let driver = &self.ports.driver;
        let update = &record.decision.update;
        patiently!(tether, driver.ask(update, &record.decision.facts))?;
        // Told apart by what it says and not by its time alone: the clock may have been set back since.
        let known = |answer: &Answer| {
            record.answers.last().is_some_and(|last| {
                (last.choice, last.at, &last.origin, last.prompt)
                    == (answer.choice, answer.at, &answer.origin, answer.prompt)
            })
        };
        let mut asked_again = times <= 1;
        loop {
            let stored = patiently!(tether, driver.answer(update))?;
            // An answer that is in the record already is last time's.
            if let Some(answer) = self.answer(&stored).filter(|answer| !known(answer)) {
                let too_late = |at| at >= record.decision.install_by;
                if !matches!(answer.choice, UserChoice::At { unix_secs } if too_late(unix_secs)) {
                    return Ok(Event::Answered(answer));
                }
                // The update is no longer valid then: the driver has to choose again.
                asked_again = false;
            }
            if !asked_again && !stored.choice.is_empty() {
                patiently!(tether, driver.ask_again(update))?;
                asked_again = true;
            }
            tokio::select! {
                () = driver.answered() => {}
                waited = tether.pause(LOOK_FOR_ANSWER) => waited?,
            }
        }
    }

    /// `None`: in words that this release does not know; it goes on waiting.
    fn answer(&self, answer: &pitstop_dbus::Answer) -> Option<Answer> {
        let choice = match answer.choice.as_str() {
            "now" => UserChoice::Now,
            "at" => UserChoice::At { unix_secs: answer.at },
            "later" => UserChoice::Later,
            "no" => UserChoice::No,
            _ => return None,
        };
        let ask_again = i64::try_from(self.settings.ask_again.as_secs()).unwrap_or(i64::MAX);
        Some(Answer {
            choice,
            at: answer.answered_at,
            origin: answer.origin.clone(),
            prompt: Digest::parse(&answer.text_digest).ok()?,
            ask_again_at: self.now().unwrap_or(answer.answered_at).saturating_add(ask_again),
        })
    }
}
