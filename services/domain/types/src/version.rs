use std::fmt;

use serde::{Deserialize, Serialize};

/// Software version as people and DID F189 name it (`4.2.0`). Compared for equality only: order is the release counter's business.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SoftwareVersion(String);

/// Why a text is not a software version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a software version is 1 to 32 printable ASCII characters without space")]
pub struct VersionError;

impl SoftwareVersion {
    pub const MAX_LEN: usize = 32;

    pub fn new(text: impl Into<String>) -> Result<Self, VersionError> {
        let text = text.into();
        let legal = !text.is_empty() && text.len() <= Self::MAX_LEN && text.bytes().all(|b| b.is_ascii_graphic());
        if legal { Ok(Self(text)) } else { Err(VersionError) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SoftwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for SoftwareVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        Self::new(text)
    }
}
impl std::str::FromStr for SoftwareVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::new(text)
    }
}
impl From<SoftwareVersion> for String {
    fn from(version: SoftwareVersion) -> String {
        version.0
    }
}

/// Counts an ECU's releases. A floor is compared with it; equal is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseCounter(pub u64);

impl fmt::Display for ReleaseCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
