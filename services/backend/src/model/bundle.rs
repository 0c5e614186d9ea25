use std::collections::BTreeMap;

use pitstop_types::{HardwareId, PromptFacts, SoftwareVersion, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A bundle whose signature and every block have been checked on upload. What it says of itself comes out of its signed manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bundle {
    pub id: String,
    /// File name given on upload; for people only.
    pub name: String,
    /// Target path in both Uptane repositories: `HARDWARE/VERSION.raucb`.
    pub path: String,
    /// Lower-case hexadecimal; also the file's name in the object store.
    pub sha256: String,
    pub sha512: String,
    /// Bytes.
    pub length: u64,
    /// `ecu` or `tcu`.
    pub kind: String,
    #[schema(value_type = String)]
    pub hardware: HardwareId,
    #[schema(value_type = String)]
    pub version: SoftwareVersion,
    pub counter: u64,
    /// SHA-256 over the bundle manifest.
    pub manifest_hash: String,
    /// Once it is committed, nothing below this counter may return to the ECU. Set when a release that says so is published.
    pub security_floor: Option<u64>,
    pub created_at: UnixSeconds,
}

/// What a release is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseKind {
    /// Offered to vehicles; the driver's information is mandatory.
    Update,
    /// Software that vehicles already run (from the factory, or of an earlier process): listed so that it can be gone back to, never offered.
    Initial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    Draft,
    Published,
    /// No longer offered. Its bundles stay listed for vehicles that run them, as what they go back to.
    Withdrawn,
}

impl ReleaseState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// After the update every fitted ECU of `hardware` must run one of `versions`, by this release or already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    #[schema(value_type = String)]
    pub hardware: HardwareId,
    #[schema(value_type = Vec<String>)]
    pub versions: Vec<SoftwareVersion>,
}

/// The form of [`PromptFacts`] in the document of the operators' interface. Texts: 1 to 2000 bytes each.
#[derive(ToSchema)]
#[schema(as = PromptFacts)]
pub struct Facts {
    /// Why: purpose and criticality.
    pub purpose: String,
    /// What changes for the driver.
    pub changes: String,
    /// Expected time to install, in seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub expected_secs: u32,
    /// What will not work meanwhile.
    pub unavailable: String,
    /// What to do, and what not to.
    pub instructions: String,
}

/// Bundles that are released together: at most one per hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    pub id: String,
    pub name: String,
    pub kind: ReleaseKind,
    pub state: ReleaseState,
    /// Ids of its bundles.
    pub bundles: Vec<String>,
    /// What the driver is told (UN R156 7.2.2.2). May be incomplete in a draft.
    #[schema(value_type = Option<Facts>)]
    pub facts: Option<PromptFacts>,
    /// Versions that may be updated, per hardware. A hardware without an entry may come from any version.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub allowed_from: BTreeMap<HardwareId, Vec<SoftwareVersion>>,
    #[serde(default)]
    pub depends: Vec<Dependency>,
    /// Release counters below which nothing may return once this release is committed, per hardware. Most releases have none.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub security_floors: BTreeMap<HardwareId, u64>,
    pub created_at: UnixSeconds,
    pub published_at: Option<UnixSeconds>,
    pub withdrawn_reason: Option<String>,
}
