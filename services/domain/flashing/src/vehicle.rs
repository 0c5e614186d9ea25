//! `vehicle.toml`: which buses and ECUs this vehicle has and how each is reached.

use std::collections::{BTreeMap, BTreeSet};

use pitstop_types::{BusName, EcuId, HardwareId, Vin};
use serde::Deserialize;

/// Largest `vehicle.toml` read, in bytes.
pub const MAX_VEHICLE_FILE: usize = 256 * 1024;
/// Most buses and ECUs of one vehicle.
pub const MAX_BUSES: usize = 16;
pub const MAX_ECUS: usize = 64;

/// A vehicle's diagnostic topology, checked: every name resolves, every address is unique on its bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vehicle {
    pub vin: Vin,
    pub tcu: Tcu,
    pub buses: BTreeMap<BusName, Bus>,
    pub ecus: BTreeMap<EcuId, Ecu>,
}

/// The TCU itself. `self-update` writes it, `uds-server` speaks for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcu {
    pub hardware: HardwareId,
    /// Serial number the TCU reports (DID F18C).
    #[serde(default)]
    pub serial: Option<String>,
    /// RX software identification numbers of the vehicle (UN R156), as its type approval names them (DID F1EF).
    #[serde(default)]
    pub rxswin: Vec<String>,
}

/// One bus and how this computer reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bus {
    pub name: BusName,
    /// `hub:PATH#BUS`, `socketcan:IFACE`, `socketcand:HOST:PORT:BUS` or `tcp:HOST:PORT`; whoever opens it reads it.
    pub link: String,
    pub kind: BusKind,
}

/// What runs on the bus. Bit rates are in bit/s and serve for estimates and for configuring simulated links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusKind {
    /// ISO 11898-1 classic frames, ISO 15765-2 transport.
    Can { bitrate: u32 },
    /// CAN FD with bit-rate switch, 64-byte frames.
    CanFd { bitrate: u32, data_bitrate: u32 },
    /// ISO 13400-2; `tester` is the logical address this computer uses; ECU after ECU of the bus takes the next one.
    Doip { tester: u16 },
}

/// One ECU that may be fitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ecu {
    pub id: EcuId,
    pub hardware: HardwareId,
    pub bus: BusName,
    pub address: Address,
    /// The gateway it lies behind: unreachable while that one restarts.
    pub via: Option<EcuId>,
    pub banks: Banks,
    /// Name of its flash profile.
    pub profile: String,
}

/// How an ECU is addressed on its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// CAN identifiers (11 or 29 bit) of physical requests, answers and functional requests.
    Can { request: u32, response: u32, functional: u32 },
    /// DoIP logical address.
    Doip { logical: u16 },
}

/// Bank layout of an ECU's flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Banks {
    /// Overwrites what runs.
    Single,
    /// Written while the other bank runs, then switched.
    Dual,
}

