//! What the backend knows, as types. They are stored as they are and shown by REST as they are.

mod assignment;
mod bundle;
mod campaign;
mod evidence;
mod vehicle;

pub use assignment::{Assignment, AssignmentState, Claimed, PlanPart};
pub use bundle::{Bundle, Dependency, Facts, Release, ReleaseKind, ReleaseState};
pub use campaign::{
    Campaign, CampaignSpec, CampaignState, Deadlines, Gate, Select, SpecError, Stage, StopRule, Window,
};
pub use evidence::{AuditEntry, Claim, Event, Issued, MetaFile, Role, Transition};
pub use vehicle::{Ecu, StatusItem, Vehicle};

/// A new random identifier: `prefix-` and 32 hexadecimal digits.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}
