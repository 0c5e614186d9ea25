//! What the TCU says of itself: DIDs to read, and nothing to write.

use pitstop_dbus::SlotRelease;
use pitstop_types::{HardwareId, Vin};
use pitstop_uds::server::{EcuContent, Rule, Sessions};
use pitstop_uds::{Did, Nrc, ServiceId, SessionType};
use tokio::sync::watch;

/// systemSupplierECUSoftwareVersionNumber (ISO 14229-1, annex C): here the version of this software itself.
const SUPPLIER_SOFTWARE_VERSION: Did = Did(0xF195);

/// The TCU behind the server's checks.
pub struct TcuContent {
    pub vin: Vin,
    pub hardware: HardwareId,
    pub serial: Option<String>,
    pub rxswin: Vec<String>,
    /// What runs; `None` while `self-update` does not answer.
    pub software: watch::Receiver<Option<SlotRelease>>,
}

impl TcuContent {
    /// Whether the answer to `did` depends on `self-update`.
    pub fn needs_software(did: Did) -> bool {
        did == Did::ECU_SOFTWARE_NUMBER || did == Did::ECU_SOFTWARE_VERSION
    }

    /// Condition not correct, so that a tester asks again, when nobody says what runs.
    fn software(&self, field: impl FnOnce(&SlotRelease) -> String) -> Result<Vec<u8>, Nrc> {
        self.software.borrow().as_ref().map(|release| field(release).into_bytes()).ok_or(Nrc::ConditionsNotCorrect)
    }
}

impl EcuContent for TcuContent {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        match service {
            ServiceId::DiagnosticSessionControl
            | ServiceId::TesterPresent
            | ServiceId::ReadDataByIdentifier
            // Known, so that a tester hears "out of range" for each DID and not "no such service".
            | ServiceId::WriteDataByIdentifier => Some(Rule::open(Sessions::ALL)),
            _ => None,
        }
    }

    fn may_enter(&self, _from: SessionType, to: SessionType) -> Result<(), Nrc> {
        match to {
            SessionType::Default | SessionType::Extended => Ok(()),
            _ => Err(Nrc::SubFunctionNotSupported),
        }
    }

    fn read_rule(&self, did: Did) -> Option<Rule> {
        let served = match did {
            Did::VIN | Did::ECU_HARDWARE_NUMBER | Did::ECU_SOFTWARE_NUMBER | Did::ECU_SOFTWARE_VERSION => true,
            Did::ECU_SERIAL_NUMBER => self.serial.is_some(),
            Did::RXSWIN => !self.rxswin.is_empty(),
            SUPPLIER_SOFTWARE_VERSION => true,
            _ => false,
        };
        served.then_some(Rule::open(Sessions::ALL))
    }

    fn read(&mut self, did: Did) -> Result<Vec<u8>, Nrc> {
        match did {
            Did::VIN => Ok(self.vin.as_str().into()),
            Did::ECU_HARDWARE_NUMBER => Ok(self.hardware.as_str().into()),
            Did::ECU_SERIAL_NUMBER => self.serial.clone().map(String::into_bytes).ok_or(Nrc::RequestOutOfRange),
            // One RXSWIN after the other, separated by semicolons; the DID's form is the maker's.
            Did::RXSWIN => Ok(self.rxswin.join(";").into_bytes()),
            Did::ECU_SOFTWARE_NUMBER => self.software(|release| release.software_number.clone()),
            Did::ECU_SOFTWARE_VERSION => self.software(|release| release.version.clone()),
            SUPPLIER_SOFTWARE_VERSION => Ok(concat!("pitstop ", env!("CARGO_PKG_VERSION")).into()),
            _ => Err(Nrc::RequestOutOfRange),
        }
    }
}
