//! Structs as they go over the bus. Field order is the contract; the XML tells what each field means.

use serde::{Deserialize, Serialize};
use zbus::{OwnedVariant, Type};

/// Manager.GetStatus, first part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct UpdateStatus {
    pub update: String,
    pub campaign: String,
    pub phase: String,
    pub end: String,
    pub started: i64,
    pub deadline: i64,
    pub blocked: Vec<String>,
    pub error_name: String,
    pub error_text: String,
}

/// Manager.GetStatus, second part, and StepChanged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct StepStatus {
    pub ecu: String,
    pub bus: String,
    pub before: String,
    pub after: String,
    pub state: String,
    pub phase: String,
    pub done: u64,
    pub total: u64,
}

/// Manager.GetHistory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct HistoryEntry {
    pub update: String,
    pub campaign: String,
    pub end: String,
    pub started: i64,
    pub ended: i64,
    pub error_name: String,
    pub error_text: String,
    /// ECU, version before, version after.
    pub ecus: Vec<(String, String, String)>,
    pub hash: String,
}

/// Manager.GetRefusals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct RefusalEntry {
    pub at: i64,
    pub update: String,
    pub error_name: String,
    pub text: String,
}

/// BackendLink.GetStatus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct LinkStatus {
    pub provisioned: bool,
    pub device: String,
    pub connected: bool,
    pub outbox: u64,
    pub last_contact: i64,
    pub key_store: String,
}

/// Downloader.GetUsage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct CacheUsage {
    pub cached: u64,
    pub budget: u64,
    pub fetched: u64,
}

/// Validator.OpenAdmitted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct AdmittedBundle {
    pub verity_root: String,
    pub hardware: String,
    pub counter: u64,
    pub manifest_hash: String,
    pub version: String,
    pub length: u64,
    /// Unix time, seconds.
    pub admitted_at: i64,
}

impl AdmittedBundle {
    /// Longest time between admission and installation: a decision is good for 30 days, and the update it started may take as long again.
    pub const MAX_AGE_SECS: i64 = 60 * 24 * 60 * 60;

    /// The time at which an installer judges the signature: that of the admission, so that a certificate which expires meanwhile
    /// does not stop a running update (nor its undoing). Never in the future, and no earlier than [`Self::MAX_AGE_SECS`] ago, whatever
    /// is claimed. `now`: Unix time, seconds.
    pub fn judged_at(&self, now: i64) -> i64 {
        self.admitted_at.clamp(now.saturating_sub(Self::MAX_AGE_SECS), now)
    }
}

/// Validator.GetStatus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct ValidatorStatus {
    pub key_store: String,
    pub trusted: bool,
    pub director_version: u64,
    pub last_error: String,
}

/// Hmi.Ask: the five facts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct Facts {
    pub purpose: String,
    pub changes: String,
    pub expected_secs: u32,
    pub unavailable: String,
    pub instructions: String,
}

/// Hmi.GetAnswer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct Answer {
    /// `now`, `at`, `later`, `no`, or empty: none yet.
    pub choice: String,
    pub at: i64,
    pub origin: String,
    pub answered_at: i64,
    pub text_digest: String,
}

/// Flasher.ListEcus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct EcuDescription {
    pub ecu: String,
    pub bus: String,
    pub address: String,
    pub banks: String,
    pub hardware: String,
    pub via: String,
}

/// Flasher.ReadVersions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct EcuVersions {
    pub ecu: String,
    pub hardware: String,
    pub version: String,
    pub software_number: String,
    pub serial: String,
    pub error_name: String,
}

/// SelfUpdate.GetSlots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct SlotStatus {
    pub name: String,
    pub booted: bool,
    /// `good`, `bad`, `trying` or `empty`.
    pub state: String,
    pub version: String,
    pub hardware: String,
    pub primary: bool,
}

/// SelfUpdate.GetRelease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct SlotRelease {
    pub software_number: String,
    pub version: String,
    pub counter: u64,
    pub hardware: String,
}

/// UdsServer.GetStatus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct UdsServerStatus {
    pub testers: u32,
    pub session: String,
    pub requests: u64,
}

/// VehicleState.GetSignals.
#[derive(Debug, PartialEq, Serialize, Deserialize, Type)]
pub struct SignalStatus {
    pub name: String,
    pub value: OwnedVariant,
    /// Milliseconds since it was received, -1 for never.
    pub age_ms: i64,
    pub fresh: bool,
}

/// VehicleState.Evaluate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Type)]
pub struct ConditionResult {
    pub condition: String,
    pub holds: bool,
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::AdmittedBundle;

    #[test]
    fn a_signature_is_judged_as_of_the_admission_but_not_as_of_any_time_that_is_claimed() {
        let at = |admitted_at| AdmittedBundle { admitted_at, ..AdmittedBundle::default() };
        let now = 1_800_000_000;
        assert_eq!(at(now - 100).judged_at(now), now - 100);
        assert_eq!(at(now + 100).judged_at(now), now);
        assert_eq!(at(0).judged_at(now), now - AdmittedBundle::MAX_AGE_SECS);
        assert_eq!(at(i64::MIN).judged_at(i64::MIN), i64::MIN);
    }
}
