//! Provisioning: from a one-time token to a certificate for a key that never leaves the TPM.

use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{OtaError, ValidatorProxy};
use pitstop_runtime::OperationHandle;
use pitstop_store::{Document, Storage};
use pitstop_tpm::{KeyError, KeyRole, tls};
use pitstop_types::{DeviceId, Vin};

use crate::api::{Api, Identity, ProvisionAnswer, ProvisionRequest};
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
        // First: what the configuration lacks is said before a key is made.
        let (api, vin) = configured(&self.settings, &self.network)?;
        operation.phase("making the key").await;
        let key_settings = self.settings.key.clone();
        let key = blocking(move || pitstop_tpm::ensure(&key_settings, KeyRole::Tls)).await?.map_err(key_error)?;
        let (keyid, public_pem) = self.identity.identity().await?;
        // The backend chooses the device's name; the request only proves that the key is here.
        let csr_pem = blocking(move || tls::certificate_request(&key, "pitstop")).await?.map_err(key_error)?;
        operation.phase("asking for the certificate").await;
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

/// Whom to ask and for which vehicle.
///
/// What is missing or wrong there is `NotFound`: the call was right, and making it again does not help before somebody has mended the file that
/// the text names.
fn configured(settings: &Settings, network: &Network) -> Result<(Api, Vin), OtaError> {
    let url = settings.provision_url.as_deref().ok_or_else(|| {
        OtaError::NotFound(
            "provision_url is not set; set it to the backend's public listener in /etc/pitstop/backend-link.toml and restart \
             pitstop-backend-link"
                .into(),
        )
    })?;
    let vin = settings.vin().map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        let path = settings.vehicle.display();
        OtaError::NotFound(format!("{error}{cause}; set vin in {path} to this vehicle's VIN and provision again"))
    })?;
    let unusable = |what: String| {
        let path = settings.ca_file.display();
        OtaError::NotFound(format!(
            "{what}; put the certificate that the backend's own is believed by into {path} (ca_file of backend-link.toml) and provision again"
        ))
    };
    let ca = std::fs::read(&settings.ca_file)
        .map_err(|error| unusable(format!("reading {}: {error}", settings.ca_file.display())))?;
    let api = public_api(url, &ca, settings, network).map_err(|error| match error {
        SessionError::Tls(_) => unusable(error.to_string()),
        other => session_error(other),
    })?;
    Ok((api, vin))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const DEFAULTS: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/backend-link.toml");

    /// The vendor's settings below `root`, with `more` before them.
    fn settings(root: &Path, more: &str) -> Settings {
        toml::from_str::<Config>(&format!("{more}\n{DEFAULTS}")).unwrap().settings(|path| root.join(path)).unwrap()
    }

    #[tokio::test]
    async fn what_the_configuration_lacks_is_named_with_its_file_and_key() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/pitstop");
        std::fs::create_dir_all(&etc).unwrap();
        let network = Network::new(tokio::runtime::Handle::current());
        let lacking = |settings: &Settings, words: &[&str]| {
            let error = configured(settings, &network).err().unwrap();
            // Neither the caller's fault nor mended by asking again.
            assert!(matches!(error, OtaError::NotFound(_)) && !error.is_temporary(), "{error:?}");
            assert!(words.iter().all(|word| error.text().contains(word)), "{error:?} lacks one of {words:?}");
        };
        lacking(&settings(root.path(), ""), &["provision_url", "/etc/pitstop/backend-link.toml", "restart"]);
        let settings = settings(root.path(), "provision_url = \"https://ota.example.com:8443\"");
        lacking(&settings, &["reading", "etc/pitstop/vehicle.toml", "No such file", "set vin"]);
        std::fs::write(etc.join("vehicle.toml"), "name = \"x\"\n").unwrap();
        lacking(&settings, &["etc/pitstop/vehicle.toml", "no vin"]);
        std::fs::write(etc.join("vehicle.toml"), "vin = \"short\"\n").unwrap();
        lacking(&settings, &["vin in ", "etc/pitstop/vehicle.toml: ", "5 characters"]);
        std::fs::write(etc.join("vehicle.toml"), "vin = \"WP0ZZZ99ZTS392124\"\n").unwrap();
        lacking(&settings, &["reading", "etc/pitstop/backend-ca.pem", "No such file", "ca_file"]);
        std::fs::write(etc.join("backend-ca.pem"), "nothing\n").unwrap();
        lacking(&settings, &["no certificate", "etc/pitstop/backend-ca.pem", "ca_file"]);
        let authority = rcgen::generate_simple_self_signed(["ota.example.com".to_owned()]).unwrap();
        std::fs::write(etc.join("backend-ca.pem"), authority.cert.pem()).unwrap();
        assert_eq!(configured(&settings, &network).unwrap().1.as_str(), "WP0ZZZ99ZTS392124");
    }
}
