//! The way out: floors, inhibit, report, notice, release.

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Duty, Phase, Record};
use pitstop_types::UpdateEnd;

use super::{FIRST_PAUSE, GIVE_UP, LONGEST_PAUSE, Performer, Result};
use crate::tether::Tether;
use crate::{report, words};

impl Performer {
    pub(super) async fn duty(&self, record: &Record, duty: Duty, tether: &Tether) -> Result<()> {
        let update = &record.decision.update;
        match duty {
            Duty::Floors => self.raise_floors(record, tether).await,
            Duty::Inhibit => patiently!(tether, self.ports.vehicle.release_inhibit(update)),
            Duty::Report => self.report_end(record, tether).await,
            Duty::Notice => {
                let Some(end) = record.end else { return Ok(()) };
                let text = words::notice(record);
                self.must_not_hold_up(patiently!(tether, self.ports.driver.notify(update, end, &text)));
                Ok(())
            }
            Duty::Release => {
                if leaves_its_slot(record) {
                    self.must_not_hold_up(patiently!(tether, self.ports.slots.roll_back(update)));
                }
                self.must_not_hold_up(patiently!(tether, self.ports.driver.withdraw(update)));
                self.must_not_hold_up(patiently!(tether, self.ports.content.release(update)));
                self.must_not_hold_up(patiently!(tether, self.ports.slots.release_lease(update)));
                Ok(())
            }
            // The service's own business, or a newer release's word.
            Duty::History | Duty::Unknown => Ok(()),
        }
    }

    /// What is only tidying up: a refusal is logged, the update ends all the same.
    fn must_not_hold_up(&self, result: Result<()>) {
        if let Err(error) = result {
            log::warn!("tidying up: {}: {}", error.short_name(), error.text());
        }
    }

    /// The end goes into the outbox with the manifest read back after it. Success needs the manifest; any other end
    /// is told without one rather than not at all.
    async fn report_end(&self, record: &Record, tether: &Tether) -> Result<()> {
        let update = &record.decision.update;
        let manifest = loop {
            match patiently!(tether, self.ports.content.collect_manifest(Some(update))) {
                Ok(manifest) => break Some(manifest),
                Err(error @ OtaError::Cancelled(_)) => return Err(error),
                Err(error) => {
                    log::warn!("no manifest for the end of {update}: {}", error.text());
                    if record.end != Some(UpdateEnd::AllNew) {
                        break None;
                    }
                    tether.pause(LONGEST_PAUSE).await?;
                }
            }
        };
        let text = report::end(record, manifest.as_deref(), self.now().unwrap_or(record.since));
        self.reporter.deliver(text, tether).await
    }

    /// A floor that lags is safe, an update that never ends is not.
    async fn raise_floors(&self, record: &Record, tether: &Tether) -> Result<()> {
        let began = tokio::time::Instant::now();
        loop {
            match patiently!(tether, self.ports.content.raise_floors(&record.decision.update)) {
                Err(error) if !matches!(error, OtaError::Cancelled(_)) => {
                    if began.elapsed() >= GIVE_UP {
                        log::error!("floors stay as they are: {}: {}", error.short_name(), error.text());
                        return Ok(());
                    }
                    tether.pause(LONGEST_PAUSE).await?;
                }
                other => return other,
            }
        }
    }
}

/// Given up before the commit, so nobody will decide about its slot any more: undecided it would keep out every other update.
fn leaves_its_slot(record: &Record) -> bool {
    record.end == Some(UpdateEnd::NeedsWorkshop)
        && !record.entered.contains_key(&Phase::Committing)
        && record.steps.iter().any(|step| step.ecu.is_tcu())
}
