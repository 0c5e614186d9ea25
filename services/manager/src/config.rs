use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// `manager.toml`, defaults and overrides merged. Every key has its default in the vendor's file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    poll_interval_secs: u64,
    first_check_secs: u64,
    ask_again_secs: u64,
    condition_poll_secs: u64,
    inhibit_timeout_secs: u64,
    read_back_secs: u64,
    health_secs: u64,
    flash_bytes_per_sec: u32,
    stage_conditions: Vec<String>,
    start_conditions: Vec<String>,
    undo_conditions: Vec<String>,
    boot_id_file: PathBuf,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time between two checks that nobody asked for.
    pub poll_interval: Duration,
    /// Time from the start to the first of them.
    pub first_check: Duration,
    /// After "later".
    pub ask_again: Duration,
    /// Between two looks at conditions that do not hold.
    pub condition_poll: Duration,
    /// How long the drive inhibit's acknowledgement is waited for before it is asked for again.
    pub inhibit_timeout: Duration,
    /// How long ECUs have, after the last change, to show the version that is expected.
    pub read_back: Duration,
    /// How long the services of a trial slot have to come up.
    pub health: Duration,
    /// Estimate for the plan, where the ECU's description gives none.
    pub flash_bytes_per_sec: u32,
    pub stage_conditions: Vec<String>,
    /// The vehicle's own; the campaign's come on top at the start.
    pub start_conditions: Vec<String>,
    pub undo_conditions: Vec<String>,
    /// Where a machine that simulates restarts writes what differs from one to the next.
    pub boot_id_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{key} is {value}; {least} to {most} are possible")]
    Range { key: &'static str, value: u64, least: u64, most: u64 },
    #[error("start_conditions is empty: an update would start in a moving vehicle")]
    NoConditions,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            poll_interval_secs: 3600,
            first_check_secs: 60,
            ask_again_secs: 14_400,
            condition_poll_secs: 2,
            inhibit_timeout_secs: 15,
            read_back_secs: 60,
            health_secs: 120,
            flash_bytes_per_sec: 30_000,
            stage_conditions: Vec::new(),
            start_conditions: vec!["parked".to_owned(), "battery-ok".to_owned()],
            undo_conditions: vec!["parked".to_owned()],
            boot_id_file: "run/pitstop/boot-id".into(),
        }
    }
}

impl Input {
    pub fn validate(self) -> Result<Settings, SettingsError> {
        let secs = |key, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(Duration::from_secs(value))
            } else {
                Err(SettingsError::Range { key, value, least, most })
            }
        };
        if self.start_conditions.is_empty() {
            return Err(SettingsError::NoConditions);
        }
        Ok(Settings {
            poll_interval: secs("poll_interval_secs", self.poll_interval_secs, 1, 604_800)?,
            first_check: secs("first_check_secs", self.first_check_secs, 0, 86_400)?,
            ask_again: secs("ask_again_secs", self.ask_again_secs, 1, 604_800)?,
            condition_poll: secs("condition_poll_secs", self.condition_poll_secs, 1, 60)?,
            inhibit_timeout: secs("inhibit_timeout_secs", self.inhibit_timeout_secs, 1, 300)?,
            read_back: secs("read_back_secs", self.read_back_secs, 1, 600)?,
            health: secs("health_secs", self.health_secs, 1, 600)?,
            flash_bytes_per_sec: self.flash_bytes_per_sec.max(1),
            stage_conditions: self.stage_conditions,
            start_conditions: self.start_conditions,
            undo_conditions: self.undo_conditions,
            boot_id_file: self.boot_id_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_says_what_the_defaults_are() {
        let text = include_str!("../../../rootfs-overlay/usr/lib/pitstop/manager.toml");
        let input: Input = toml::from_str(text).unwrap();
        assert_eq!(input, Input::default());
        assert!(input.validate().is_ok());
    }

    #[test]
    fn unknown_keys_times_out_of_range_and_no_conditions_are_refused() {
        assert!(toml::from_str::<Input>("colour = 1").is_err());
        let input = Input { poll_interval_secs: 0, ..Input::default() };
        assert!(matches!(input.validate(), Err(SettingsError::Range { key: "poll_interval_secs", .. })));
        let input = Input { start_conditions: vec![], ..Input::default() };
        assert_eq!(input.validate(), Err(SettingsError::NoConditions));
    }
}
