//! Keys that this device holds: ECDSA P-256, made in the TPM at provisioning, at fixed persistent handles, never outside it.
//!
//! [`DeviceKey`] is what users see; [`open`] and [`ensure`] find or make one as the configuration says. [`tls`] makes rustls and certificate
//! requests use it. Without the feature `tpm` only file keys exist: for tests, and only where the configuration admits to it.
//!
//! [`floor`] keeps the rollback floor in the same TPM.

mod file;
pub mod floor;
pub mod tls;
#[cfg(feature = "tpm")]
mod tpm;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

/// Where a key is kept and what it is for. Services use handles only: the TPM's few transient slots are shared by all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRole {
    /// backend-link's TLS client key.
    Tls,
    /// validator's key for version manifests.
    Identity,
}

impl KeyRole {
    /// Persistent handle in the TPM, in the range the TPM's owner may use (TPM 2.0 Part 2, 7.5).
    pub fn handle(self) -> u32 {
        match self {
            Self::Tls => 0x8100_0010,
            Self::Identity => 0x8100_0011,
        }
    }
}

/// The part of a service's configuration that says where its key is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    pub store: KeyStore,
    /// How to reach the TPM, in the TSS's words: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
    #[serde(default)]
    pub tcti: Option<String>,
    /// File of a file key.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Must be true before a file key is used at all. A production image leaves it out.
    #[serde(default)]
    pub insecure_file_keys: bool,
}

/// Kinds of key stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStore {
    Tpm,
    File,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("file keys are for tests; the configuration does not set insecure_file_keys")]
    FileKeysForbidden,
    #[error("the configuration lacks {0}")]
    Missing(&'static str),
    #[error("this build has no TPM support")]
    NoTpmSupport,
    #[error("{action} at TPM handle {handle:#x}: {text}")]
    Tpm { action: &'static str, handle: u32, text: String },
    #[error("TPM handle {0:#x} holds something other than a P-256 signing key made in this TPM")]
    Foreign(u32),
    #[error("{action} key file {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("key file {} holds no P-256 key", .0.display())]
    FileContent(PathBuf),
    #[error("signing failed")]
    Signing,
    #[error("certificate: {0}")]
    Certificate(String),
}

/// An ECDSA P-256 key that signs and is never shown.
pub trait DeviceKey: fmt::Debug + Send + Sync {
    /// The public point, uncompressed (SEC 1, 2.3.3): 04, x, y.
    fn public_point(&self) -> &[u8; 65];

    /// ECDSA over SHA-256 of `message`; the signature in DER. Blocks for some ten milliseconds.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// `tpm` or `file`, for status.
    fn store(&self) -> &'static str;

    /// SubjectPublicKeyInfo in DER (RFC 5480).
    fn public_der(&self) -> Vec<u8> {
        let mut der = P256_SPKI_PREFIX.to_vec();
        der.extend_from_slice(self.public_point());
        der
    }

    /// SubjectPublicKeyInfo in PEM.
    fn public_pem(&self) -> String {
        tls::pem("PUBLIC KEY", &self.public_der())
    }
}

/// RFC 5480: everything before the point in the SubjectPublicKeyInfo of an uncompressed P-256 key.
const P256_SPKI_PREFIX: &[u8; 26] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key of `role`, if it was made. Paths in `settings` are used as they are.
pub fn open(settings: &KeySettings, role: KeyRole) -> Result<Option<Arc<dyn DeviceKey>>, KeyError> {
    match settings.store {
        KeyStore::Tpm => tpm_open(settings, role),
        KeyStore::File => Ok(file::open(file_path(settings)?)?.map(|k| Arc::new(k) as _)),
    }
}

/// The key of `role`, made now if it was not yet: provisioning's first step. Doing it again finds the same key.
pub fn ensure(settings: &KeySettings, role: KeyRole) -> Result<Arc<dyn DeviceKey>, KeyError> {
    if let Some(key) = open(settings, role)? {
        return Ok(key);
    }
    match settings.store {
        KeyStore::Tpm => tpm_create(settings, role)?,
        KeyStore::File => file::create(file_path(settings)?)?,
    }
    open(settings, role)?.ok_or(KeyError::Signing)
}

/// What a status call answers when there is no key yet.
pub const NO_KEY: &str = "none";

fn file_path(settings: &KeySettings) -> Result<&std::path::Path, KeyError> {
    if !settings.insecure_file_keys {
        return Err(KeyError::FileKeysForbidden);
    }
    log::warn!("using a key in a file: for tests only, anybody who reads the disk is this device");
    settings.file.as_deref().ok_or(KeyError::Missing("file of the file key"))
}

#[cfg(feature = "tpm")]
fn tpm_open(settings: &KeySettings, role: KeyRole) -> Result<Option<Arc<dyn DeviceKey>>, KeyError> {
    let tcti = settings.tcti.as_deref().ok_or(KeyError::Missing("tcti"))?;
    Ok(tpm::open(tcti, role.handle())?.map(|k| Arc::new(k) as _))
}

#[cfg(feature = "tpm")]
fn tpm_create(settings: &KeySettings, role: KeyRole) -> Result<(), KeyError> {
    let tcti = settings.tcti.as_deref().ok_or(KeyError::Missing("tcti"))?;
    tpm::create(tcti, role.handle())
}

#[cfg(not(feature = "tpm"))]
fn tpm_open(_: &KeySettings, _: KeyRole) -> Result<Option<Arc<dyn DeviceKey>>, KeyError> {
    Err(KeyError::NoTpmSupport)
}

#[cfg(not(feature = "tpm"))]
fn tpm_create(_: &KeySettings, _: KeyRole) -> Result<(), KeyError> {
    Err(KeyError::NoTpmSupport)
}
