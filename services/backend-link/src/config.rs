//! The service's configuration, and the settings made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pitstop_tpm::KeySettings;
use pitstop_types::{IdError, Vin};
use serde::Deserialize;

/// Merged content of `backend-link.toml`. Paths lie below the root.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    provision_url: Option<String>,
    ca_file: PathBuf,
    vehicle: PathBuf,
    request_timeout_secs: u64,
    poll_interval_secs: u64,
    back_off_first_ms: u64,
    back_off_cap_secs: u64,
    mqtt: MqttConfig,
    key: KeySettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct MqttConfig {
    enabled: bool,
    topic_root: String,
    keep_alive_secs: u64,
    will_delay_secs: u32,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The backend's public listener, where a device without certificate may ask for one. Without it nothing can be provisioned.
    pub provision_url: Option<String>,
    /// Certificates that the backend's own is believed by.
    pub ca_file: PathBuf,
    /// vehicle.toml, of which the VIN is used.
    pub vehicle: PathBuf,
    /// Longest silence in a call; what its bytes may take comes on top.
    pub request_timeout: Duration,
    /// Between two polls, until the backend names another interval.
    pub poll_interval: Duration,
    pub back_off_first: Duration,
    pub back_off_cap: Duration,
    pub mqtt: MqttSettings,
    pub key: KeySettings,
}

/// Settings of the MQTT session.
#[derive(Debug, Clone)]
pub struct MqttSettings {
    /// False where the network lets no MQTT through: then only polls find an update.
    pub enabled: bool,
    /// First segments of every topic.
    pub topic_root: String,
    pub keep_alive: Duration,
    /// How long the broker waits before it says that this vehicle is gone: a tunnel is no outage.
    pub will_delay_secs: u32,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{key} is {value}, allowed are {allowed}")]
    Range { key: &'static str, value: u64, allowed: &'static str },
    #[error("{0} is not an https URL")]
    Url(String),
    #[error("topic_root {0:?} is not one to four plain words joined by /")]
    TopicRoot(String),
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{} is not a vehicle description with a VIN: {text}", .path.display())]
    Vehicle { path: PathBuf, text: String },
    #[error("vin in {}", .path.display())]
    Vin { path: PathBuf, source: IdError },
}

impl Config {
    /// Checks everything; `below` puts a path below the root.
    pub fn settings(self, below: impl Fn(&Path) -> PathBuf) -> Result<Settings, SettingsError> {
        range("request_timeout_secs", self.request_timeout_secs, 1, 300, "1 to 300")?;
        range("poll_interval_secs", self.poll_interval_secs, 30, 7 * 86_400, "30 to 604800")?;
        range("back_off_first_ms", self.back_off_first_ms, 10, 60_000, "10 to 60000")?;
        range("back_off_cap_secs", self.back_off_cap_secs, 1, 86_400, "1 to 86400")?;
        // Above 20 minutes brokers of large clouds refuse it.
        range("mqtt.keep_alive_secs", self.mqtt.keep_alive_secs, 5, 1200, "5 to 1200")?;
        if let Some(url) = &self.provision_url {
            check_url(url)?;
        }
        let root = &self.mqtt.topic_root;
        let plain =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if root.split('/').count() > 4 || !root.split('/').all(plain) {
            return Err(SettingsError::TopicRoot(self.mqtt.topic_root));
        }
        let mut key = self.key;
        key.file = key.file.map(|file| below(&file));
        Ok(Settings {
            provision_url: self.provision_url,
            ca_file: below(&self.ca_file),
            vehicle: below(&self.vehicle),
            request_timeout: Duration::from_secs(self.request_timeout_secs),
            poll_interval: Duration::from_secs(self.poll_interval_secs),
            back_off_first: Duration::from_millis(self.back_off_first_ms),
            back_off_cap: Duration::from_secs(self.back_off_cap_secs),
            mqtt: MqttSettings {
                enabled: self.mqtt.enabled,
                topic_root: self.mqtt.topic_root,
                keep_alive: Duration::from_secs(self.mqtt.keep_alive_secs),
                will_delay_secs: self.mqtt.will_delay_secs,
            },
            key,
        })
    }
}

impl Settings {
    /// The VIN out of vehicle.toml.
    pub fn vin(&self) -> Result<Vin, SettingsError> {
        let text = std::fs::read_to_string(&self.vehicle).map_err(|e| SettingsError::Read(self.vehicle.clone(), e))?;
        let wrong = |text: String| SettingsError::Vehicle { path: self.vehicle.clone(), text };
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
        let vin = table.get("vin").and_then(toml::Value::as_str).ok_or_else(|| wrong("it has no vin".into()))?;
        Vin::new(vin).map_err(|source| SettingsError::Vin { path: self.vehicle.clone(), source })
    }
}

/// An https URL with nothing in it that a log or a request line could stumble over.
pub fn check_url(url: &str) -> Result<(), SettingsError> {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let good =
        !rest.is_empty() && !rest.starts_with('/') && url.len() <= 2048 && url.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(()) } else { Err(SettingsError::Url(url.chars().take(100).collect())) }
}

fn range(key: &'static str, value: u64, low: u64, high: u64, allowed: &'static str) -> Result<(), SettingsError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(SettingsError::Range { key, value, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/backend-link.toml");

    fn settings(text: &str) -> Result<Settings, SettingsError> {
        toml::from_str::<Config>(text).unwrap().settings(|p| Path::new("/root").join(p))
    }

    #[test]
    fn the_vendors_defaults_are_good_settings() {
        let settings = settings(DEFAULTS).unwrap();
        assert_eq!(settings.ca_file, Path::new("/root/etc/pitstop/backend-ca.pem"));
        assert!(settings.provision_url.is_none() && !settings.key.insecure_file_keys);
        assert!(settings.back_off_cap >= Duration::from_secs(600), "fewer would make a herd of a fleet");
    }

    #[test]
    fn values_out_of_range_have_names() {
        let text = DEFAULTS.replace("poll_interval_secs = 28800", "poll_interval_secs = 1");
        assert!(matches!(settings(&text), Err(SettingsError::Range { key: "poll_interval_secs", .. })));
        let text = DEFAULTS.replace("ota/v1/t1", "ota/+/t1");
        assert!(matches!(settings(&text), Err(SettingsError::TopicRoot(_))));
        for bad in ["http://x", "https://", "https:///x", "https://a b", "ftp://x"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        assert!(toml::from_str::<Config>(&format!("surprise = 1\n{DEFAULTS}")).is_err());
    }
}
