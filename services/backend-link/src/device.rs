//! What provisioning brought: the device's name, its certificate, and where the backend is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pitstop_tpm::{DeviceKey, KeyRole, KeySettings, tls};
use pitstop_types::DeviceId;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiError};
use crate::config::Settings;

/// Stored after provisioning; everything here is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub device: DeviceId,
    pub certificate_pem: String,
    pub ca_pem: String,
    pub device_url: String,
    pub public_url: String,
    pub mqtt_host: String,
    pub mqtt_port: u16,
}

/// Name and format of the stored record.
pub const RECORD_NAME: &str = "device";
/// See [`RECORD_NAME`].
pub const RECORD_FORMAT: u32 = 1;

/// A provisioned device that can talk to the backend.
pub struct Session {
    pub record: DeviceRecord,
    pub api: Api,
    /// For MQTT: the same trust and certificate.
    pub tls: Arc<ClientConfig>,
    /// `tpm` or `file`.
    pub key_store: &'static str,
}

/// When the backend last answered, Unix seconds; 0 for never.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<AtomicI64>);

impl Contact {
    /// The backend answered just now.
    pub fn made(&self) {
        // An unknown clock leaves the old value: a wrong time is worse than an old one.
        if let Some(now) = pitstop_runtime::wall_clock() {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// Unix seconds, 0 for never.
    pub fn last(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where calls to the backend run, and when it last answered.
#[derive(Debug, Clone)]
pub struct Network {
    /// An event loop of its own: rustls asks the TPM in the middle of a handshake, which blocks for ten milliseconds and, when other services
    /// use the TPM too, for up to a second.
    pub runtime: tokio::runtime::Handle,
    pub contact: Contact,
}

impl Network {
    /// Calls run on `runtime`.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime, contact: Contact::default() }
    }
}

/// Why a session could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Key(#[from] pitstop_tpm::KeyError),
    #[error("the TLS key is gone, although this device has a certificate for it")]
    KeyGone,
    #[error("preparing TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Opens the key and prepares TLS. Blocks on the TPM.
pub fn open_session(record: DeviceRecord, settings: &Settings, network: &Network) -> Result<Session, SessionError> {
    let key = open_key(&settings.key)?.ok_or(SessionError::KeyGone)?;
    let key_store = key.store();
    let roots = roots(record.ca_pem.as_bytes())?;
    let resolver = tls::client_certificate(key, record.certificate_pem.as_bytes())?;
    let config = builder()?.with_root_certificates(roots).with_client_cert_resolver(resolver);
    let api = Api::new(&record.device_url, with_http(config.clone()), settings.request_timeout, network.clone())?;
    Ok(Session { record, api, tls: Arc::new(config), key_store })
}

/// TLS towards the public listener: the configured trust, no certificate of our own.
pub fn public_api(url: &str, ca_pem: &[u8], settings: &Settings, network: &Network) -> Result<Api, SessionError> {
    let config = builder()?.with_root_certificates(roots(ca_pem)?).with_no_client_auth();
    Ok(Api::new(url, with_http(config), settings.request_timeout, network.clone())?)
}

fn open_key(settings: &KeySettings) -> Result<Option<Arc<dyn DeviceKey>>, SessionError> {
    Ok(pitstop_tpm::open(settings, KeyRole::Tls)?)
}

/// TLS 1.3 only: both ends are ours.
fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, SessionError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| SessionError::Tls(e.to_string()))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, SessionError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| SessionError::Tls(e.to_string()))?;
        roots.add(certificate).map_err(|e| SessionError::Tls(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(SessionError::Tls("there is no certificate to believe the backend by".into()));
    }
    Ok(roots)
}

fn with_http(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
