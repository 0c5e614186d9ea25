//! Checks: begun, ended, and what comes of them.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Direction, Event, Phase, Record};
use pitstop_store::StoreError;
use pitstop_types::UpdateId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Home, News, Service, storage_error};
use crate::check::{Found, check, is_refusal};
use crate::history::Refusal;
use crate::report;
use crate::status::is_over;
use crate::tether::Tether;

/// When a check that came at a bad moment is made up for.
const LATER: Duration = Duration::from_secs(30);

impl Service {
    pub(super) fn begin_check(&mut self, reply: Option<oneshot::Sender<Result<Option<UpdateId>, OtaError>>>) {
        self.next_check = Instant::now() + self.settings.poll_interval;
        let running = self.record.as_ref().filter(|record| !is_over(record));
        // Once something has changed, the update that changes it goes first. And while banks are being written their
        // ECUs have no time to be asked for versions: a manifest without them would look like another vehicle.
        let first = |record: &&Record| record.direction != Direction::Prepare || record.phase == Phase::Staging;
        if let Some(record) = running.filter(first) {
            if let Some(reply) = reply {
                let _ = reply.send(Ok(Some(record.decision.update.clone())));
            }
            self.next_check = self.next_check.min(Instant::now() + LATER);
            return;
        }
        self.waiting.extend(reply);
        if self.checking {
            return;
        }
        let mut known = match self.history.ended() {
            Ok(known) => known,
            Err(error) => return self.answer_check(&Err(storage_error(error))),
        };
        // The last one too although it is over: a history that is full does not have it.
        known.extend(self.record.as_ref().map(|record| record.decision.update.clone()));
        self.checking = true;
        let (ports, settings) = (self.ports.clone(), self.settings.clone());
        let tether = Tether::new(None, self.live.0.clone(), self.alive.subscribe());
        self.tasks.spawn(async move { Home::Check(check(&ports, &settings, &known, &tether).await) });
    }

    fn answer_check(&mut self, answer: &Result<Option<UpdateId>, OtaError>) {
        self.checking = false;
        for reply in self.waiting.drain(..) {
            let _ = reply.send(answer.clone());
        }
    }

    pub(super) fn end_check(&mut self, found: Result<Found, OtaError>) -> Result<(), StoreError> {
        let running = self.record.as_ref().filter(|record| !is_over(record));
        if let Some(record) = running.filter(|record| record.direction != Direction::Prepare) {
            // It went on meanwhile: what was found is found again when it has ended.
            let update = record.decision.update.clone();
            self.answer_check(&Ok(Some(update)));
            return Ok(());
        }
        let active = running.map(|record| record.decision.update.clone());
        let answer = match found {
            Ok(Found::Known(update)) => Ok(Some(update).filter(|update| active.as_ref() == Some(update))),
            Ok(Found::Nothing) => {
                // The Director's signed word that nothing is wanted takes back what has not begun.
                if active.is_some() {
                    let _ = self.tell(&Event::Cancelled { origin: "the backend".to_owned() })?;
                }
                Ok(None)
            }
            Ok(Found::Update(decision, plan)) => {
                let update = decision.update.clone();
                match (active, plan) {
                    // Superseded first; once that has ended, the next check brings this one.
                    (Some(_), _) => {
                        let _ = self.tell(&Event::Superseded { by: update.clone() })?;
                    }
                    (None, Ok(plan)) => {
                        log::info!(update = update.as_str(); "plan of {update}:\n{plan}");
                        self.begin(Record::new(*decision, plan, self.now()))?;
                    }
                    (None, Err(reason)) => self.begin(Record::refused(*decision, reason, self.now()))?,
                }
                Ok(Some(update))
            }
            Err(error) if is_refusal(&error) => {
                self.refuse(&error)?;
                Err(error)
            }
            Err(error) => {
                log::info!("no check: {}: {}", error.short_name(), error.text());
                Err(error)
            }
        };
        self.answer_check(&answer);
        Ok(())
    }

    /// A refused decision: nothing is touched; it is logged in the chain and reported.
    fn refuse(&mut self, error: &OtaError) -> Result<(), StoreError> {
        let at = self.now();
        log::warn!(error = error.short_name(); "refused: {}: {}", error.short_name(), error.text());
        let refusal = Refusal { at, update: String::new(), error: error.short_name().to_owned(), text: error.text() };
        if self.history.refuse(&refusal)? {
            self.reporter.tell(report::refusal(error, at));
        }
        Ok(())
    }

    fn begin(&mut self, record: Record) -> Result<(), StoreError> {
        self.document.store(&record)?;
        self.record = Some(record);
        self.compared = false;
        let Some(record) = &self.record else { return Ok(()) };
        let update = record.decision.update.to_string();
        log::info!(update = update.as_str(), phase = record.phase.as_str(); "update {update}: begins in {}", record.phase);
        let phase = record.phase.to_string();
        self.reporter.tell(report::transition(record, record.since));
        let _ = self.news.send(News::Transition { update, phase, end: String::new() });
        self.look_what_runs();
        Ok(())
    }
}
