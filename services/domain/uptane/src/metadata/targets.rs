use std::collections::BTreeMap;
use std::num::NonZeroU64;

use pitstop_types::{
    CampaignId, Digest, EcuId, HardwareId, PromptFacts, ReleaseCounter, SoftwareVersion, UnixSeconds, UpdateId, Vin,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::delegations::Delegations;
use super::{BuildError, Header, Metadata, Role};
use crate::Time;

/// Most targets in a Director's file: two per ECU of the largest vehicle.
pub(super) const MAX_DIRECTOR_TARGETS: usize = 128;
/// Most conditions of a campaign.
const MAX_CONDITIONS: usize = 32;
/// Most bytes in one condition.
const MAX_ORDER_TEXT: usize = 1024;

/// `targets.json`, or a delegated role's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    #[serde(flatten)]
    pub header: Header,
    pub targets: BTreeMap<String, TargetEntry>,
    /// Image repository only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Director only, and there always: whose file this is, so that no other vehicle takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vin: Option<Vin>,
    /// Director only: what the update is called and what the driver is told. Absent when there is nothing to do.
    #[serde(rename = "x-pitstop", default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// What the Director orders, beside which files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub update: UpdateId,
    pub campaign: CampaignId,
    /// Until then it may start without a network; at most 30 days ahead.
    pub install_by: UnixSeconds,
    pub facts: PromptFacts,
    /// Condition expressions of the campaign.
    #[serde(default)]
    pub conditions: Vec<String>,
}

/// One file that may be installed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetEntry {
    pub length: u64,
    pub hashes: TargetHashes,
    #[serde(default)]
    pub custom: Value,
}

/// Both are checked where both are there. Other functions are ignored: they add nothing to SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHashes {
    pub sha256: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
}

/// `custom.shall_match`: both repositories must say the very same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShallMatch {
    pub hardware_ids: Vec<HardwareId>,
    pub release_counter: ReleaseCounter,
    /// `rauc-verity`.
    pub format: String,
    /// SHA-256 over the bundle manifest.
    pub rauc_manifest_hash: Digest,
    pub sw_version: SoftwareVersion,
    /// After this software was committed, nothing below this release counter may return. Most releases have none: a floor
    /// is for older software that must never run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_floor: Option<ReleaseCounter>,
}

impl ShallMatch {
    /// The one bundle format.
    pub const FORMAT: &'static str = "rauc-verity";
}

/// What a path is for an ECU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairingRole {
    /// It shall run this.
    Target,
    /// It is known to run this, and goes back to it.
    Fallback,
    /// It runs this already and shall go on doing so.
    Both,
}

/// One ECU that a Director's path is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcuPairing {
    pub hardware_id: HardwareId,
    /// Where it differs from the path's role: one bundle may be the target of one ECU and the fallback of its twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<PairingRole>,
}

/// `custom` in the Director's targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorCustom {
    pub shall_match: ShallMatch,
    pub ecus: BTreeMap<EcuId, EcuPairing>,
    pub role: PairingRole,
}

/// `custom` in the Image repository's targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCustom {
    pub shall_match: ShallMatch,
}

/// One file as the Image repository lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTarget {
    pub length: u64,
    pub sha256: Digest,
    pub sha512: Option<String>,
    pub shall_match: ShallMatch,
}

/// One file as the Director lists it for one vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorTarget {
    pub image: ImageTarget,
    pub ecus: BTreeMap<EcuId, EcuPairing>,
    pub role: PairingRole,
}

impl Targets {
    /// An Image repository's file, still empty.
    pub fn image(version: NonZeroU64, expires: Time) -> Self {
        let header = Header::new(Role::Targets, version, expires);
        Self { header, targets: BTreeMap::new(), delegations: None, vin: None, order: None }
    }

    /// The Director's file for one vehicle; `None` says that there is nothing to do.
    pub fn director(version: NonZeroU64, expires: Time, vin: Vin, order: Option<Order>) -> Self {
        Self { vin: Some(vin), order, ..Self::image(version, expires) }
    }

    /// Lists a file in an Image repository's role.
    pub fn list_image(&mut self, path: &str, target: ImageTarget) -> Result<(), BuildError> {
        let custom = ImageCustom { shall_match: target.shall_match };
        self.list(path, target.length, target.sha256, target.sha512, &custom)
    }

    /// Directs a file to ECUs.
    pub fn list_director(&mut self, path: &str, target: DirectorTarget) -> Result<(), BuildError> {
        let DirectorTarget { image, ecus, role } = target;
        let custom = DirectorCustom { shall_match: image.shall_match, ecus, role };
        self.list(path, image.length, image.sha256, image.sha512, &custom)
    }

    fn list<C: Serialize>(
        &mut self,
        path: &str,
        length: u64,
        sha256: Digest,
        sha512: Option<String>,
        custom: &C,
    ) -> Result<(), BuildError> {
        let custom = serde_json::to_value(custom).map_err(|error| BuildError::new(error.to_string()))?;
        let entry = TargetEntry { length, hashes: TargetHashes { sha256, sha512 }, custom };
        entry.check(path)?;
        if self.targets.insert(path.to_owned(), entry).is_some() {
            return Err(BuildError::new(format!("target {path} is listed twice")));
        }
        Ok(())
    }
}

impl Metadata for Targets {
    const TYPE: Role = Role::Targets;
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.header.check(Role::Targets)?;
        self.check_content()
    }
}

impl Targets {
    /// What holds whoever signed it.
    pub(super) fn check_content(&self) -> Result<(), BuildError> {
        self.targets.iter().try_for_each(|(path, entry)| entry.check(path))?;
        if let Some(delegations) = &self.delegations {
            delegations.check()?;
        }
        if self.vin.is_some() && self.targets.len() > MAX_DIRECTOR_TARGETS {
            return Err(BuildError::new(format!("more than {MAX_DIRECTOR_TARGETS} targets")));
        }
        self.order.as_ref().map_or(Ok(()), Order::check)
    }
}

impl Order {
    fn check(&self) -> Result<(), BuildError> {
        self.facts.check().map_err(|error| BuildError::new(error.to_string()))?;
        if self.conditions.len() > MAX_CONDITIONS || self.conditions.iter().any(|text| text.len() > MAX_ORDER_TEXT) {
            return Err(BuildError::new("too many or too long conditions"));
        }
        Ok(())
    }
}

impl TargetEntry {
    fn check(&self, path: &str) -> Result<(), BuildError> {
        if !is_target_path(path) {
            return Err(BuildError::new(format!("{path:?} is no target path")));
        }
        let hex512 = |text: &String| text.len() == 128 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !self.hashes.sha512.as_ref().is_none_or(hex512) {
            return Err(BuildError::new(format!(
                "target {path}: its SHA-512 is not 128 lower-case hexadecimal digits"
            )));
        }
        Ok(())
    }
}

/// A target path has one to 255 bytes of `a-z A-Z 0-9 . _ + - /`, and no empty, `.` or `..` component. So it is the same in
/// every Unicode form, on every file system and in every URL.
pub fn is_target_path(path: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-' | b'/');
    (1..=255).contains(&path.len())
        && path.bytes().all(legal)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
