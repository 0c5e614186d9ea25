//! What the TCU says of itself, and what it lets an authenticated tester do. The doing is [`crate::workshop`]'s: here an order is put
//! into its queue, and the answer is given when it comes back.

use pitstop_dbus::SlotRelease;
use pitstop_types::{HardwareId, Vin};
use pitstop_uds::server::{
    AuthenticationAnswer, Authenticator, ClientId, Download, EcuContent, Protection, Reply, Rule, Sessions,
};
use pitstop_uds::{
    BlockLength, Did, Monotonic, Nrc, Request, ResetType, RoutineAction, RoutineId, ServiceId, SessionType,
};
use tokio::sync::{mpsc, watch};

use crate::testers::{Tester, Testers};
use crate::workshop::Order;

/// systemSupplierECUSoftwareVersionNumber (ISO 14229-1, annex C): here the version of this software itself.
const SUPPLIER_SOFTWARE_VERSION: Did = Did(0xF195);

/// How the workshop's update stands, as text; in the OEM's range of identification (F1A0 to F1EF).
pub const WORKSHOP_STATUS: Did = Did(0xF1E0);
/// Rolls the workshop's update back, before it is committed (OEM's range, 0200 to DFFF).
/// Answer: one status byte, 00 = done, 01 = done, and the TCU restarts as soon as the vehicle stands.
pub const ROLL_BACK: RoutineId = RoutineId(0x0210);

/// The way to [`crate::workshop`], and what it told last.
pub struct WorkshopLink {
    pub orders: mpsc::Sender<Order>,
    pub status: watch::Receiver<String>,
    /// Longest package taken, in bytes.
    pub max_package: u64,
}

/// The TCU behind the server's checks.
pub struct TcuContent {
    pub vin: Vin,
    pub hardware: HardwareId,
    pub serial: Option<String>,
    pub rxswin: Vec<String>,
    /// What runs; `None` while `self-update` does not answer.
    pub software: watch::Receiver<Option<SlotRelease>>,
    pub testers: Testers,
    pub authenticator: Authenticator<Tester>,
    /// `None`: it runs alone, and nothing can be updated.
    pub workshop: Option<WorkshopLink>,
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

impl TcuContent {
    /// Hands an order over. The server has one act under way at most, so there is room unless the task has ended.
    fn order<T>(&self, order: Order) -> Reply<T> {
        match self.workshop.as_ref().map(|link| link.orders.try_send(order)) {
            Some(Ok(())) => Reply::Later,
            _ => Reply::Refused(Nrc::ConditionsNotCorrect),
        }
    }
}

impl EcuContent for TcuContent {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        match service {
            ServiceId::DiagnosticSessionControl
            | ServiceId::TesterPresent
            | ServiceId::ReadDataByIdentifier
            // Known, so that a tester hears "out of range" for each DID and not "no such service".
            | ServiceId::WriteDataByIdentifier
            | ServiceId::Authentication => Some(Rule::open(Sessions::ALL)),
            ServiceId::RoutineControl
            | ServiceId::RequestDownload
            | ServiceId::TransferData
            | ServiceId::RequestTransferExit => Some(Rule::protected(Sessions::PROGRAMMING, Protection::Authenticated)),
            ServiceId::EcuReset => Some(Rule::protected(Sessions::ALL, Protection::Authenticated)),
            _ => None,
        }
    }

    fn may_enter(&self, _from: SessionType, to: SessionType) -> Result<(), Nrc> {
        match to {
            SessionType::Default | SessionType::Extended | SessionType::Programming => Ok(()),
            _ => Err(Nrc::SubFunctionNotSupported),
        }
    }

    fn read_rule(&self, did: Did) -> Option<Rule> {
        let served = match did {
            Did::VIN | Did::ECU_HARDWARE_NUMBER | Did::ECU_SOFTWARE_NUMBER | Did::ECU_SOFTWARE_VERSION => true,
            Did::ECU_SERIAL_NUMBER => self.serial.is_some(),
            Did::RXSWIN => !self.rxswin.is_empty(),
            SUPPLIER_SOFTWARE_VERSION => true,
            WORKSHOP_STATUS => self.workshop.is_some(),
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
            WORKSHOP_STATUS => {
                let told = self.workshop.as_ref().map(|link| link.status.borrow().clone().into_bytes());
                told.ok_or(Nrc::RequestOutOfRange)
            }
            _ => Err(Nrc::RequestOutOfRange),
        }
    }

    fn authenticate_client(
        &mut self,
        now: Monotonic,
        client: ClientId,
        request: &Request,
    ) -> Reply<AuthenticationAnswer> {
        self.authenticator.handle(now, client, request, &mut self.testers).0.into()
    }

    /// One package at address 0, not compressed, not encrypted: the bundle in it is what says how it is packed.
    fn check_download(&self, download: &Download) -> Result<(), Nrc> {
        let limit = self.workshop.as_ref().map_or(u64::MAX, |link| link.max_package);
        let fits = download.data_format == 0 && download.memory.address == 0 && download.memory.size <= limit;
        if fits { Ok(()) } else { Err(Nrc::RequestOutOfRange) }
    }

    fn begin_download(&mut self, download: &Download) -> Reply<BlockLength> {
        self.order(Order::Open(download.memory.size))
    }

    fn write_block(&mut self, _: &Download, _: u64, data: &[u8]) -> Reply<()> {
        self.order(Order::Block(data.to_vec()))
    }

    fn close_download(&mut self, _: &Download, parameters: &[u8]) -> Reply<Vec<u8>> {
        if parameters.is_empty() {
            self.order(Order::Close)
        } else {
            Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat)
        }
    }

    fn download_lost(&mut self) {
        let _: Reply<()> = self.order(Order::Abort);
    }

    fn client_gone(&mut self, client: ClientId) {
        self.authenticator.client_gone(client);
    }

    fn routine_rule(&self, routine: RoutineId) -> Option<Rule> {
        let known = matches!(routine, RoutineId::CHECK_DEPENDENCIES | ROLL_BACK);
        known.then_some(Rule::protected(Sessions::PROGRAMMING, Protection::Authenticated))
    }

    fn routine(&mut self, action: RoutineAction, routine: RoutineId, option: &[u8]) -> Reply<Vec<u8>> {
        if action != RoutineAction::Start {
            return Reply::Refused(Nrc::SubFunctionNotSupported);
        }
        match routine {
            _ if !option.is_empty() => Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat),
            RoutineId::CHECK_DEPENDENCIES => self.order(Order::Verify),
            ROLL_BACK => self.order(Order::RollBack),
            _ => Reply::Refused(Nrc::RequestOutOfRange),
        }
    }

    fn may_reset(&self, reset: ResetType) -> Result<Option<u8>, Nrc> {
        if reset == ResetType::Hard { Ok(None) } else { Err(Nrc::SubFunctionNotSupported) }
    }

    fn reset(&mut self, _: ResetType) -> Reply<Option<u8>> {
        self.order(Order::Restart)
    }
}
