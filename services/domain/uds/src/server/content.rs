use super::ClientId;
use crate::{
    AddressAndSize, BlockLength, Did, Monotonic, Nrc, Request, ResetType, RoutineAction, RoutineId, ServiceId,
    SessionType,
};

/// A set of sessions in which something is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions {
    pub default: bool,
    pub programming: bool,
    pub extended: bool,
}

impl Sessions {
    pub const ALL: Self = Self { default: true, programming: true, extended: true };
    pub const NOT_DEFAULT: Self = Self { default: false, programming: true, extended: true };
    pub const PROGRAMMING: Self = Self { default: false, programming: true, extended: false };
    pub const EXTENDED: Self = Self { default: false, programming: false, extended: true };

    /// Sessions beside the three standard ones are treated like extended.
    pub const fn include(self, session: SessionType) -> bool {
        match session {
            SessionType::Default => self.default,
            SessionType::Programming => self.programming,
            SessionType::Extended | SessionType::SafetySystem | SessionType::Other(_) => self.extended,
        }
    }
}

/// What protects a service, DID or routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Open,
    /// Unlocked by SecurityAccess (27), any level: otherwise NRC 33.
    Unlocked,
    /// Authenticated (29): otherwise NRC 34.
    Authenticated,
}

/// Where and to whom something is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub sessions: Sessions,
    pub protection: Protection,
}

impl Rule {
    pub const fn open(sessions: Sessions) -> Self {
        Self { sessions, protection: Protection::Open }
    }

    pub const fn protected(sessions: Sessions, protection: Protection) -> Self {
        Self { sessions, protection }
    }
}

/// The answer to an act: done now, refused, or still going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    Done(T),
    Refused(Nrc),
    /// The act goes on; the server sends "response pending" in time until [`crate::server::Server::complete`] is called.
    Later,
}

impl<T> From<Result<T, Nrc>> for Reply<T> {
    fn from(result: Result<T, Nrc>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(nrc) => Self::Refused(nrc),
        }
    }
}

/// A download (34) the content has agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    pub data_format: u8,
    pub memory: AddressAndSize,
}

/// An answer to Authentication (29).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationAnswer {
    /// The bytes after the service identifier: task, return parameter, rest.
    pub answer: Vec<u8>,
    /// Whether the client is authenticated from now on; `None` changes nothing.
    pub authenticated: Option<bool>,
    /// When that ends by itself at the latest; `None`: with the session.
    pub until: Option<Monotonic>,
}

/// What one ECU holds and does, behind the server's checks: the server calls a method only when service, session, protection,
/// sub-function, length and sequence have been checked, so that an implementation deals with content only.
///
/// Everything has a default that refuses, so that an ECU implements what it serves.
#[expect(unused_variables, reason = "the defaults refuse whatever they are given")]
pub trait EcuContent {
    /// Where a service is served; `None`: not at all (NRC 11).
    fn service(&self, service: ServiceId) -> Option<Rule>;

    /// May the session change? Called before the positive answer; NRC 12 for a session this ECU does not have.
    fn may_enter(&self, from: SessionType, to: SessionType) -> Result<(), Nrc> {
        Ok(())
    }

    /// The session has changed (also by S3 running out, to default).
    fn session_changed(&mut self, session: SessionType) {}

    /// A reset is asked for; the server answers and then reports [`crate::server::ServerEvent::Reset`].
    fn may_reset(&self, reset: ResetType) -> Result<Option<u8>, Nrc> {
        Err(Nrc::SubFunctionNotSupported)
    }

    /// Asked after [`EcuContent::may_reset`] agreed, for what takes time to find out; bytes given to
    /// [`crate::server::Server::complete`] are ignored.
    fn reset(&mut self, reset: ResetType) -> Reply<Option<u8>> {
        self.may_reset(reset).into()
    }

    /// 22; `None`: no such DID here.
    fn read_rule(&self, did: Did) -> Option<Rule> {
        None
    }

