//! `pitstop-backend init`: makes every key and file of a new backend, once.
//!
//! One key per role stands here for what a ceremony makes with thresholds; the files have the same names and places then.

mod broker;
mod pki;
mod uptane;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rand::Rng as _;

use crate::clock::Clock;
use crate::settings::{Advertise, DataDir, Lifetimes, Limits, Listen, Mqtt, Settings};

pub use pki::DeviceCa;
pub use uptane::key_name;

/// Why the folder was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{0} exists already; an existing backend is not made anew")]
    Exists(PathBuf),
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    #[error("a signature cannot be made")]
    Sign(#[from] pitstop_uptane::SignError),
    #[error("root metadata cannot be made: {0}")]
    Metadata(String),
    #[error("the configuration cannot be written")]
    Config(#[from] toml::ser::Error),
    #[error("--host needs at least one name or address")]
    NoHost,
    #[error("there is no user {0:?}")]
    NoUser(String),
    #[error("{0:?} in a configuration file of the broker would be misread")]
    BrokerText(String),
}

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Names and addresses in the server certificate; the first one goes into URLs.
    pub hosts: Vec<String>,
    pub public: SocketAddr,
    pub device: SocketAddr,
    pub admin: SocketAddr,
    pub mqtt_host: String,
    pub mqtt_port: u16,
    /// Address the broker listens on.
    pub mqtt_bind: String,
    /// The user the broker runs as, if it is started as root. Absent: who runs this. Given to root, it gets the broker's files.
    pub broker_user: Option<String>,
    /// Certificates under which bundles are signed.
    pub keyring: Option<PathBuf>,
}

/// Makes the folder. Refuses one that holds a backend already.
pub fn init(dir: &DataDir, options: &InitOptions, clock: &Clock) -> Result<(), InitError> {
    let host = options.hosts.first().ok_or(InitError::NoHost)?;
    if dir.config().exists() {
        return Err(InitError::Exists(dir.config()));
    }
    let folders = [dir.objects(), dir.uploads(), dir.keys(), dir.offline_keys(), dir.tls()];
    folders.iter().try_for_each(|path| make_dir(path, 0o700))?;
    // The broker may run as a user of its own.
    make_dir(&dir.broker(), 0o755)?;
    pki::make(dir, options, clock)?;
    uptane::make(dir, clock)?;
    broker::make(dir, options)?;
    broker::hand_over(dir, options)?;
    write_secret(&dir.admin_token(), format!("{}\n", random_hex()).as_bytes())?;
    write_secret(&dir.link_key(), format!("{}\n", random_hex()).as_bytes())?;
    let keyring = match &options.keyring {
        Some(path) => fs::read(path).map_err(|cause| InitError::Read(path.clone(), cause))?,
        None => Vec::new(),
    };
    write_public(&dir.keyring(), &keyring)?;
    let settings = Settings {
        listen: Listen { public: options.public, device: options.device, admin: options.admin },
        advertise: Advertise { host: host.clone(), ..Advertise::default() },
        mqtt: Mqtt {
            host: options.mqtt_host.clone(),
            // Only under a name that the broker's certificate has.
            own_host: Some(options.mqtt_bind.clone())
                .filter(|bind| *bind != options.mqtt_host && options.hosts.contains(bind)),
            port: options.mqtt_port,
            enabled: true,
        },
        limits: Limits::default(),
        lifetimes: Lifetimes::default(),
    };
    // Last: a folder with a configuration is a finished one.
    write_public(&dir.config(), toml::to_string_pretty(&settings)?.as_bytes())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), InitError> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|cause| InitError::Write(path.to_owned(), cause))
}

/// 256 random bits in hexadecimal.
pub fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let failed = |cause| InitError::Write(path.to_owned(), cause);
    if let Some(parent) = path.parent() {
        make_dir(parent, 0o755)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    write(path, bytes, 0o600)
}

fn write_public(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    write(path, bytes, 0o644)
}
