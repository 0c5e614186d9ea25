//! The server's half of UDS around an [`EcuContent`]: which check comes when, sessions, security, transfer and their timers.
//!
//! One session, one security state and one transfer per ECU, whichever client asks; the answer goes to the client that asked. Only
//! authentication (29) is one client's own: as long as it lasts, nobody else can change session or state.
//! The order of checks is that of ISO 14229-1:2020, figures 5, 6, 30, 31, 33 and 34: [`Server::handle_input`] has the general
//! part, `handlers.rs` one function per service, `security.rs`, `transfer.rs` and `authentication.rs` the states with rules of their own.

mod authentication;
mod content;
mod handlers;
mod security;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::time::Duration;

pub use authentication::{Authenticator, AuthenticatorSettings, Judge};
pub use content::{AuthenticationAnswer, Download, EcuContent, Protection, Reply, Rule, Sessions};
use security::Security;
use transfer::Transfer;

use crate::{
    Addressing, BlockLength, Monotonic, Nrc, Request, ResetType, Response, ServiceId, SessionTiming, SessionType,
};

/// Who asked: a connection or channel, numbered by the owner of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Timers and limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// P2server and P2*server as told in positive session responses. 50 ms and 5 s.
    pub timing: SessionTiming,
    /// Without a request a session other than default ends after this time. 5 s.
    pub s3: Duration,
    /// Longest answer; a longer one is refused with NRC 14. 4095 bytes, what ISO-TP carries without the escape length.
    pub max_response: usize,
    /// Wrong keys (27) before the delay. 3.
    pub key_attempts: u8,
    /// No seed for this long after too many wrong keys. 10 s.
    pub key_delay: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            timing: SessionTiming { p2: Duration::from_millis(50), p2_star: Duration::from_millis(5000) },
            s3: Duration::from_millis(5000),
            max_response: 4095,
            key_attempts: 3,
            key_delay: Duration::from_secs(10),
        }
    }
}

/// What the owner of a server must act on. Send all pending transmits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent {
    /// The positive answer to 11 is queued (`answered`; not if it was suppressed); the server's state is already that of a fresh start.
    /// On DoIP: close the connection after the answer, then reset (ISO 14229-5).
    Reset { reset: ResetType, client: ClientId, answered: bool },
    /// The session changed by request, or (no client) because S3 ran out.
    Session { session: SessionType, client: Option<ClientId> },
}

/// Bytes for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTransmit {
    pub client: ClientId,
    pub pdu: Vec<u8>,
}

/// A UDS server; see the module's text.
#[derive(Debug)]
pub struct Server<C> {
    content: C,
    settings: ServerSettings,
    session: SessionType,
    s3_ends: Option<Monotonic>,
    security: Security,
    authenticated: Option<Authenticated>,
    /// Whose request is being handled.
    asking: ClientId,
    transfer: Option<Transfer>,
    pending: Option<Pending>,
    transmits: VecDeque<ServerTransmit>,
    events: VecDeque<ServerEvent>,
}

/// Whose authentication holds, and until when at the latest.
#[derive(Debug, Clone, Copy)]
struct Authenticated {
    client: ClientId,
    until: Option<Monotonic>,
}

/// A request whose answer comes later.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    kind: PendingKind,
    next_78: Monotonic,
    sent_78: bool,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    client: ClientId,
    addressing: Addressing,
    service: ServiceId,
    suppressed: bool,
}

/// How the answer is made when the act ends.
#[derive(Debug)]
enum PendingKind {
    /// The answer is ready, except for bytes the act adds at its end (routine status, 37's parameters).
    Answer(Response),
    Block {
        counter: u8,
        length: u64,
    },
    OpenTransfer(Download, bool),
    CloseTransfer,
    Reset(ResetType),
    Authentication,
    /// Nobody waits for it.
    Abandoned,
}

/// What a handler decides.
enum Act {
    Answer(Response),
    Later(PendingKind),
}

