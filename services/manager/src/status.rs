//! The picture that status calls answer with: the record, and what running effects tell.

use std::collections::BTreeMap;

use pitstop_dbus::{StepStatus, UpdateStatus};
use pitstop_lifecycle::{Phase, Record, Step, StepState};
use pitstop_types::EcuId;

use crate::history::text;
use crate::tether::Live;
use crate::words;

/// What is not stored.
#[derive(Debug, Default)]
pub struct Board {
    progress: BTreeMap<EcuId, (String, u64, u64)>,
    blocked: Vec<String>,
    buses: BTreeMap<String, String>,
}

impl Board {
    /// Takes in what an effect tells; the ECU whose step changed, if one did.
    pub fn take(&mut self, live: Live) -> Option<EcuId> {
        match live {
            Live::Progress { ecu, phase, done, total } => {
                self.progress.insert(ecu.clone(), (phase, done, total));
                Some(ecu)
            }
            Live::Blocked(reasons) => {
                self.blocked = reasons;
                None
            }
        }
    }

    /// Another phase: what was told belongs to the last one.
    pub fn clear(&mut self) {
        self.progress.clear();
        self.blocked.clear();
    }

    pub fn know_buses(&mut self, buses: impl IntoIterator<Item = (String, String)>) {
        self.buses.extend(buses);
    }

    pub fn status(&self, record: Option<&Record>) -> (UpdateStatus, Vec<StepStatus>) {
        let Some(record) = record else {
            return (UpdateStatus { phase: "idle".to_owned(), ..UpdateStatus::default() }, Vec::new());
        };
        let reason = record.reason.as_ref();
        let status = UpdateStatus {
            update: record.decision.update.to_string(),
            campaign: record.decision.campaign.to_string(),
            phase: record.phase.to_string(),
            end: record.end.filter(|_| is_over(record)).map(|end| end.to_string()).unwrap_or_default(),
            started: record.started,
            deadline: record.deadline.unwrap_or_default(),
            blocked: self.blocked.clone(),
            error_name: reason.map(|reason| reason.error.clone()).unwrap_or_default(),
            error_text: reason.map(words::reason).unwrap_or_default(),
        };
        (status, record.steps.iter().map(|step| self.step(record.phase, step)).collect())
    }

    pub fn step(&self, phase_of_update: Phase, step: &Step) -> StepStatus {
        let (phase, done, total) = self.progress.get(&step.ecu).cloned().unwrap_or_default();
        let running = phase_of_update == Phase::Staging && step.state == StepState::Waiting && step.is_staged_ahead();
        StepStatus {
            ecu: step.ecu.to_string(),
            bus: self.buses.get(step.ecu.as_str()).cloned().unwrap_or_default(),
            before: text(step.before.clone()),
            after: step.target.version.to_string(),
            state: if running { "staging".to_owned() } else { step.state.as_str().to_owned() },
            phase,
            done,
            total,
        }
    }
}

/// Whether the end is decided and out.
pub fn is_over(record: &Record) -> bool {
    record.phase == Phase::Ended
}
