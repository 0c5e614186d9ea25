use std::time::Duration;

use serde::Deserialize;

/// Longest time ahead that a driver may choose: a decision is valid no longer (30 days).
const MAX_AHEAD_DAYS: u32 = 30;

/// `hmi.toml`, defaults and overrides merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    schedule_ahead_days: u32,
}

/// Checked settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How far ahead an update may be put.
    pub schedule_ahead: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule_ahead_days is {0}; 1 to {MAX_AHEAD_DAYS} are possible")]
pub struct SettingsError(u32);

impl Default for Input {
    fn default() -> Self {
        Self { schedule_ahead_days: MAX_AHEAD_DAYS }
    }
}

impl Input {
    pub fn validate(self) -> Result<Settings, SettingsError> {
        let days = self.schedule_ahead_days;
        if !(1..=MAX_AHEAD_DAYS).contains(&days) {
            return Err(SettingsError(days));
        }
        Ok(Settings { schedule_ahead: Duration::from_secs(u64::from(days) * 24 * 3600) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_valid_and_a_day_too_many_is_not() {
        let text = include_str!("../../../rootfs-overlay/usr/lib/pitstop/hmi.toml");
        let input: Input = toml::from_str(text).unwrap();
        assert_eq!(input.validate().unwrap().schedule_ahead, Duration::from_secs(30 * 24 * 3600));
        assert_eq!(Input { schedule_ahead_days: 31 }.validate(), Err(SettingsError(31)));
        assert!(toml::from_str::<Input>("colour = 1").is_err());
    }
}
