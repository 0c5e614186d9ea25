//! What the service needs of the world outside, as narrow as its use.

use async_trait::async_trait;
use pitstop_dbus::OtaError;
use pitstop_types::{EcuId, HardwareId, SoftwareVersion, UnixSeconds};
use pitstop_uptane::{Repository, Signer};

/// Where metadata files come from. What it brings is not believed.
#[async_trait]
pub trait MetadataSource: Send + Sync {
    /// At most `limit` bytes of a file; `None`: the repository does not have it.
    async fn fetch(&self, repository: Repository, file: &str, limit: usize) -> Result<Option<Vec<u8>>, OtaError>;
}

/// What an ECU says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcuReading {
    pub ecu: EcuId,
    pub hardware: HardwareId,
    /// `None`: it runs its bootloader, or did not answer.
    pub version: Option<SoftwareVersion>,
    pub software_number: String,
    pub serial: String,
    pub answered: bool,
}

/// Reads versions from the ECUs themselves.
#[async_trait]
pub trait VersionSource: Send + Sync {
    /// All fitted ECUs, the TCU among them. An error only if the TCU cannot be read.
    async fn read_all(&self) -> Result<Vec<EcuReading>, OtaError>;

    /// The TCU alone.
    async fn read_tcu(&self) -> Result<EcuReading, OtaError>;
}

/// The ECU identity key of the TCU. Signing may take a while: it is called on a blocking thread.
pub trait Identity: Signer + Send + Sync {
    /// Where the key is: `tpm` or `file`.
    fn store(&self) -> &'static str;
}

/// The wall clock; `None` while it is not known.
pub type Clock = fn() -> Option<UnixSeconds>;