/// Why a vehicle description is refused.
#[derive(Debug, thiserror::Error)]
pub enum VehicleError {
    #[error("vehicle description of {0} bytes, at most {MAX_VEHICLE_FILE} are read")]
    TooLarge(usize),
    #[error("vehicle description")]
    Toml(#[from] toml::de::Error),
    #[error("{what}: {count} entries, at most {limit}")]
    TooMany { what: &'static str, count: usize, limit: usize },
    #[error("{what} {name} stands twice")]
    Twice { what: &'static str, name: String },
    #[error("bus {bus}: {problem}")]
    Bus { bus: BusName, problem: &'static str },
    #[error("ECU {ecu}: {problem}")]
    Ecu { ecu: EcuId, problem: &'static str },
}

impl Vehicle {
    /// Reads `vehicle.toml`. Unknown keys are refused: a misspelt address would otherwise go unnoticed.
    pub fn read(text: &str) -> Result<Self, VehicleError> {
        if text.len() > MAX_VEHICLE_FILE {
            return Err(VehicleError::TooLarge(text.len()));
        }
        let file: FileVehicle = toml::from_str(text)?;
        at_most("bus", file.bus.len(), MAX_BUSES)?;
        at_most("ecu", file.ecu.len(), MAX_ECUS)?;
        let mut buses = BTreeMap::new();
        for bus in file.bus {
            let bus = bus.check()?;
            if let Some(old) = buses.insert(bus.name.clone(), bus) {
                return Err(VehicleError::Twice { what: "bus", name: old.name.to_string() });
            }
        }
        let mut ecus = BTreeMap::new();
        for ecu in file.ecu {
            let ecu = ecu.check(&buses)?;
            if let Some(old) = ecus.insert(ecu.id.clone(), ecu) {
                return Err(VehicleError::Twice { what: "ecu", name: old.id.to_string() });
            }
        }
        let vehicle = Self { vin: file.vin, tcu: file.tcu, buses, ecus };
        vehicle.check_addresses()?;
        vehicle.check_gateways()?;
        Ok(vehicle)
    }

    /// ECUs that cannot be reached while `gateway` restarts.
    pub fn behind<'a>(&'a self, gateway: &'a EcuId) -> impl Iterator<Item = &'a Ecu> + 'a {
        self.ecus.values().filter(move |ecu| ecu.via.as_ref() == Some(gateway))
    }

    fn check_addresses(&self) -> Result<(), VehicleError> {
        let mut seen = BTreeSet::new();
        for ecu in self.ecus.values() {
            let addresses = match ecu.address {
                Address::Can { request, response, .. } => vec![request, response],
                Address::Doip { logical } => vec![u32::from(logical)],
            };
            for address in addresses {
                if !seen.insert((&ecu.bus, address)) {
                    return Err(ecu.wrong("its address is another's on the same bus"));
                }
            }
        }
        Ok(())
    }

    fn check_gateways(&self) -> Result<(), VehicleError> {
        for ecu in self.ecus.values() {
            let Some(via) = &ecu.via else { continue };
            let Some(gateway) = self.ecus.get(via) else { return Err(ecu.wrong("its gateway is not listed")) };
            // One level is what vehicles have; it also rules out a circle.
            if gateway.via.is_some() || gateway.id == ecu.id {
                return Err(ecu.wrong("its gateway lies behind a gateway itself"));
            }
            if gateway.bus != ecu.bus {
                return Err(ecu.wrong("its gateway is on another bus"));
            }
        }
        Ok(())
    }
}

impl Ecu {
    fn wrong(&self, problem: &'static str) -> VehicleError {
        VehicleError::Ecu { ecu: self.id.clone(), problem }
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), VehicleError> {
    if count > limit { Err(VehicleError::TooMany { what, count, limit }) } else { Ok(()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVehicle {
    vin: Vin,
    tcu: Tcu,
    #[serde(default)]
    bus: Vec<FileBus>,
    #[serde(default)]
    ecu: Vec<FileEcu>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBus {
    name: BusName,
    kind: FileKind,
    link: String,
    bitrate: Option<u32>,
    data_bitrate: Option<u32>,
    tester: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileKind {
    Can,
    CanFd,
    Doip,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEcu {
    id: EcuId,
    hardware: HardwareId,
    bus: BusName,
    request: Option<u32>,
    response: Option<u32>,
    functional: Option<u32>,
    address: Option<u16>,
    via: Option<EcuId>,
    banks: Banks,
    profile: String,
}

/// Tester address used where the file names none: from the range for external testers (ISO 13400-2, table of logical addresses).
const DEFAULT_TESTER: u16 = 0x0E80;
/// Functional request identifier of 11-bit diagnostics (ISO 15765-4).
const DEFAULT_FUNCTIONAL: u32 = 0x7DF;
const MAX_CAN_ID: u32 = 0x1FFF_FFFF;
/// Longest link text, in bytes: a Unix socket's path and a name.
const MAX_LINK: usize = 160;

impl FileBus {
    fn check(self) -> Result<Bus, VehicleError> {
        let wrong = |problem| VehicleError::Bus { bus: self.name.clone(), problem };
        if self.link.len() > MAX_LINK {
            return Err(wrong("its link is too long"));
        }
        if self.link.starts_with("tcp:") != (self.kind == FileKind::Doip) {
            return Err(wrong("tcp links are for kind doip and only for it"));
        }
        let kind = match (self.kind, self.bitrate, self.data_bitrate, self.tester) {
            (FileKind::Can, Some(bitrate), None, None) => BusKind::Can { bitrate },
            (FileKind::CanFd, Some(bitrate), Some(data_bitrate), None) => BusKind::CanFd { bitrate, data_bitrate },
            (FileKind::Doip, None, None, tester) => BusKind::Doip { tester: tester.unwrap_or(DEFAULT_TESTER) },
            (FileKind::Can, ..) => return Err(wrong("kind can takes bitrate, and no data_bitrate or tester")),
            (FileKind::CanFd, ..) => return Err(wrong("kind can-fd takes bitrate and data_bitrate, and no tester")),
            (FileKind::Doip, ..) => return Err(wrong("kind doip takes no bit rates")),
        };
        Ok(Bus { name: self.name, link: self.link, kind })
    }
}

impl FileEcu {
    fn check(self, buses: &BTreeMap<BusName, Bus>) -> Result<Ecu, VehicleError> {
        let wrong = |problem| VehicleError::Ecu { ecu: self.id.clone(), problem };
        if self.id.is_tcu() {
            return Err(wrong("the TCU stands in [tcu], not among the ECUs that are flashed"));
        }
        let plain =
            self.profile.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if self.profile.is_empty() || self.profile.len() > 32 || !plain {
            return Err(wrong("profile names are 1 to 32 of a-z, 0-9, - and _"));
        }
        let bus = buses.get(&self.bus).ok_or_else(|| wrong("its bus is not listed"))?;
        let address = match (bus.kind, self.request, self.response, self.address) {
            (BusKind::Doip { .. }, None, None, Some(logical)) if self.functional.is_none() => Address::Doip { logical },
            (BusKind::Can { .. } | BusKind::CanFd { .. }, Some(request), Some(response), None) => {
                let functional = self.functional.unwrap_or(DEFAULT_FUNCTIONAL);
                if [request, response, functional].iter().any(|id| *id > MAX_CAN_ID) {
                    return Err(wrong("a CAN identifier has 29 bits at most"));
                }
                Address::Can { request, response, functional }
            }
            (BusKind::Doip { .. }, ..) => return Err(wrong("on DoIP it has address and no CAN identifiers")),
            _ => return Err(wrong("on CAN it has request and response and no address")),
        };
        Ok(Ecu {
            id: self.id,
            hardware: self.hardware,
            bus: self.bus,
            address,
            via: self.via,
            banks: self.banks,
            profile: self.profile,
        })
    }
}

#[cfg(test)]
mod tests;
