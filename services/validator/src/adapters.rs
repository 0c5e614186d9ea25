//! The world outside, as the ports want it: other services over D-Bus, and the device's key.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{BackendLinkProxy, EcuVersions, FlasherProxy, OtaError, SelfUpdateProxy};
use pitstop_tpm::DeviceKey;
use pitstop_types::{EcuId, HardwareId, SoftwareVersion};
use pitstop_uptane::{PublicKey, Repository, SignError, Signer};

use crate::ports::{EcuReading, Identity, MetadataSource, VersionSource};

/// Longest text taken over from an ECU, in characters; ISO 14229-1 identification is shorter.
const MAX_TEXT: usize = 32;

/// Metadata through `BackendLink`.
pub(crate) struct BackendLink {
    pub(crate) proxy: BackendLinkProxy<'static>,
}

#[async_trait]
impl MetadataSource for BackendLink {
    async fn fetch(&self, repository: Repository, file: &str, limit: usize) -> Result<Option<Vec<u8>>, OtaError> {
        match self.proxy.fetch_metadata(repository.as_str(), file, limit as u64).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(OtaError::NotFound(_)) => Ok(None),
            Err(OtaError::TooLarge(text)) => Err(OtaError::Oversized(text)),
            Err(error) => Err(waiting(error)),
        }
    }
}

/// Versions from `Flasher` and `SelfUpdate`.
pub(crate) struct Ecus {
    pub(crate) flasher: FlasherProxy<'static>,
    pub(crate) self_update: SelfUpdateProxy<'static>,
    /// What may be fitted; an ECU that does not answer is reported with what is known of it.
    pub(crate) fitted: BTreeMap<EcuId, HardwareId>,
    /// Serial number of the TCU.
    pub(crate) tcu_serial: String,
}

#[async_trait]
impl VersionSource for Ecus {
    async fn read_all(&self) -> Result<Vec<EcuReading>, OtaError> {
        let tcu = self.read_booted().await?;
        let answers = self.flasher.read_versions(&[]).await.map_err(waiting)?;
        let others = self.fitted.iter().filter(|(ecu, _)| !ecu.is_tcu());
        let readings = others.map(|(ecu, hardware)| reading(ecu, hardware, &answers));
        Ok(std::iter::once(tcu).chain(readings).collect())
    }

    async fn read_tcu(&self) -> Result<EcuReading, OtaError> {
        self.read_booted().await
    }
}

impl Ecus {
    /// The booted slot speaks for the TCU.
    async fn read_booted(&self) -> Result<EcuReading, OtaError> {
        let slots = self.self_update.get_slots().await.map_err(waiting)?;
        let missing = || OtaError::EcuNotResponding("the TCU's booted slot cannot be read".to_owned());
        let slot = slots.into_iter().find(|slot| slot.booted).ok_or_else(missing)?;
        let version = SoftwareVersion::new(slot.version).map_err(|_| missing())?;
        let fitted = self.fitted.get(&EcuId::tcu()).cloned();
        let hardware = HardwareId::new(slot.hardware).ok().or(fitted).ok_or_else(missing)?;
        Ok(EcuReading {
            ecu: EcuId::tcu(),
            hardware,
            version: Some(version),
            software_number: String::new(),
            serial: self.tcu_serial.clone(),
            answered: true,
        })
    }
}

fn reading(ecu: &EcuId, fitted: &HardwareId, answers: &[EcuVersions]) -> EcuReading {
    let answer = answers.iter().find(|answer| answer.ecu == ecu.as_str() && answer.error_name.is_empty());
    let Some(answer) = answer else {
        return EcuReading {
            ecu: ecu.clone(),
            hardware: fitted.clone(),
            version: None,
            software_number: String::new(),
            serial: String::new(),
            answered: false,
        };
    };
    EcuReading {
        ecu: ecu.clone(),
        hardware: HardwareId::new(answer.hardware.clone()).unwrap_or_else(|_| fitted.clone()),
        // Empty: its bootloader runs.
        version: SoftwareVersion::new(answer.version.clone()).ok(),
        software_number: short(&answer.software_number),
        serial: short(&answer.serial),
        answered: true,
    }
}

/// What an ECU says of itself goes into a manifest of limited size.
fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A service that is not there (yet) is a matter of waiting.
fn waiting(error: OtaError) -> OtaError {
    match error {
        OtaError::Bus(error) => OtaError::NotReady(format!("a service does not answer: {error}")),
        other => other,
    }
}

/// The identity key as Uptane wants to see it.
pub(crate) struct IdentityKey {
    key: Arc<dyn DeviceKey>,
    public: PublicKey,
}

impl IdentityKey {
    pub(crate) fn new(key: Arc<dyn DeviceKey>) -> anyhow::Result<Self> {
        let public = PublicKey::from_p256_point(key.public_point())?;
        Ok(Self { key, public })
    }
}

impl Signer for IdentityKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key.sign(message).map_err(|error| SignError::Refused(error.to_string()))
    }
}

impl Identity for IdentityKey {
    fn store(&self) -> &'static str {
        self.key.store()
    }
}
