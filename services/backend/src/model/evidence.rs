use pitstop_types::{UnixSeconds, Vin};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AssignmentState;

/// One step of one assignment, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    pub at: UnixSeconds,
    pub assignment: String,
    pub campaign: String,
    #[schema(value_type = String)]
    pub vin: Vin,
    pub from: AssignmentState,
    pub to: AssignmentState,
    pub reason: String,
}

/// Something that happened to one vehicle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub at: UnixSeconds,
    #[schema(value_type = String)]
    pub vin: Vin,
    /// `manifest`, `manifest-refused`, `status`, `presence`, `provisioned`, `authorisation`, `transition`, ...
    pub kind: String,
    pub text: String,
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// A provisioning token for one device, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub token_hash: String,
    pub vin: Vin,
    pub expires_at: UnixSeconds,
    pub used_at: Option<UnixSeconds>,
    /// What it was used for; none also where it was used before this was kept.
    pub issued: Option<Issued>,
}

/// The device that a token made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub device: String,
    /// SHA-256 of the public key that its certificate is for.
    pub key_sha256: String,
}

/// One line of the audit log; `hash` covers `previous` and every other field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub seq: u64,
    pub at: UnixSeconds,
    pub actor: String,
    pub action: String,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    pub previous: String,
    pub hash: String,
}

/// The three roles that the backend signs while it runs; roots are made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Targets,
    Snapshot,
    Timestamp,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }
}

/// One signed metadata file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaFile {
    pub role: Role,
    pub version: u64,
    pub expires: UnixSeconds,
    pub bytes: Vec<u8>,
}