impl<C: EcuContent> Server<C> {
    pub fn new(content: C, settings: ServerSettings) -> Self {
        Self {
            content,
            settings,
            session: SessionType::Default,
            s3_ends: None,
            security: Security::default(),
            authenticated: None,
            asking: ClientId(0),
            transfer: None,
            pending: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn content(&self) -> &C {
        &self.content
    }

    /// To change what the ECU holds from outside (faults, signals); protocol state is not touched.
    pub fn content_mut(&mut self) -> &mut C {
        &mut self.content
    }

    pub fn session(&self) -> SessionType {
        self.session
    }

    pub fn is_authenticated(&self) -> bool {
        self.authenticated.is_some()
    }

    /// Whether an act is going on and [`Server::complete`] is awaited.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// A request came. An empty one is ignored.
    pub fn handle_input(&mut self, now: Monotonic, client: ClientId, addressing: Addressing, pdu: &[u8]) {
        let Some(&first) = pdu.first() else { return };
        let service = ServiceId::from(first);
        let asked = Asked { client, addressing, service, suppressed: Request::suppresses_response(pdu) };
        if self.pending.is_some() {
            return self.refuse_while_busy(asked);
        }
        self.asking = client;
        if self.is_anothers(service) {
            return self.refuse(asked, Nrc::BusyRepeatRequest, false);
        }
        let outcome = self.check_service(service).and_then(|rule| self.dispatch(now, asked, rule, pdu));
        match outcome {
            Ok(Act::Answer(response)) => self.answer(asked, response, false),
            Ok(Act::Later(kind)) => self.pend(now, asked, kind),
            Err(nrc) => self.refuse(asked, nrc, false),
        }
        self.restart_s3(now);
    }

    /// The act that was answered with [`Reply::Later`] has ended; for a routine the bytes are its status, for 37 its parameters.
    /// Ignored when nothing is pending (a reset came between).
    pub fn complete(&mut self, now: Monotonic, result: Result<Vec<u8>, Nrc>) {
        let Some(Pending { asked, kind, sent_78, .. }) = self.pending.take() else { return };
        match result {
            _ if matches!(kind, PendingKind::Abandoned) => {}
            Ok(bytes) => {
                let response = self.completed(asked.client, !asked.suppressed || sent_78, kind, bytes);
                self.answer(asked, response, sent_78);
            }
            Err(nrc) => {
                match kind {
                    // What fails for good takes its transfer with it; any other code lets the block be sent again.
                    PendingKind::Block { .. } if nrc == Nrc::TransferDataSuspended => self.lose_transfer(),
                    PendingKind::CloseTransfer => self.close_refused(nrc),
                    _ => {}
                }
                self.refuse(asked, nrc, sent_78);
            }
        }
        self.restart_s3(now);
    }

    /// Like [`Server::complete`], for Authentication (29).
    pub fn complete_authentication(&mut self, now: Monotonic, result: Result<AuthenticationAnswer, Nrc>) {
        if let (Ok(answer), Some(pending)) = (&result, &self.pending) {
            let client = pending.asked.client;
            self.settle_authentication(client, answer);
        }
        self.complete(now, result.map(|answer| answer.answer));
    }

    /// Like [`Server::complete`], for RequestDownload (34).
    pub fn complete_download(&mut self, now: Monotonic, result: Result<BlockLength, Nrc>) {
        if let (Ok(max_block), Some(Pending { kind: PendingKind::OpenTransfer(download, protected), .. })) =
            (&result, &self.pending)
        {
            self.transfer = Some(Transfer::new(*download, *max_block, *protected));
        }
        self.complete(now, result.map(|_| Vec::new()));
    }

    /// A client is gone for good (its connection closed): its authentication ends, and a download with it. The content is told.
    pub fn client_gone(&mut self, client: ClientId) {
        if self.authenticated.is_some_and(|authenticated| authenticated.client == client) {
            self.end_authentication();
        }
        let opening = matches!(self.pending, Some(Pending { kind: PendingKind::OpenTransfer(..), asked, .. })
            if asked.client == client);
        if let Some(pending) = self.pending.as_mut().filter(|_| opening) {
            // The act itself goes on; what it opens is not wanted any more.
            pending.kind = PendingKind::Abandoned;
            self.content.download_lost();
        }
        self.content.client_gone(client);
    }

    /// Nobody is authenticated any more; a protected download ends.
    pub fn end_authentication(&mut self) {
        self.authenticated = None;
        if self.transfer.as_ref().is_some_and(|transfer| transfer.protected) {
            self.lose_transfer();
        }
    }

    fn settle_authentication(&mut self, client: ClientId, answer: &AuthenticationAnswer) {
        match answer.authenticated {
            Some(true) => self.authenticated = Some(Authenticated { client, until: answer.until }),
            Some(false) => self.end_authentication(),
            None => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Monotonic) {
        let p2_star = self.settings.timing.p2_star;
        if let Some(pending) = &mut self.pending
            && pending.next_78 <= now
        {
            // Well before P2* ends, and never closer than 0.3 x P2* (ISO 14229-2).
            pending.next_78 = now + p2_star * 3 / 5;
            pending.sent_78 = true;
            let Asked { client, service, .. } = pending.asked;
            let response = Response::negative(service, Nrc::RequestCorrectlyReceivedResponsePending);
            self.transmit(client, &response);
        }
        if self.authentication_ends().is_some_and(|ends| ends <= now) {
            self.end_authentication();
        }
        if self.s3_ends.is_some_and(|ends| ends <= now) {
            self.enter(SessionType::Default);
            self.s3_ends = None;
            self.events.push_back(ServerEvent::Session { session: SessionType::Default, client: None });
        }
    }

    /// Back to the state of a fresh start (an ECU that restarted); content is not told, queued answers stay.
    pub fn restart(&mut self) {
        self.session = SessionType::Default;
        self.s3_ends = None;
        self.security.lock();
        self.authenticated = None;
        self.transfer = None;
        self.pending = None;
    }

    pub fn poll_transmit(&mut self) -> Option<ServerTransmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let pending = self.pending.as_ref().map(|pending| pending.next_78);
        pending.into_iter().chain(self.s3_ends).chain(self.authentication_ends()).min()
    }

    /// Not while an act goes on: what was begun with a right may end.
    fn authentication_ends(&self) -> Option<Monotonic> {
        self.authenticated.filter(|_| self.pending.is_none())?.until
    }

    /// Whether another client's authentication forbids this one to change session or state.
    fn is_anothers(&self, service: ServiceId) -> bool {
        let changes = matches!(
            service,
            ServiceId::DiagnosticSessionControl
                | ServiceId::EcuReset
                | ServiceId::SecurityAccess
                | ServiceId::Authentication
        );
        changes && self.authenticated.is_some_and(|authenticated| authenticated.client != self.asking)
    }

    fn is_authenticated_now(&self) -> bool {
        self.authenticated.is_some_and(|authenticated| authenticated.client == self.asking)
    }

    /// Checks 1 to 3: service known, served in this session, authenticated.
    fn check_service(&self, service: ServiceId) -> Result<Rule, Nrc> {
        let rule = self.content.service(service).ok_or(Nrc::ServiceNotSupported)?;
        if !rule.sessions.include(self.session) {
            return Err(Nrc::ServiceNotSupportedInActiveSession);
        }
        match rule.protection {
            Protection::Authenticated if !self.is_authenticated_now() => Err(Nrc::AuthenticationRequired),
            _ => Ok(rule),
        }
    }

    /// For DIDs, routines and services protected on their own.
    fn check_protection(&self, protection: Protection) -> Result<(), Nrc> {
        match protection {
            Protection::Unlocked if !self.security.is_unlocked() => Err(Nrc::SecurityAccessDenied),
            Protection::Authenticated if !self.is_authenticated_now() => Err(Nrc::AuthenticationRequired),
            _ => Ok(()),
        }
    }

    fn refuse_while_busy(&mut self, asked: Asked) {
        // Tester present while an act goes on is no request of its own; S3 is stopped anyway.
        if !(asked.service == ServiceId::TesterPresent && asked.suppressed) {
            self.refuse(asked, Nrc::BusyRepeatRequest, false);
        }
    }

    fn pend(&mut self, now: Monotonic, asked: Asked, kind: PendingKind) {
        self.s3_ends = None;
        // Some room before P2 ends, for the way to the client.
        let next_78 = now + self.settings.timing.p2 * 3 / 5;
        self.pending = Some(Pending { asked, kind, next_78, sent_78: false });
    }

    fn completed(&mut self, client: ClientId, answered: bool, kind: PendingKind, bytes: Vec<u8>) -> Response {
        match kind {
            PendingKind::Answer(Response::RoutineControl { action, routine, .. }) => {
                Response::RoutineControl { action, routine, status: bytes }
            }
            PendingKind::Answer(response) => response,
            PendingKind::Abandoned => Response::negative(ServiceId::Other(0), Nrc::GeneralReject),
            PendingKind::Block { counter, length } => self.block_taken(counter, length),
            PendingKind::CloseTransfer => {
                self.transfer = None;
                Response::RequestTransferExit { parameters: bytes }
            }
            PendingKind::OpenTransfer(..) => {
                let max_block = self.transfer.as_ref().map_or(BlockLength(0), Transfer::max_block);
                Response::RequestDownload { max_block }
            }
            PendingKind::Reset(reset) => self.reset_now(client, answered, reset, None),
            PendingKind::Authentication => Response::Other { service: ServiceId::Authentication.code(), data: bytes },
        }
    }

    fn answer(&mut self, asked: Asked, response: Response, sent_78: bool) {
        // After a "response pending" the final answer is sent even if it was to be suppressed.
        if !asked.suppressed || sent_78 {
            self.transmit(asked.client, &response);
        }
    }

    fn refuse(&mut self, asked: Asked, nrc: Nrc, sent_78: bool) {
        let silent = matches!(
            nrc,
            Nrc::ServiceNotSupported
                | Nrc::SubFunctionNotSupported
                | Nrc::RequestOutOfRange
                | Nrc::SubFunctionNotSupportedInActiveSession
                | Nrc::ServiceNotSupportedInActiveSession
        );
        if asked.addressing == Addressing::Functional && silent && !sent_78 {
            return;
        }
        self.transmit(asked.client, &Response::negative(asked.service, nrc));
    }

    fn transmit(&mut self, client: ClientId, response: &Response) {
        let too_long = Response::negative(response.service(), Nrc::ResponseTooLong);
        let pdu = match response.encode() {
            Ok(pdu) if pdu.len() <= self.settings.max_response => Some(pdu),
            _ => too_long.encode().ok(),
        };
        self.transmits.extend(pdu.map(|pdu| ServerTransmit { client, pdu }));
    }

    fn restart_s3(&mut self, now: Monotonic) {
        let runs = self.session != SessionType::Default && self.pending.is_none();
        self.s3_ends = runs.then(|| now + self.settings.s3);
    }

    /// The session changes: security is locked, authentication ends with the return to default, and a transfer ends that was
    /// opened under security or that the new session does not serve (ISO 14229-1, figure 7).
    fn enter(&mut self, session: SessionType) {
        self.session = session;
        self.security.lock();
        if session == SessionType::Default {
            self.authenticated = None;
        }
        let serves = self.content.service(ServiceId::TransferData).is_some_and(|rule| rule.sessions.include(session));
        if self.transfer.as_ref().is_some_and(|transfer| transfer.protected || !serves) {
            self.lose_transfer();
        }
        self.content.session_changed(session);
    }
}
