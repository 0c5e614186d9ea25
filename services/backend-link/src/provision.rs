//! Provisioning: from a one-time token to a certificate for a key that never leaves the TPM.

use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{OtaError, ValidatorProxy};
use pitstop_runtime::OperationHandle;
use pitstop_store::{Document, Storage};
use pitstop_tpm::{KeyError, KeyRole, tls};
use pitstop_types::DeviceId;

use crate::api::{Identity, ProvisionAnswer, ProvisionRequest};
use crate::config::{Settings, check_url};
use crate::device::{
    DeviceRecord, Network, RECORD_FORMAT, RECORD_NAME, Session, SessionError, open_session, public_api,
};

/// Longest token; the backend's have 64 characters.
pub const MAX_TOKEN: usize = 256;

/// Where the manifest key's name and public part come from.
#[async_trait]
pub trait IdentitySource: Send + Sync {
    /// Key id and public key in PEM.
    async fn identity(&self) -> Result<(String, String), OtaError>;
}

/// Asks the validator, which holds that key.
pub struct ValidatorIdentity(zbus::Connection);

impl ValidatorIdentity {
    /// Asks over `bus`.
    pub fn new(bus: zbus::Connection) -> Self {
        Self(bus)
    }
}

#[async_trait]
impl IdentitySource for ValidatorIdentity {
    async fn identity(&self) -> Result<(String, String), OtaError> {
        ValidatorProxy::new(&self.0).await?.get_identity().await
    }
}

/// What provisioning works with.
#[derive(Clone)]
pub struct Provisioner {
    pub settings: Arc<Settings>,
    pub storage: Arc<dyn Storage>,
    pub network: Network,
    pub identity: Arc<dyn IdentitySource>,
}

impl Provisioner {
    /// Makes or finds the key, asks for the certificate, stores the answer. Done again with a new token it replaces the record.
    pub async fn run(self, token: String, operation: &OperationHandle) -> Result<Session, OtaError> {
        let url = self.settings.provision_url.clone();
        let url = url.ok_or_else(|| OtaError::NotReady("the configuration names no provision_url".into()))?;
        let vin = self.settings.vin().map_err(|e| OtaError::InvalidArgument(e.to_string()))?;
        operation.phase("making the key").await;
        let key_settings = self.settings.key.clone();
        let key = blocking(move || pitstop_tpm::ensure(&key_settings, KeyRole::Tls)).await?.map_err(key_error)?;
        let (keyid, public_pem) = self.identity.identity().await?;
        // The backend chooses the device's name; the request only proves that the key is here.
        let csr_pem = blocking(move || tls::certificate_request(&key, "pitstop")).await?.map_err(key_error)?;
        operation.phase("asking for the certificate").await;
        let ca = std::fs::read(&self.settings.ca_file)
            .map_err(|e| OtaError::NotReady(format!("reading {}: {e}", self.settings.ca_file.display())))?;
        let api = public_api(&url, &ca, &self.settings, &self.network).map_err(session_error)?;
        let request =
            ProvisionRequest { token, vin: vin.to_string(), csr_pem, identity: Identity { keyid, public_pem } };
        let record = record(api.provision(&request).await?)?;
        // A certificate that does not fit the key would lock this device out: it is tried before it is stored.
        let (settings, network, opened) = (Arc::clone(&self.settings), self.network.clone(), record.clone());
        let session = blocking(move || open_session(opened, &settings, &network)).await?.map_err(session_error)?;
        operation.phase("storing").await;
        let document = Document::new(self.storage, RECORD_NAME, RECORD_FORMAT);
        document.store(&record).map_err(|e| OtaError::Storage(e.to_string()))?;
        log::info!("provisioned as device {}, key in {}", session.record.device, session.key_store);
        Ok(session)
    }
}

fn record(answer: ProvisionAnswer) -> Result<DeviceRecord, OtaError> {
    let wrong = |what: String| OtaError::BackendRefused(format!("the backend's answer is of no use: {what}"));
    let device = DeviceId::new(answer.device_id).map_err(|e| wrong(e.to_string()))?;
    for url in [&answer.device_url, &answer.public_url] {
        check_url(url).map_err(|e| wrong(e.to_string()))?;
    }
    let host = &answer.mqtt.host;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return Err(wrong("the broker's name".into()));
    }
    Ok(DeviceRecord {
        device,
        certificate_pem: answer.certificate_pem,
        ca_pem: answer.ca_pem,
        device_url: answer.device_url,
        public_url: answer.public_url,
        mqtt_host: answer.mqtt.host,
        mqtt_port: answer.mqtt.port,
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OtaError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| OtaError::Internal(e.to_string()))
}

fn key_error(error: KeyError) -> OtaError {
    OtaError::Tpm(error.to_string())
}

fn session_error(error: SessionError) -> OtaError {
    match error {
        SessionError::Key(key) => key_error(key),
        SessionError::Api(api) => api.into(),
        other => OtaError::BackendRefused(other.to_string()),
    }
}
