//! What the flasher needs from outside, as narrow as its use.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_bundle::Description;
use pitstop_dbus::OtaError;
use pitstop_flashing::Outcome;
use pitstop_flashing::Profile;
use pitstop_flashing::vehicle::{Bus, Ecu};
use pitstop_types::{EcuId, HardwareId, ReleaseCounter, SoftwareVersion, UpdateId};
use pitstop_uds::{Addressing, Request, StepLimits};

/// A diagnostic session with one ECU.
#[async_trait]
pub trait EcuLink: Send {
    /// Sends a request and waits for its end. `quiet`: no positive answer is wanted.
    async fn ask(&mut self, request: &Request, addressing: Addressing, quiet: bool, limits: StepLimits) -> Outcome;
    /// Waits, keeping the session alive.
    async fn idle(&mut self, time: Duration);
    /// Drops the connection and makes a new one; on CAN it only forgets what was under way. `Err` says why there is none.
    async fn reopen(&mut self) -> Result<(), String>;
}

/// Makes links.
#[async_trait]
pub trait Links: Send + Sync {
    /// Errors: the bus cannot be reached.
    async fn open(&self, bus: &Bus, ecu: &Ecu, profile: &Profile) -> Result<Box<dyn EcuLink>, OtaError>;
}

/// Which bundle of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Target,
    Fallback,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Fallback => "fallback",
        }
    }
}

/// A bundle's content, signature checked.
pub struct Software {
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    pub counter: ReleaseCounter,
    /// SHA-256 of the bundle manifest, in hexadecimal: names the content in the record.
    pub digest: String,
    pub description: Arc<Description>,
    pub payload: Box<dyn Payload>,
}

/// `payload.bin`, each block checked against the hash tree as it is read.
#[async_trait]
pub trait Payload: Send {
    async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, OtaError>;
}

/// Where admitted bundles come from.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// Errors: `NotAdmitted`, `BadBundle`, `BadSignature`, `HashMismatch`, `TimeUnknown`, or of the bus.
    async fn open(&self, update: &UpdateId, ecu: &EcuId, role: Role) -> Result<Software, OtaError>;
}

/// Who says whether something unsafe may begin.
#[async_trait]
pub trait Safety: Send + Sync {
    /// The driver's stored answer allows the update now. Error: `NoConsent`.
    async fn consented(&self, update: &UpdateId) -> Result<(), OtaError>;
    /// Standstill, and drive inhibit acknowledged. Error: `NotSafe`.
    async fn safe(&self) -> Result<(), OtaError>;
}

/// Keys for 0x27.
pub trait Keys: Send + Sync {
    /// `Err` says why there is none; it never contains the secret or the seed.
    fn key(&self, ecu: &EcuId, plugin: &str, level: u8, seed: &[u8]) -> Result<Vec<u8>, String>;
}