    fn read(&mut self, did: Did) -> Result<Vec<u8>, Nrc> {
        Err(Nrc::RequestOutOfRange)
    }

    /// 2E; `None`: no such DID here, or not to be written.
    fn write_rule(&self, did: Did) -> Option<Rule> {
        None
    }

    fn write(&mut self, did: Did, data: &[u8]) -> Reply<()> {
        Reply::Refused(Nrc::RequestOutOfRange)
    }

    /// 31; `None`: no such routine here.
    fn routine_rule(&self, routine: RoutineId) -> Option<Rule> {
        None
    }

    /// The answer is routineInfo and status together.
    fn routine(&mut self, action: RoutineAction, routine: RoutineId, option: &[u8]) -> Reply<Vec<u8>> {
        Reply::Refused(Nrc::RequestOutOfRange)
    }

    /// 34: whether format, address and size fit this ECU (NRC 31 otherwise). Called before the security check.
    fn check_download(&self, download: &Download) -> Result<(), Nrc> {
        Err(Nrc::RequestOutOfRange)
    }

    /// 34: opens the download; the answer is the longest 36 message.
    fn open_download(&mut self, download: &Download) -> Result<BlockLength, Nrc> {
        Err(Nrc::UploadDownloadNotAccepted)
    }

    /// The same where it takes time; ended by [`crate::server::Server::complete_download`].
    fn begin_download(&mut self, download: &Download) -> Reply<BlockLength> {
        self.open_download(download).into()
    }

    /// 36: `offset` bytes of this download are already taken; the data fits in it.
    fn write_block(&mut self, download: &Download, offset: u64, data: &[u8]) -> Reply<()> {
        Reply::Refused(Nrc::GeneralProgrammingFailure)
    }

    /// 37, all bytes are in; the answer is the parameter record (may be empty).
    fn close_download(&mut self, download: &Download, parameters: &[u8]) -> Reply<Vec<u8>> {
        Reply::Done(Vec::new())
    }

    /// The download ended without a 37 that succeeded (session change, reset, too much data, a refusal that ends it).
    fn download_lost(&mut self) {}

    /// Whoever this was has left and does not come back under this number: what is kept of it is of no use any more.
    fn client_gone(&mut self, client: ClientId) {}

    /// 27, odd level; the seed's bytes, not all zero. `Err(SubFunctionNotSupported)`: no such level.
    fn seed(&mut self, level: u8, data: &[u8]) -> Result<Vec<u8>, Nrc> {
        Err(Nrc::SubFunctionNotSupported)
    }

    /// 27, even level: whether the key fits the seed given out for `level - 1`.
    fn key_fits(&self, level: u8, seed: &[u8], key: &[u8]) -> bool {
        false
    }

    /// 29, decoded; de-authentication and configuration too.
    fn authenticate(&mut self, request: &Request) -> Reply<AuthenticationAnswer> {
        Reply::Refused(Nrc::SubFunctionNotSupported)
    }

    /// The same where it matters who asks, and when.
    fn authenticate_client(
        &mut self,
        now: Monotonic,
        client: ClientId,
        request: &Request,
    ) -> Reply<AuthenticationAnswer> {
        self.authenticate(request)
    }

    /// 19: what follows the report type in the answer.
    fn read_dtcs(&mut self, report: u8, parameters: &[u8]) -> Result<Vec<u8>, Nrc> {
        Err(Nrc::SubFunctionNotSupported)
    }

    /// 14
    fn clear_dtcs(&mut self, group: u32) -> Result<(), Nrc> {
        Err(Nrc::RequestOutOfRange)
    }

    /// 28
    fn communication_control(&mut self, control: u8, communication_type: u8) -> Result<(), Nrc> {
        Err(Nrc::SubFunctionNotSupported)
    }

    /// 85: true is on.
    fn dtc_setting(&mut self, on: bool) -> Result<(), Nrc> {
        Err(Nrc::SubFunctionNotSupported)
    }
}
