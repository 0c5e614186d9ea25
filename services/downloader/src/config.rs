//! The service's configuration, and the settings made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::pace::LEAST_BYTES_PER_SEC;

/// Merged content of `downloader.toml`. Paths lie below the root.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    ca_file: PathBuf,
    budget_bytes: u64,
    reserve_bytes: u64,
    rate_limit_bytes_per_sec: u64,
    stall_window_secs: u64,
    stall_min_bytes: u64,
    back_off_first_ms: u64,
    back_off_cap_secs: u64,
    give_up_secs: u64,
    flush_bytes: u64,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Certificates that the download server's is believed by.
    pub ca_file: PathBuf,
    /// Most bytes of bundles in the cache.
    pub budget_bytes: u64,
    /// Left free on the data partition.
    pub reserve_bytes: u64,
    /// Bytes per second, if limited.
    pub rate_limit: Option<u64>,
    /// Fewer than `stall_min_bytes` in a window of this length is too slow.
    pub stall_window: Duration,
    pub stall_min_bytes: u64,
    pub back_off_first: Duration,
    pub back_off_cap: Duration,
    /// An operation fails when so long a time brings fewer bytes than [`LEAST_BYTES_PER_SEC`] demands.
    pub give_up: Duration,
    /// Written bytes become durable after so many.
    pub flush_bytes: u64,
}

/// What is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{key} is {value}, allowed are {low} to {high}")]
    Range { key: &'static str, value: u64, low: u64, high: u64 },
    #[error("the rate limit of {limit} bytes per second is below what is demanded of a line, twice {demanded}")]
    LimitsContradict { limit: u64, demanded: u64 },
}

impl Config {
    /// Checks everything; `below` puts a path below the root.
    pub fn settings(self, below: impl Fn(&Path) -> PathBuf) -> Result<Settings, SettingsError> {
        range("budget_bytes", self.budget_bytes, 1 << 20, 1 << 40)?;
        range("reserve_bytes", self.reserve_bytes, 0, 1 << 40)?;
        range("stall_window_secs", self.stall_window_secs, 1, 3600)?;
        range("back_off_first_ms", self.back_off_first_ms, 10, 60_000)?;
        range("back_off_cap_secs", self.back_off_cap_secs, 1, 3600)?;
        range("give_up_secs", self.give_up_secs, 1, 7 * 86_400)?;
        range("flush_bytes", self.flush_bytes, 64 << 10, 1 << 30)?;
        let demanded = self.stall_min_bytes.div_ceil(self.stall_window_secs).max(LEAST_BYTES_PER_SEC);
        let limit = self.rate_limit_bytes_per_sec;
        if limit != 0 && limit < demanded.saturating_mul(2) {
            return Err(SettingsError::LimitsContradict { limit, demanded });
        }
        Ok(Settings {
            ca_file: below(&self.ca_file),
            budget_bytes: self.budget_bytes,
            reserve_bytes: self.reserve_bytes,
            rate_limit: (limit != 0).then_some(limit),
            stall_window: Duration::from_secs(self.stall_window_secs),
            stall_min_bytes: self.stall_min_bytes,
            back_off_first: Duration::from_millis(self.back_off_first_ms),
            back_off_cap: Duration::from_secs(self.back_off_cap_secs),
            give_up: Duration::from_secs(self.give_up_secs),
            flush_bytes: self.flush_bytes,
        })
    }
}

fn range(key: &'static str, value: u64, low: u64, high: u64) -> Result<(), SettingsError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(SettingsError::Range { key, value, low, high }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/downloader.toml");

    fn settings(text: &str) -> Result<Settings, SettingsError> {
        toml::from_str::<Config>(text).unwrap().settings(|p| Path::new("/root").join(p))
    }

    #[test]
    fn the_vendors_defaults_are_good_settings() {
        let settings = settings(DEFAULTS).unwrap();
        // The acceptance of the first release: at most a megabyte twice, and ten seconds without a server cost little more.
        assert!(settings.flush_bytes <= 1 << 20 && settings.back_off_cap <= Duration::from_secs(15));
        assert_eq!(settings.ca_file, Path::new("/root/etc/pitstop/backend-ca.pem"));
    }

    #[test]
    fn contradictions_have_names() {
        let slow = DEFAULTS.replace("rate_limit_bytes_per_sec = 0", "rate_limit_bytes_per_sec = 1000");
        assert_eq!(settings(&slow).err(), Some(SettingsError::LimitsContradict { limit: 1000, demanded: 1000 }));
        let small = DEFAULTS.replace("flush_bytes = 1048576", "flush_bytes = 1");
        assert!(matches!(settings(&small), Err(SettingsError::Range { key: "flush_bytes", .. })));
        assert!(toml::from_str::<Config>(&format!("surprise = 1\n{DEFAULTS}")).is_err());
    }
}
