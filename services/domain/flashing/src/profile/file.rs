//! The profile as it stands in the file, and its way to the checked one.

mod step;

use std::time::Duration;

use pitstop_uds::{Did, RoutineId};
use serde::Deserialize;

use super::{
    Check, Erase, Identification, MAX_LOST_SIGNALS, OptionField, Profile, ProfileError, Retry, Security, StepKind,
    Timing, Transfer,
};
use crate::{Banks, HexBytes};
use step::{FileStep, read_steps};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileProfile {
    format: u32,
    banks: Banks,
    #[serde(default)]
    timing: FileTiming,
    transfer: FileTransfer,
    #[serde(default)]
    security: FileSecurity,
    erase: FileErase,
    check: FileCheck,
    #[serde(default)]
    retry: FileRetry,
    #[serde(default)]
    identification: FileIdentification,
    #[serde(default)]
    lost_signals: Vec<String>,
    install: Vec<FileStep>,
    #[serde(default)]
    activate: Vec<FileStep>,
    #[serde(default)]
    commit: Vec<FileStep>,
    #[serde(default)]
    roll_back: Vec<FileStep>,
}

/// Defaults are those of ISO 14229-2 (P2server 50 ms, P2*server 5 s, S3client 2 s), with room for the way through a gateway.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileTiming {
    p2_ms: u32,
    p2_star_ms: u32,
    keep_alive_ms: u32,
    boot_ms: u32,
}

