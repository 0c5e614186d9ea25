use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pitstop_types::{BusName, EcuId, HardwareId, SoftwareVersion, Vin};
use serde::Deserialize;

/// The simulated vehicle as its TOML file describes it. Paths in it are relative to the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vehicle {
    pub vin: Vin,
    /// DBC file that gives the layout of broadcast messages.
    pub dbc: PathBuf,
    #[serde(rename = "bus")]
    pub buses: Vec<Bus>,
    #[serde(rename = "ecu")]
    pub ecus: Vec<EcuSpec>,
}

/// One CAN bus of the hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    pub name: BusName,
    /// Nominal bit rate, bit/s.
    pub bitrate: u32,
    /// Bit rate of the data phase, bit/s; a bus without it is classic.
    pub data_bitrate: Option<u32>,
}

/// One simulated ECU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcuSpec {
    pub id: EcuId,
    pub hardware: HardwareId,
    pub serial: String,
    /// F180 and what the loader is called.
    pub boot_software: String,
    pub address: Address,
    pub banks: Banks,
    pub memory: Memory,
    /// From reset to the first answer, ms.
    #[serde(default = "default_boot_ms")]
    pub boot_ms: u64,
    /// maxNumberOfBlockLength, bytes.
    #[serde(default = "default_max_block")]
    pub max_block: u64,
    /// On CAN: consecutive frames it takes before it sends the next flow control, 0 for no limit.
    #[serde(default)]
    pub frames_per_block: u8,
    #[serde(default)]
    pub security: Security,
    /// Dual bank: starts in trial before the ECU goes back by itself.
    #[serde(default = "default_trial_starts")]
    pub trial_starts: u32,
    /// What is in the flash of a new ECU.
    pub software: Option<Software>,
    #[serde(default)]
    pub dtcs: Vec<Dtc>,
    #[serde(default, rename = "broadcast")]
    pub broadcasts: Vec<Broadcast>,
    /// Whether this ECU keeps the vehicle from driving (DriveInhibitRequest in, DriveInhibitStatus out).
    #[serde(default)]
    pub drive_inhibit: bool,
}

/// How testers reach an ECU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "kebab-case")]
pub enum Address {
    Can {
        bus: BusName,
        request: u32,
        response: u32,
    },
    /// `via`: the DoIP gateway the ECU lies behind; without it the ECU is the gateway.
    Doip {
        logical: u16,
        via: Option<EcuId>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Banks {
    /// Overwritten by its loader.
    Single,
    /// Written while it works, then switched.
    Dual,
}

/// Flash of one bank; both banks of a dual-bank ECU have the same addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub base: u32,
    pub size: u32,
    /// Erase granularity, bytes, a power of two.
    pub sector: u32,
    /// Where the identity block lies.
    pub identity: u32,
    /// Time to erase 1 KiB, ms.
    pub erase_ms_per_kib: f64,
    /// Time to write 1 KiB, ms.
    pub write_ms_per_kib: f64,
}

/// SecurityAccess of an ECU.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "kebab-case")]
pub enum Security {
    #[default]
    None,
    /// Key = the first 16 bytes of SHA-256(secret, level, seed); level is the odd one of the seed request.
    Sha256 { level: u8, secret: String },
}

/// Software put into a new ECU's flash.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    pub file: PathBuf,
    pub address: u32,
    pub number: String,
    pub version: SoftwareVersion,
    pub counter: u32,
}

/// A stored trouble code.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dtc {
    /// Three bytes.
    pub code: u32,
    pub status: u8,
}

/// A message the ECU sends while its software runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    pub bus: BusName,
    /// Name in the DBC file.
    pub message: String,
    pub cycle_ms: u64,
    /// Values by signal name; a signal that is not named here is sent as "not available".
    pub signals: BTreeMap<String, f64>,
}

fn default_boot_ms() -> u64 {
    300
}

fn default_max_block() -> u64 {
    4095
}

fn default_trial_starts() -> u32 {
    10
}

/// Why a vehicle file is refused.
#[derive(Debug, thiserror::Error)]
pub enum VehicleError {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("vehicle file {path}")]
    Toml {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("vehicle file: {what}")]
    Content { what: String },
}

impl Vehicle {
    /// Reads the file, makes its paths absolute and checks what refers to what.
    pub fn load(path: &Path) -> Result<Self, VehicleError> {
        let text = std::fs::read_to_string(path).map_err(|source| VehicleError::Read { path: path.into(), source })?;
        let mut vehicle: Self = toml::from_str(&text)
            .map_err(|source| VehicleError::Toml { path: path.into(), source: Box::new(source) })?;
        let base = path.parent().unwrap_or(Path::new("."));
        vehicle.dbc = base.join(&vehicle.dbc);
        for software in vehicle.ecus.iter_mut().filter_map(|ecu| ecu.software.as_mut()) {
            software.file = base.join(&software.file);
        }
        vehicle.check()?;
        Ok(vehicle)
    }

    pub fn bus(&self, name: &BusName) -> Option<&Bus> {
        self.buses.iter().find(|bus| bus.name == *name)
    }

    fn check(&self) -> Result<(), VehicleError> {
        for (index, ecu) in self.ecus.iter().enumerate() {
            if self.ecus.iter().take(index).any(|other| other.id == ecu.id) {
                return Err(content(format!("{} is listed twice", ecu.id)));
            }
            ecu.check(self)?;
        }
        let gateways = self.ecus.iter().filter(|ecu| matches!(ecu.address, Address::Doip { via: None, .. })).count();
        if gateways > 1 {
            return Err(content("one DoIP gateway is possible".into()));
        }
        Ok(())
    }
}

impl EcuSpec {
    fn check(&self, vehicle: &Vehicle) -> Result<(), VehicleError> {
        let wrong = |what: &str| Err(content(format!("{}: {what}", self.id)));
        let Memory { base, size, sector, identity, .. } = self.memory;
        if !sector.is_power_of_two() || base % sector != 0 || size % sector != 0 || size == 0 {
            return wrong("base and size are multiples of the sector, a power of two");
        }
        let end = u64::from(base) + u64::from(size);
        if end > 1 << 32 || identity < base || u64::from(identity) + 64 > end {
            return wrong("the identity block lies outside the memory");
        }
        let bus_known = |bus: &BusName| vehicle.bus(bus).is_some();
        match &self.address {
            Address::Can { bus, .. } if !bus_known(bus) => return wrong("its bus is not listed"),
            Address::Doip { via: Some(via), .. } => {
                let is_gateway =
                    |ecu: &EcuSpec| ecu.id == *via && matches!(ecu.address, Address::Doip { via: None, .. });
                if !vehicle.ecus.iter().any(is_gateway) {
                    return wrong("it lies behind an ECU that is no DoIP gateway");
                }
            }
            _ => {}
        }
        if self.broadcasts.iter().any(|broadcast| !bus_known(&broadcast.bus) || broadcast.cycle_ms == 0) {
            return wrong("a broadcast has an unknown bus or no cycle time");
        }
        if let Security::Sha256 { level, secret } = &self.security
            && (level % 2 == 0 || hex::decode(secret).is_err())
        {
            return wrong("security needs an odd level and a secret in hexadecimal");
        }
        Ok(())
    }
}

fn content(what: String) -> VehicleError {
    VehicleError::Content { what }
}
