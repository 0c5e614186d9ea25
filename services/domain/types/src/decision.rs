use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    CampaignId, Digest, EcuId, HardwareId, PromptFacts, PromptFactsError, ReleaseCounter, SoftwareVersion, UnixSeconds,
    UpdateId, Vin,
};

/// A vehicle has at most this many ECUs in one decision; more is refused before it is stored.
pub const MAX_DECISION_ECUS: usize = 64;

/// What the Director and the Image repository together let this vehicle install. Only `validator` makes one,
/// after the full verification; it is stored whole, so that nothing that expires later can change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub vin: Vin,
    pub update: UpdateId,
    pub campaign: CampaignId,
    /// Until then the update may start without a network.
    pub install_by: UnixSeconds,
    pub facts: PromptFacts,
    /// Condition expressions of the campaign, judged in the vehicle beside its own.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// Versions of the metadata this follows from, for the log and for evidence.
    pub director_targets_version: u64,
    pub image_targets_version: u64,
    pub ecus: Vec<EcuDecision>,
}

/// One ECU's part: what it shall run, and what it is known to run now and goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcuDecision {
    pub ecu: EcuId,
    pub target: SoftwareRef,
    /// Without one the step could not be undone; `manager` refuses that before a byte is fetched.
    pub fallback: Option<SoftwareRef>,
}

/// One bundle, as both repositories list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftwareRef {
    /// Target path in the repositories.
    pub name: String,
    /// Length of the bundle file in bytes.
    pub length: u64,
    pub sha256: Digest,
    /// SHA-512 of the bundle in lower-case hexadecimal, where the metadata gives one; then it must match too.
    #[serde(default)]
    pub sha512: Option<String>,
    pub version: SoftwareVersion,
    pub hardware: HardwareId,
    pub counter: ReleaseCounter,
    /// SHA-256 over the bundle manifest: `require-manifest-hash` in RAUC's words.
    pub manifest_hash: Digest,
}

/// Why a decision is not one, although its signatures are good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    #[error("the decision names no ECU")]
    Empty,
    #[error("the decision names {0} ECUs, more than {MAX_DECISION_ECUS}")]
    TooMany(usize),
    #[error("the decision names ECU {0} twice")]
    Twice(EcuId),
    #[error("the decision pairs ECU {0} with a target for hardware {1} and a fallback for hardware {2}")]
    Hardware(EcuId, HardwareId, HardwareId),
    #[error(transparent)]
    Facts(#[from] PromptFactsError),
}

impl Decision {
    /// The sense of the decision, once its signatures are known to be good.
    pub fn check(&self) -> Result<(), DecisionError> {
        if self.ecus.is_empty() {
            return Err(DecisionError::Empty);
        }
        if self.ecus.len() > MAX_DECISION_ECUS {
            return Err(DecisionError::TooMany(self.ecus.len()));
        }
        let mut seen = BTreeSet::new();
        for part in &self.ecus {
            if !seen.insert(&part.ecu) {
                return Err(DecisionError::Twice(part.ecu.clone()));
            }
            if let Some(fallback) = &part.fallback
                && fallback.hardware != part.target.hardware
            {
                return Err(DecisionError::Hardware(
                    part.ecu.clone(),
                    part.target.hardware.clone(),
                    fallback.hardware.clone(),
                ));
            }
        }
        self.facts.check()?;
        Ok(())
    }

    /// The part for `ecu`, if it has one.
    pub fn ecu(&self, ecu: &EcuId) -> Option<&EcuDecision> {
        self.ecus.iter().find(|part| part.ecu == *ecu)
    }
}
