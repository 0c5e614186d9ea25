//! Settings: `usr/lib/pitstop/uds-server.toml` with `etc/pitstop/uds-server.toml` laid over it, and the vehicle's description.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitstop_doip::LogicalAddress;
use pitstop_types::{HardwareId, Vin};
use pitstop_uds::BlockLength;
use serde::Deserialize;

use crate::workshop::WorkshopSettings;

/// Longest vehicle description that is read, in bytes.
const MAX_VEHICLE_BYTES: u64 = 256 * 1024;
/// RXSWINs served together, so that an answer stays one short message.
const MAX_RXSWIN: usize = 16;

/// The merged file, before it is checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub listen: SocketAddr,
    pub logical_address: u16,
    pub eid: String,
    pub gid: String,
    pub max_testers: u8,
    pub announce: bool,
    pub vehicle: PathBuf,
    pub workshop: WorkshopInput,
}

/// `[workshop]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkshopInput {
    pub testers: PathBuf,
    pub tester_crls: String,
    pub max_package_bytes: u64,
    pub block_bytes: u64,
    pub services: Vec<String>,
    pub trial_secs: u64,
    pub health_limit_secs: u64,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{0:#06x} is no logical address of an ECU (0x0001 to 0x0DFF, 0x1000 to 0x7FFF)")]
    Address(u16),
    #[error("{0:?} is no identification: six bytes in hexadecimal with colons between")]
    Identification(String),
    #[error("max_testers is {0}; 1 to 16 are allowed")]
    Testers(u8),
    #[error("workshop.{0} is {1}; {2} are allowed")]
    Workshop(&'static str, u64, &'static str),
    #[error("an RXSWIN is 1 to 64 printable characters without ';', and at most {MAX_RXSWIN} are served")]
    Rxswin,
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no vehicle description", .path.display())]
    Vehicle { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{} is longer than {MAX_VEHICLE_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("the serial number is 1 to 32 printable characters")]
    Serial,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    pub address: LogicalAddress,
    pub eid: [u8; 6],
    pub gid: [u8; 6],
    pub max_testers: u8,
    pub announce: bool,
    pub max_package: u64,
    pub workshop: WorkshopSettings,
}

impl Settings {
    pub fn new(input: &Input) -> Result<Self, SettingsError> {
        if !matches!(input.logical_address, 0x0001..=0x0DFF | 0x1000..=0x7FFF) {
            return Err(SettingsError::Address(input.logical_address));
        }
        if !(1..=16).contains(&input.max_testers) {
            return Err(SettingsError::Testers(input.max_testers));
        }
        Ok(Self {
            listen: input.listen,
            address: LogicalAddress(input.logical_address),
            eid: six_bytes(&input.eid)?,
            gid: six_bytes(&input.gid)?,
            max_testers: input.max_testers,
            announce: input.announce,
            max_package: input.workshop.max_package_bytes,
            workshop: workshop(&input.workshop)?,
        })
    }
}

fn workshop(input: &WorkshopInput) -> Result<WorkshopSettings, SettingsError> {
    let within = |name, value: u64, least: u64, most: u64, allowed| {
        if (least..=most).contains(&value) { Ok(value) } else { Err(SettingsError::Workshop(name, value, allowed)) }
    };
    within("max_package_bytes", input.max_package_bytes, 1 << 20, 8 << 30, "1 MiB to 8 GiB")?;
    let trial = within("trial_secs", input.trial_secs, 1, 3600, "1 to 3600 s")?;
    let limit = input.health_limit_secs;
    within("health_limit_secs", limit, trial.saturating_add(1), 7200, "more than trial_secs, up to 7200 s")?;
    Ok(WorkshopSettings {
        block: BlockLength(within("block_bytes", input.block_bytes, 256, 1 << 20, "256 to 1048576 bytes")?),
        trial: Duration::from_secs(trial),
        health_limit: Duration::from_secs(limit),
    })
}

fn is_printable(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

fn six_bytes(text: &str) -> Result<[u8; 6], SettingsError> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| SettingsError::Identification(text.to_owned()))
}

/// What `vehicle.toml` says about vehicle and TCU; the rest of the file is other services' business.
#[derive(Debug, Clone, Deserialize)]
pub struct Vehicle {
    pub vin: Vin,
    pub tcu: Tcu,
}

/// `[tcu]`.
#[derive(Debug, Clone, Deserialize)]
pub struct Tcu {
    pub hardware: HardwareId,
    pub serial: Option<String>,
    /// RX software identification numbers of the vehicle (UN R156); none: the DID is not served.
    #[serde(default)]
    pub rxswin: Vec<String>,
    /// Only for a server that runs alone: in a vehicle `self-update` says what runs.
    pub software_number: Option<String>,
    pub version: Option<String>,
}

impl Vehicle {
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed = |source| SettingsError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_VEHICLE_BYTES {
            return Err(SettingsError::TooLong(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let vehicle: Self = toml::from_str(&text)
            .map_err(|source| SettingsError::Vehicle { path: path.to_owned(), source: Box::new(source) })?;
        if vehicle.tcu.serial.as_deref().is_some_and(|serial| !is_printable(serial, 32)) {
            return Err(SettingsError::Serial);
        }
        let legal = |text: &String| is_printable(text, 64) && !text.contains(';');
        if vehicle.tcu.rxswin.len() > MAX_RXSWIN || !vehicle.tcu.rxswin.iter().all(legal) {
            return Err(SettingsError::Rxswin);
        }
        Ok(vehicle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDOR: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/uds-server.toml");

    fn settings(change: impl FnOnce(&mut Input)) -> Result<Settings, SettingsError> {
        let mut input: Input = toml::from_str(VENDOR).unwrap();
        change(&mut input);
        Settings::new(&input)
    }

    #[test]
    fn the_vendors_file_is_whole() {
        let settings = settings(|_| {}).unwrap();
        assert_eq!((settings.listen.port(), settings.address), (pitstop_doip::PORT, LogicalAddress(0x1100)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert!(matches!(settings(|i| i.logical_address = 0x0E80), Err(SettingsError::Address(_))));
        assert!(matches!(settings(|i| i.max_testers = 0), Err(SettingsError::Testers(0))));
        assert!(matches!(settings(|i| i.eid = "1:2".into()), Err(SettingsError::Identification(_))));
        let range = |result| matches!(result, Err(SettingsError::Workshop(..)));
        assert!(range(settings(|i| i.workshop.block_bytes = 100)));
        assert!(range(settings(|i| i.workshop.max_package_bytes = 10_000_000_000)));
        assert!(range(settings(|i| i.workshop.health_limit_secs = i.workshop.trial_secs)));
        assert!(toml::from_str::<Input>(&format!("colour = 1\n{VENDOR}")).is_err());
    }

    #[test]
    fn the_demonstrations_vehicle_is_read() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs-overlay/etc/pitstop/vehicle.toml"));
        let vehicle = Vehicle::read(path).unwrap();
        assert_eq!(vehicle.tcu.hardware.as_str(), "tcu-a1");
        assert!(vehicle.tcu.serial.is_some() && !vehicle.tcu.rxswin.is_empty());
    }

    #[test]
    fn an_rxswin_with_the_separator_in_it_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "vin = \"WP0ZZZ99ZTS392124\"\n[tcu]\nhardware = \"tcu-a1\"\nrxswin = [\"a;b\"]\n";
        std::fs::write(file.path(), text).unwrap();
        assert!(matches!(Vehicle::read(file.path()), Err(SettingsError::Rxswin)));
    }
}
