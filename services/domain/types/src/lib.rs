//! The words of the domain as types, each defined once.
//!
//! Every identifier is checked when it is made, whatever brings it in (configuration, D-Bus, metadata, a bundle),
//! so that a value of one of these types is safe in a file name, a D-Bus object path segment and a log line.

mod decision;
mod digest;
mod id;
mod prompt;
mod report;
mod version;

pub use decision::{Decision, DecisionError, EcuDecision, MAX_DECISION_ECUS, SoftwareRef};
pub use digest::{Digest, DigestError, Sha256Writer};
pub use id::{BusName, CampaignId, DeviceId, EcuId, HardwareId, IdError, SlotName, UpdateId, Vin};
pub use prompt::{PromptFacts, PromptFactsError, UserChoice};
pub use report::{EcuReport, UpdateEnd};
pub use version::{ReleaseCounter, SoftwareVersion, VersionError};

/// Wall-clock seconds since 1970-01-01T00:00:00Z. Zero or less is never a valid "now".
pub type UnixSeconds = i64;
