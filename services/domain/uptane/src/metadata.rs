//! The four roles' files as types, for both repositories and both sides.
//!
//! Fields that are not named here are ignored when a file is read; its signature still covers them.

mod delegations;
mod offline;
mod root;
mod targets;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use pitstop_types::Digest;
use serde::{Deserialize, Serialize};

pub use delegations::{DelegatedRole, Delegates, Delegation, Delegations, MAX_DELEGATED_ROLES, is_role_name};
pub use offline::{OfflineSnapshot, OfflineTargets};
pub use root::{Root, RootBuilder};
pub use targets::{
    DirectorCustom, DirectorTarget, EcuPairing, ImageCustom, ImageTarget, Order, PairingRole, ShallMatch, TargetEntry,
    Targets, is_target_path,
};

use crate::{SignedFile, Time};

/// The version of the TUF specification whose format this is.
pub const SPEC_VERSION: &str = "1.0.31";

/// One of the two repositories; both must agree before anything is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repository {
    /// Says which vehicle gets what, with keys that are online.
    Director,
    /// Lists all software there is, with keys that are offline.
    Image,
}

impl Repository {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Director => "director",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The top-level roles: the four of every repository, and the Director's two for updates without a network (PURE-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Root,
    Timestamp,
    Snapshot,
    Targets,
    OfflineSnapshot,
    OfflineTargets,
}

impl Role {
    /// The four that every root must list.
    pub const ALL: [Self; 4] = [Self::Root, Self::Timestamp, Self::Snapshot, Self::Targets];
    /// The two that the Director's root may list besides.
    pub const OFFLINE: [Self; 2] = [Self::OfflineSnapshot, Self::OfflineTargets];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::OfflineSnapshot => "offline-snapshot",
            Self::OfflineTargets => "offline-targets",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Metadata that has the right form and yet makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub(crate) String);

impl BuildError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What the four kinds of files have in common.
pub trait Metadata: Serialize + for<'de> Deserialize<'de> {
    /// The role that signs it, which is the value of `_type`.
    const TYPE: Role;
    fn header(&self) -> &Header;
    /// What must hold in this file alone, whoever signed it.
    fn check(&self) -> Result<(), BuildError>;

    fn version(&self) -> u64 {
        self.header().version.get()
    }
    fn expires(&self) -> Time {
        self.header().expires
    }
}

/// The fields at the head of every file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    #[serde(rename = "_type")]
    pub kind: Role,
    pub spec_version: String,
    /// At least 1; at most 2^53, which the reader of the bytes sees to.
    pub version: NonZeroU64,
    pub expires: Time,
}

impl Header {
    pub(crate) fn new(kind: Role, version: NonZeroU64, expires: Time) -> Self {
        Self { kind, spec_version: SPEC_VERSION.to_owned(), version, expires }
    }

    pub(crate) fn check(&self, kind: Role) -> Result<(), BuildError> {
        if self.kind != kind {
            return Err(BuildError::new(format!("it says it is {}, not {kind}", self.kind)));
        }
        let known = self.spec_version == "1.0" || self.spec_version.starts_with("1.0.");
        if !known || self.spec_version.len() > 16 {
            return Err(BuildError::new("its spec_version is not 1.0"));
        }
        Ok(())
    }
}

/// What one file says of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub version: NonZeroU64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<FileHashes>,
}

/// Hashes of a metadata file. SHA-256 is always there; others may stand beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHashes {
    pub sha256: Digest,
}

impl FileMeta {
    /// What a parent says of `file`: version, length and hash.
    pub fn of(file: &SignedFile) -> Result<Self, BuildError> {
        let version = NonZeroU64::new(file.version).ok_or_else(|| BuildError::new("version 0"))?;
        let hashes = Some(FileHashes { sha256: Digest::of(&file.bytes) });
        Ok(Self { version, length: Some(file.bytes.len() as u64), hashes })
    }
}

/// `timestamp.json`: which snapshot is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    #[serde(flatten)]
    pub header: Header,
    /// Exactly one entry, `snapshot.json`, with a hash.
    pub meta: BTreeMap<String, FileMeta>,
}

impl Timestamp {
    pub fn new(version: NonZeroU64, expires: Time, snapshot: &SignedFile) -> Result<Self, BuildError> {
        let meta = BTreeMap::from([("snapshot.json".to_owned(), FileMeta::of(snapshot)?)]);
        Ok(Self { header: Header::new(Role::Timestamp, version, expires), meta })
    }

    pub(crate) fn snapshot(&self) -> Result<&FileMeta, BuildError> {
        match (self.meta.get("snapshot.json"), self.meta.len()) {
            (Some(meta), 1) if meta.hashes.is_some() => Ok(meta),
            _ => Err(BuildError::new("it does not list exactly snapshot.json with its hash")),
        }
    }
}

impl Metadata for Timestamp {
    const TYPE: Role = Role::Timestamp;
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.header.check(Role::Timestamp)?;
        self.snapshot().map(drop)
    }
}

/// `snapshot.json`: which version of every targets file belongs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(flatten)]
    pub header: Header,
    pub meta: BTreeMap<String, FileMeta>,
}

/// More files than this in one snapshot are refused.
const MAX_SNAPSHOT_FILES: usize = 256;

impl Snapshot {
    /// Lists `targets` and any delegated roles by name (`targets`, `supplier-a`), each with its hash.
    pub fn new<'f>(
        version: NonZeroU64,
        expires: Time,
        files: impl IntoIterator<Item = (&'f str, &'f SignedFile)>,
    ) -> Result<Self, BuildError> {
        Ok(Self { header: Header::new(Role::Snapshot, version, expires), meta: list_files(files)? })
    }

    pub(crate) fn file(&self, role: &str) -> Option<&FileMeta> {
        self.meta.get(&format!("{role}.json"))
    }
}

/// Files by name, with what a snapshot says of each.
fn list_files<'f>(
    files: impl IntoIterator<Item = (&'f str, &'f SignedFile)>,
) -> Result<BTreeMap<String, FileMeta>, BuildError> {
    files.into_iter().map(|(name, file)| Ok((format!("{name}.json"), FileMeta::of(file)?))).collect()
}

impl Metadata for Snapshot {
    const TYPE: Role = Role::Snapshot;
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.header.check(Role::Snapshot)?;
        if self.file("targets").is_none() {
            return Err(BuildError::new("it does not list targets.json"));
        }
        if self.meta.len() > MAX_SNAPSHOT_FILES {
            return Err(BuildError::new(format!("it lists more than {MAX_SNAPSHOT_FILES} files")));
        }
        Ok(())
    }
}