impl Default for FileTiming {
    fn default() -> Self {
        Self { p2_ms: 150, p2_star_ms: 5500, keep_alive_ms: 2000, boot_ms: 10_000 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTransfer {
    max_block_length: u32,
    #[serde(default = "four")]
    address_bytes: u8,
    #[serde(default = "four")]
    size_bytes: u8,
    #[serde(default = "erased_nor")]
    blank: u8,
    split_gap: u64,
    bytes_per_second: u32,
    seal: Option<u32>,
}

fn four() -> u8 {
    4
}

/// NOR flash reads FF when erased.
fn erased_nor() -> u8 {
    0xFF
}

#[derive(Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum FileSecurity {
    #[default]
    None,
    SeedKey {
        plugin: String,
        level: u8,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileErase {
    routine: u16,
    option: Vec<OptionField>,
    status: HexBytes,
    sector: u32,
    limit_ms: u32,
    #[serde(default)]
    ms_per_kib: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCheck {
    routine: u16,
    option: Vec<OptionField>,
    status: HexBytes,
    #[serde(default)]
    before: bool,
    limit_ms: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileRetry {
    restarts: u32,
    rewrites: u32,
    busy_pause_ms: u32,
    silence: u32,
    conditions: u32,
    conditions_pause_ms: u32,
}

impl Default for FileRetry {
    fn default() -> Self {
        // 200 ms and 2 repeats are what testers use after 21 and after silence.
        Self { restarts: 3, rewrites: 2, busy_pause_ms: 200, silence: 2, conditions: 5, conditions_pause_ms: 1000 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileIdentification {
    hardware: u16,
    software_number: u16,
    version: u16,
    serial: u16,
}

impl Default for FileIdentification {
    fn default() -> Self {
        Self {
            hardware: Did::ECU_HARDWARE_NUMBER.0,
            software_number: Did::ECU_SOFTWARE_NUMBER.0,
            version: Did::ECU_SOFTWARE_VERSION.0,
            serial: Did::ECU_SERIAL_NUMBER.0,
        }
    }
}

/// Half an hour bounds every wait of a profile; beyond it something is broken.
const MAX_WAIT_MS: u32 = 30 * 60 * 1000;

impl FileProfile {
    pub(super) fn check(self) -> Result<Profile, ProfileError> {
        if self.format != 1 {
            return Err(ProfileError::Format(self.format));
        }
        if self.lost_signals.len() > MAX_LOST_SIGNALS {
            return Err(ProfileError::Value { key: "lost_signals", problem: "too many" });
        }
        let security = self.security.check()?;
        let steps = |job, steps| {
            let mut steps = read_steps(job, steps)?;
            // An ECU without security does not serve 27 at all.
            steps.retain(|step| step.kind != StepKind::Unlock || security != Security::None);
            Ok::<_, ProfileError>(steps)
        };
        Ok(Profile {
            banks: self.banks,
            timing: self.timing.check()?,
            transfer: self.transfer.check()?,
            erase: self.erase.check()?,
            check: self.check.check()?,
            retry: self.retry.check()?,
            identification: self.identification.typed(),
            lost_signals: self.lost_signals,
            install: steps("install", self.install)?,
            activate: steps("activate", self.activate)?,
            commit: steps("commit", self.commit)?,
            roll_back: steps("roll_back", self.roll_back)?,
            security,
        })
    }
}

fn wait(key: &'static str, ms: u32) -> Result<Duration, ProfileError> {
    if (1..=MAX_WAIT_MS).contains(&ms) {
        Ok(Duration::from_millis(u64::from(ms)))
    } else {
        Err(ProfileError::Value { key, problem: "from 1 ms to half an hour" })
    }
}

fn in_range<T: PartialOrd + Copy>(
    key: &'static str,
    value: T,
    low: T,
    high: T,
    problem: &'static str,
) -> Result<T, ProfileError> {
    if value >= low && value <= high { Ok(value) } else { Err(ProfileError::Value { key, problem }) }
}

impl FileTiming {
    fn check(self) -> Result<Timing, ProfileError> {
        Ok(Timing {
            p2: wait("timing.p2_ms", self.p2_ms)?,
            p2_star: wait("timing.p2_star_ms", self.p2_star_ms)?,
            keep_alive: wait("timing.keep_alive_ms", self.keep_alive_ms)?,
            boot: wait("timing.boot_ms", self.boot_ms)?,
        })
    }
}

impl FileTransfer {
    fn check(self) -> Result<Transfer, ProfileError> {
        // Three bytes carry one byte of data; 1 MiB is beyond what DoIP entities accept.
        let block = in_range("transfer.max_block_length", self.max_block_length, 3, 1 << 20, "from 3 bytes to 1 MiB")?;
        Ok(Transfer {
            max_block_length: block,
            address_bytes: in_range("transfer.address_bytes", self.address_bytes, 1, 8, "from 1 to 8")?,
            size_bytes: in_range("transfer.size_bytes", self.size_bytes, 1, 8, "from 1 to 8")?,
            blank: self.blank,
            split_gap: in_range("transfer.split_gap", self.split_gap, 16, 1 << 30, "from 16 bytes to 1 GiB")?,
            bytes_per_second: in_range("transfer.bytes_per_second", self.bytes_per_second, 1, u32::MAX, "at least 1")?,
            seal: self.seal,
        })
    }
}

impl FileSecurity {
    fn check(self) -> Result<Security, ProfileError> {
        match self {
            Self::None => Ok(Security::None),
            Self::SeedKey { plugin, level } => {
                if level % 2 == 0 || level > 0x7D {
                    return Err(ProfileError::Value { key: "security.level", problem: "odd, from 0x01 to 0x7D" });
                }
                if plugin.is_empty() || plugin.len() > 32 {
                    return Err(ProfileError::Value { key: "security.plugin", problem: "a name of 1 to 32 bytes" });
                }
                Ok(Security::SeedKey { plugin, level })
            }
        }
    }
}

impl FileErase {
    fn check(self) -> Result<Erase, ProfileError> {
        if !self.sector.is_power_of_two() || self.sector > 1 << 28 {
            return Err(ProfileError::Value { key: "erase.sector", problem: "a power of two, at most 256 MiB" });
        }
        if self.option.contains(&OptionField::Crc32) {
            return Err(ProfileError::Value { key: "erase.option", problem: "a checksum means nothing to an erase" });
        }
        Ok(Erase {
            routine: RoutineId(self.routine),
            option: option_fields("erase.option", self.option)?,
            status: self.status,
            sector: self.sector,
            limit: wait("erase.limit_ms", self.limit_ms)?,
            ms_per_kib: self.ms_per_kib,
        })
    }
}

impl FileCheck {
    fn check(self) -> Result<Check, ProfileError> {
        if self.status.is_empty() {
            return Err(ProfileError::Value {
                key: "check.status",
                problem: "a check without a status checks nothing",
            });
        }
        // Otherwise it vouches for whatever is there: nothing would be sent, and what an earlier update left be started.
        let tells_apart = [OptionField::Address, OptionField::Crc32].iter().all(|field| self.option.contains(field));
        if self.before && !tells_apart {
            return Err(ProfileError::Value {
                key: "check.before",
                problem: "needs address and crc32 in check.option",
            });
        }
        Ok(Check {
            routine: RoutineId(self.routine),
            option: option_fields("check.option", self.option)?,
            status: self.status,
            before: self.before,
            limit: wait("check.limit_ms", self.limit_ms)?,
        })
    }
}

fn option_fields(key: &'static str, fields: Vec<OptionField>) -> Result<Vec<OptionField>, ProfileError> {
    if fields.len() > 8 { Err(ProfileError::Value { key, problem: "at most 8 fields" }) } else { Ok(fields) }
}

impl FileRetry {
    fn check(self) -> Result<Retry, ProfileError> {
        let few = |key, count| in_range(key, count, 0, 20, "at most 20");
        Ok(Retry {
            restarts: few("retry.restarts", self.restarts)?,
            rewrites: few("retry.rewrites", self.rewrites)?,
            busy_pause: wait("retry.busy_pause_ms", self.busy_pause_ms)?,
            silence: few("retry.silence", self.silence)?,
            conditions: few("retry.conditions", self.conditions)?,
            conditions_pause: wait("retry.conditions_pause_ms", self.conditions_pause_ms)?,
        })
    }
}

impl FileIdentification {
    fn typed(self) -> Identification {
        Identification {
            hardware: Did(self.hardware),
            software_number: Did(self.software_number),
            version: Did(self.version),
            serial: Did(self.serial),
        }
    }
}
