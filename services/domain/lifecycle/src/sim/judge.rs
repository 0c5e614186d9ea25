//! What must be true of the vehicle when an update has ended.

use pitstop_types::{SoftwareVersion, UpdateEnd};

use super::{SimEcu, World};

impl World {
    /// Whether the vehicle is what `end` says: nothing may be a mixture called success, nothing may be left over.
    pub fn check(&self, end: Option<UpdateEnd>) -> Result<(), String> {
        if let Some(violation) = self.violations.first() {
            return Err(violation.clone());
        }
        let wanted = match end {
            Some(UpdateEnd::AllNew) => "2.0",
            Some(UpdateEnd::NeedsWorkshop) => return Ok(()),
            Some(_) => "1.0",
            None => return Err("the update has no end".into()),
        };
        for part in &self.decision.ecus {
            let runs =
                self.versions().into_iter().find(|report| report.ecu == part.ecu).and_then(|report| report.version);
            if runs.as_ref().map(SoftwareVersion::as_str) != Some(wanted) {
                return Err(format!("{} runs {runs:?}, the end is {end:?}", part.ecu));
            }
            if let Some(SimEcu::Dual { trial: true, .. }) = self.ecus.get(&part.ecu) {
                return Err(format!("{} is still on trial", part.ecu));
            }
        }
        let mut later = self.slots.clone();
        later.boot(&self.faults.crashing);
        if later.booted != self.slots.booted {
            return Err("the next start would choose the other slot".into());
        }
        if self.inhibit {
            return Err("the drive inhibit is still on".into());
        }
        if self.history.len() != 1 || self.notices.len() != 1 {
            return Err(format!("{} history entries, {} notices", self.history.len(), self.notices.len()));
        }
        if self.reports.is_empty() || self.reports.iter().any(|report| Some(*report) != end) {
            return Err(format!("reported {:?}", self.reports));
        }
        if end == Some(UpdateEnd::AllNew) && !self.floors {
            return Err("floors are not raised".into());
        }
        Ok(())
    }
}
