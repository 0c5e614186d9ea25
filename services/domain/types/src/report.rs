use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EcuId, HardwareId, SoftwareVersion};

/// What one ECU says of itself, read from it just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcuReport {
    pub ecu: EcuId,
    pub hardware: HardwareId,
    /// `None`: it runs its bootloader and has no valid software.
    pub version: Option<SoftwareVersion>,
    /// ECU software number, DID F188.
    pub software_number: String,
    pub serial: String,
}

/// How a vehicle update ended. The words are those of the backend, the bus and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateEnd {
    /// Everything runs the new software, read back after the restart.
    AllNew,
    /// Everything runs what it ran before.
    AllOld,
    /// A named ECU is in its bootloader or does not answer.
    NeedsWorkshop,
    /// The driver said no.
    Declined,
    /// Verification or the plan refused it.
    Refused,
    /// The backend put a newer one in its place before anything changed.
    Superseded,
    /// Cancelled by who started it before anything changed.
    Cancelled,
    /// `install_by` passed before anything changed.
    Expired,
}

impl UpdateEnd {
    pub const ALL: [Self; 8] = [
        Self::AllNew,
        Self::AllOld,
        Self::NeedsWorkshop,
        Self::Declined,
        Self::Refused,
        Self::Superseded,
        Self::Cancelled,
        Self::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllNew => "all-new",
            Self::AllOld => "all-old",
            Self::NeedsWorkshop => "needs-workshop",
            Self::Declined => "declined",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for UpdateEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
