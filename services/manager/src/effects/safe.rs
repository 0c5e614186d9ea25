//! Conditions, drive inhibit, restart: nothing unsafe begins without them.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Event, Record};

use super::{FIRST_PAUSE, LONGEST_PAUSE, Performer, Result};
use crate::tether::Tether;

/// Between two orders to restart: the first one may be on its way.
const REBOOT_AGAIN: Duration = Duration::from_secs(90);

impl Performer {
    /// Waits until the conditions hold.
    pub(super) async fn hold(&self, conditions: &[String], tether: &Tether) -> Result<()> {
        while let Some(reasons) = self.blocked(conditions, tether).await? {
            tether.blocked(reasons);
            tether.pause(self.settings.condition_poll).await?;
        }
        tether.blocked(Vec::new());
        Ok(())
    }

    /// Why the conditions do not hold; `None`: they do.
    async fn blocked(&self, conditions: &[String], tether: &Tether) -> Result<Option<Vec<String>>> {
        if conditions.is_empty() {
            return Ok(None);
        }
        match patiently!(tether, self.ports.vehicle.evaluate(conditions)) {
            Ok(results) if results.len() == conditions.len() => {
                let reasons: Vec<String> = results
                    .into_iter()
                    .filter(|result| !result.holds)
                    .map(|result| format!("{}: {}", result.condition, result.reason))
                    .collect();
                Ok((!reasons.is_empty()).then_some(reasons))
            }
            Ok(_) => Ok(Some(vec!["the conditions were not all judged".to_owned()])),
            Err(error @ OtaError::Cancelled(_)) => Err(error),
            // A condition that cannot be read never holds, and says so.
            Err(error) => Ok(Some(vec![error.text()])),
        }
    }

    /// Waits for the conditions, then for the acknowledged drive inhibit.
    ///
    /// The campaign's conditions (windows, areas) count for the start only: that its window closes while ECUs are
    /// being changed is no reason to leave the vehicle half way.
    pub(super) async fn make_safe(&self, record: &Record, undo: bool, tether: &Tether) -> Result<()> {
        let mut conditions =
            if undo { &self.settings.undo_conditions } else { &self.settings.start_conditions }.clone();
        let nothing_changed = record.deadline.is_none() && !undo;
        if nothing_changed {
            conditions.extend(record.decision.conditions.iter().cloned());
        }
        let update = &record.decision.update;
        let vehicle = &self.ports.vehicle;
        let mut requested = true;
        loop {
            let mut reasons = self.blocked(&conditions, tether).await?;
            if nothing_changed && self.now().is_none() {
                // Whether it may still start cannot be said, and nobody else would ask.
                reasons.get_or_insert_default().push("the time is not known".to_owned());
            }
            if let Some(reasons) = reasons {
                tether.blocked(reasons);
                if nothing_changed && requested {
                    // A driver who wants to go must be able to; also what an earlier life requested.
                    patiently!(tether, vehicle.release_inhibit(update))?;
                    requested = false;
                }
                tether.pause(self.settings.condition_poll).await?;
                continue;
            }
            patiently!(tether, vehicle.request_inhibit(update))?;
            requested = true;
            let asked = tokio::time::Instant::now();
            loop {
                let Some(reason) = patiently!(tether, vehicle.unsafe_because())? else {
                    tether.blocked(Vec::new());
                    return Ok(());
                };
                tether.blocked(vec![reason]);
                tether.pause(Duration::from_millis(200)).await?;
                if asked.elapsed() >= self.settings.inhibit_timeout {
                    break;
                }
            }
        }
    }

    pub(super) async fn reboot(&self, record: &Record, tether: &Tether) -> Result<Event> {
        loop {
            self.make_safe(record, true, tether).await?;
            match self.ports.slots.reboot(&record.decision.update).await {
                Ok(()) => tether.pause(REBOOT_AGAIN).await?,
                Err(error) => {
                    tether.blocked(vec![format!("restart: {}", error.text())]);
                    tether.pause(self.settings.condition_poll).await?;
                }
            }
        }
    }
}
