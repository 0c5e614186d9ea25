//! `backend.toml` in the data folder, and where everything else lies beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} is not a valid configuration")]
    Form(PathBuf, #[source] toml::de::Error),
    #[error("setting {0} is {1}; {2} is allowed")]
    Range(&'static str, u64, &'static str),
}

/// Addresses to listen on; port 0 takes a free one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// HTTPS with server certificate only: provisioning and downloads.
    pub public: SocketAddr,
    /// HTTPS with client certificates: devices.
    pub device: SocketAddr,
    /// HTTP for operators. It has no TLS of its own: keep it on loopback, behind a proxy that has.
    pub admin: SocketAddr,
}

/// The names under which vehicles reach this backend.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Host name or address in URLs; also in the server certificate.
    pub host: String,
    /// Whole URLs, where a proxy or a content network stands in front. Made of `host` and the port otherwise.
    pub public_url: Option<String>,
    pub device_url: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// As vehicles are told to reach the broker, and as the backend reaches it unless `own_host` says otherwise.
    pub host: String,
    /// As the backend reaches the broker, where that differs: beside it on one machine, for instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_host: Option<String>,
    pub port: u16,
    /// Without the broker, vehicles poll.
    pub enabled: bool,
}

/// What is refused as too large.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest bundle taken, in bytes.
    pub bundle_bytes: u64,
    /// Largest JSON body of an operator, in bytes. A campaign with a list of 100 000 vehicles has two million.
    pub admin_body_bytes: usize,
    /// Largest body of a device, in bytes: an outbox after weeks without a network.
    pub device_body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bundle_bytes: 4 << 30, admin_body_bytes: 4 << 20, device_body_bytes: 1 << 20 }
    }
}

/// How long things are good for, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetimes {
    /// Download links. A slow download asks for a new one and goes on where it stopped.
    pub link_secs: u64,
    /// Unused provisioning tokens.
    pub claim_secs: u64,
    /// Device certificates.
    pub device_certificate_secs: u64,
    /// Director targets, snapshot and timestamp; signed anew at half of it.
    pub director_secs: u64,
    /// Image targets, snapshot, timestamp.
    pub image_targets_secs: u64,
    pub image_snapshot_secs: u64,
    pub image_timestamp_secs: u64,
    /// How often a vehicle without a broker asks.
    pub poll_secs: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            link_secs: 3600,
            claim_secs: 7 * DAY,
            device_certificate_secs: 365 * DAY,
            director_secs: DAY,
            image_targets_secs: 90 * DAY,
            image_snapshot_secs: 7 * DAY,
            image_timestamp_secs: DAY,
            poll_secs: 8 * 3600,
        }
    }
}

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: Listen,
    #[serde(default)]
    pub advertise: Advertise,
    pub mqtt: Mqtt,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub lifetimes: Lifetimes,
}

impl Settings {
    /// Reads and checks `backend.toml` of a data folder.
    pub fn load(dir: &DataDir) -> Result<Self, SettingsError> {
        let path = dir.config();
        let text = std::fs::read_to_string(&path).map_err(|cause| SettingsError::Read(path.clone(), cause))?;
        let settings: Self = toml::from_str(&text).map_err(|cause| SettingsError::Form(path, cause))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let life = &self.lifetimes;
        // An hour at least, a year or ten at most: shorter locks vehicles out, longer makes expiry meaningless.
        for (name, value, most) in [
            ("lifetimes.director_secs", life.director_secs, 31 * 86_400),
            ("lifetimes.image_targets_secs", life.image_targets_secs, 366 * 86_400),
            ("lifetimes.image_snapshot_secs", life.image_snapshot_secs, 31 * 86_400),
            ("lifetimes.image_timestamp_secs", life.image_timestamp_secs, 31 * 86_400),
            ("lifetimes.device_certificate_secs", life.device_certificate_secs, 3660 * 86_400),
        ] {
            if !(3600..=most).contains(&value) {
                return Err(SettingsError::Range(name, value, "an hour to 31 days (targets a year, certificates ten)"));
            }
        }
        if !(10..=7 * 86_400).contains(&life.link_secs) {
            return Err(SettingsError::Range("lifetimes.link_secs", life.link_secs, "10 s to 7 days"));
        }
        if !(5..=7 * 86_400).contains(&life.poll_secs) {
            return Err(SettingsError::Range("lifetimes.poll_secs", life.poll_secs, "5 s to 7 days"));
        }
        Ok(())
    }
}

/// The data folder: everything the backend has, in one place (a container's volume).
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn config(&self) -> PathBuf {
        self.0.join("backend.toml")
    }
    pub fn database(&self) -> PathBuf {
        self.0.join("backend.sqlite")
    }
    /// Bundles by SHA-256.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }
    /// Uploads under way.
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }
    /// Online signing keys.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }
    /// Keys of both roots and of the Director's offline roles: not needed while the backend runs, to be taken away.
    pub fn offline_keys(&self) -> PathBuf {
        self.0.join("offline-keys")
    }
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }
    pub fn broker(&self) -> PathBuf {
        self.0.join("mosquitto")
    }
    pub fn root_metadata(&self, repository: &str) -> PathBuf {
        self.0.join("uptane").join(repository).join("root.json")
    }
    /// The newest list of workshops' packages: made with the first of them, and served to every vehicle.
    pub fn offline_snapshot(&self) -> PathBuf {
        self.0.join("uptane/director/offline-snapshot.json")
    }
    /// Certificates under which uploaded bundles must be signed.
    pub fn keyring(&self) -> PathBuf {
        self.0.join("keyring.pem")
    }
    pub fn admin_token(&self) -> PathBuf {
        self.0.join("admin.token")
    }
    pub fn link_key(&self) -> PathBuf {
        self.0.join("link.key")
    }
}
