//! Why metadata is refused. The names are stable: they go into logs, D-Bus errors and reports to the backend.

use std::fmt;

use pitstop_types::{Digest, EcuId, HardwareId, ReleaseCounter, UnixSeconds};

use crate::{Repository, Time};

/// Which file an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    pub repository: Repository,
    /// `root`, `timestamp`, `snapshot`, `targets` or the name of a delegated role.
    pub role: String,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.repository, self.role)
    }
}

/// What is wrong with the metadata, and so which attack it would be (Uptane standard, "Deployment considerations").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("{at}: no signature at all")]
    Unsigned { at: At },
    #[error("{at}: {good} good signatures of different keys, {threshold} are needed")]
    UnmetThreshold { at: At, good: usize, threshold: u64 },
    #[error("{at}: a key id is wrong or stands twice: {text}")]
    BadKeyId { at: At, text: String },
    #[error("{at}: expired at {expires}")]
    Expired { at: At, expires: Time },
    #[error("{at}: version {version}, but {known} is known already")]
    Rollback { at: At, version: u64, known: u64 },
    #[error("ECU {ecu}: release counter {counter} is below the floor {floor}")]
    ImageRollback { ecu: EcuId, counter: ReleaseCounter, floor: ReleaseCounter },
    /// The same attack as [`Self::ImageRollback`], above the floor: an old image that is still listed.
    #[error("ECU {ecu}: release counter {counter} is lower than {running}, which it runs and would go back to")]
    OlderImage { ecu: EcuId, counter: ReleaseCounter, running: ReleaseCounter },
    #[error("{at}: {text}")]
    MixAndMatch { at: At, text: String },
    #[error("target {path}: {text}")]
    TargetMismatch { path: String, text: String },
    #[error("target {path} is for hardware {stated}, ECU {ecu} is {fitted}")]
    BadHardwareId { path: String, ecu: EcuId, stated: String, fitted: HardwareId },
    #[error("ECU {ecu}: {text}")]
    BadEcuId { ecu: String, text: String },
    #[error("{at}: {length} bytes, at most {limit} are taken")]
    Oversized { at: At, length: usize, limit: usize },
    #[error("{at}: made for another vehicle")]
    Replay { at: At },
    #[error("the time is not known, so nothing can be said to be valid")]
    TimeUnknown,
    #[error("{at}: made for the other repository")]
    RepositoryConfusion { at: At },
    #[error("{at}: the repository does not have it")]
    Missing { at: At },
    #[error("{at}: {text}")]
    Malformed { at: At, text: String },
    #[error("install-by time {install_by} is past, or more than 30 days ahead")]
    InstallBy { install_by: UnixSeconds },
    /// What was stored on this device does not verify any more: fail closed, ask for service.
    #[error("{at}: the stored copy is damaged: {text}")]
    StoreCorrupt { at: At, text: String },
    #[error("the verification was asked for something out of order")]
    OutOfOrder,
}

impl VerifyError {
    /// Stable name of the error, one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "Unsigned",
            Self::UnmetThreshold { .. } => "UnmetThreshold",
            Self::BadKeyId { .. } => "BadKeyId",
            Self::Expired { .. } => "Expired",
            Self::Rollback { .. } => "Rollback",
            Self::ImageRollback { .. } | Self::OlderImage { .. } => "ImageRollback",
            Self::MixAndMatch { .. } => "MixAndMatch",
            Self::TargetMismatch { .. } => "TargetMismatch",
            Self::BadHardwareId { .. } => "BadHardwareId",
            Self::BadEcuId { .. } => "BadEcuId",
            Self::Oversized { .. } => "Oversized",
            Self::Replay { .. } => "Replay",
            Self::TimeUnknown => "TimeUnknown",
            Self::RepositoryConfusion { .. } => "RepositoryConfusion",
            Self::Missing { .. } => "Missing",
            Self::Malformed { .. } => "Malformed",
            Self::InstallBy { .. } => "InstallBy",
            Self::StoreCorrupt { .. } => "StoreCorrupt",
            Self::OutOfOrder => "OutOfOrder",
        }
    }

    pub(crate) fn malformed(at: &At, text: impl Into<String>) -> Self {
        Self::Malformed { at: at.clone(), text: text.into() }
    }

    pub(crate) fn mixed(at: &At, text: impl Into<String>) -> Self {
        Self::MixAndMatch { at: at.clone(), text: text.into() }
    }

    pub(crate) fn mismatch(path: &str, text: impl Into<String>) -> Self {
        Self::TargetMismatch { path: path.to_owned(), text: text.into() }
    }

    pub(crate) fn hash(at: &At, found: Digest) -> Self {
        Self::mixed(at, format!("its SHA-256 {found} is not the one its parent lists"))
    }
}
