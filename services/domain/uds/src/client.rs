use std::collections::VecDeque;
use std::time::Duration;

use crate::response::SessionTiming;
use crate::{Addressing, EncodeError, Monotonic, Nrc, Request, Response, ServiceId};

/// Timers of the client side. The defaults are those of ISO 14229-2 with room for a gateway and a loaded tester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTiming {
    /// P2server until the ECU says otherwise: first answer. 50 ms.
    pub p2: Duration,
    /// P2*server until the ECU says otherwise: next answer after "response pending". 5 s.
    pub p2_star: Duration,
    /// Added to both for the way through bus, gateway and our own scheduling. 1 s, as DoIP testers wait (P6).
    pub margin: Duration,
    /// S3client: an idle session is kept alive this often. 2 s (the server drops it after 5 s).
    pub s3_client: Duration,
    /// Pause before a request is repeated after "busy" (21, 94). 200 ms.
    pub busy_pause: Duration,
}

impl Default for ClientTiming {
    fn default() -> Self {
        Self {
            p2: Duration::from_millis(50),
            p2_star: Duration::from_millis(5000),
            margin: Duration::from_millis(1000),
            s3_client: Duration::from_millis(2000),
            busy_pause: Duration::from_millis(200),
        }
    }
}

/// How far one request may go. Limits are per step because an erase may take minutes and a read never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// From the request's sending to its final answer, however many "response pending" come between.
    pub total: Duration,
    /// How often a request without any answer is sent again. Zero where repeating is an act of its own (10, 11, 31, 34),
    /// and on DoIP, where a late answer could be taken for the next request's: connect anew there.
    pub repeats: u8,
}

impl StepLimits {
    /// Usual limits for a request: 30 s and two repeats where the server tells a repetition from a new act, otherwise none.
    pub fn for_request(request: &Request) -> Self {
        let repeats = match request.service() {
            ServiceId::ReadDataByIdentifier
            | ServiceId::ReadDtcInformation
            | ServiceId::TesterPresent
            | ServiceId::TransferData => 2,
            _ => 0,
        };
        Self { total: Duration::from_secs(30), repeats }
    }

    /// The same with another overall limit.
    pub fn within(self, total: Duration) -> Self {
        Self { total, ..self }
    }
}

/// Bytes to send, and how. Report the end of sending with [`ClientSession::handle_sent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    pub addressing: Addressing,
    pub pdu: Vec<u8>,
}

/// Why a request ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the ECU did not answer {service}, sent {times} times")]
    NoAnswer { service: ServiceId, times: u8 },
    #[error("the ECU kept {service} pending longer than {limit:?}")]
    PendingTooLong { service: ServiceId, limit: Duration },
    #[error("the ECU was busy for {service} longer than {limit:?}")]
    BusyTooLong { service: ServiceId, limit: Duration },
    #[error("the link was lost while {service} was under way")]
    LinkLost { service: ServiceId },
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefused {
    #[error("a request is under way; a diagnostic session has one at a time")]
    UnderWay,
    #[error("the request cannot be written")]
    Encode(#[from] EncodeError),
}

/// What the session reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The answer. It ends a physical request; a functional one goes on until [`ClientEvent::Silent`].
    Response(Response),
    /// "Response pending" arrived for the `count`th time; the request goes on.
    Pending { count: u32 },
    /// The time for answers to a functional or suppressed request has passed, no negative answer came.
    Silent,
    /// The request ended without an answer.
    Failed(ClientError),
}

#[derive(Debug)]
struct InFlight {
    addressing: Addressing,
    pdu: Vec<u8>,
    suppressed: bool,
    limits: StepLimits,
    started: Monotonic,
    sent: u8,
    pending: u32,
    wait: Wait,
}

#[derive(Debug, Clone, Copy)]
enum Wait {
    /// The link has the bytes and has not said that they are out.
    Sending {
        until: Monotonic,
    },
    Answer {
        until: Monotonic,
    },
    Pause {
        until: Monotonic,
    },
}

/// The client's half of one diagnostic session with one ECU: one request at a time.
///
/// It waits P2, then P2* after each "response pending" within the step's limit, repeats after "busy" and after silence as the
/// limits allow, and sends tester present (`3E 80`) when the session was idle for S3client and [`ClientSession::keep_alive`] is on.
#[derive(Debug)]
pub struct ClientSession {
    timing: ClientTiming,
    server: SessionTiming,
    keep_alive: bool,
    last_activity: Monotonic,
    current: Option<InFlight>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ClientEvent>,
}

impl ClientSession {
    pub fn new(timing: ClientTiming) -> Self {
        Self {
            timing,
            server: SessionTiming { p2: timing.p2, p2_star: timing.p2_star },
            keep_alive: false,
            last_activity: Monotonic::ZERO,
            current: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Turns tester present on or off. Leave it off in the default session, which never ends.
    ///
    /// S3client runs from the last message, not from here: whoever waits in many short turns keeps the session alive too.
    pub fn keep_alive(&mut self, on: bool) {
        self.keep_alive = on;
    }

    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Starts a request to one ECU.
    pub fn request(&mut self, now: Monotonic, request: &Request, limits: StepLimits) -> Result<(), RequestRefused> {
        let pdu = request.encode()?;
        self.start(now, pdu, Addressing::Physical, limits)
    }

    /// Starts a request from its bytes: functional, suppressed, or of a service that has no type here. A functional or
    /// suppressed request ends with [`ClientEvent::Silent`] when P2 passes.
    pub fn start(
        &mut self,
        now: Monotonic,
        pdu: Vec<u8>,
        addressing: Addressing,
        limits: StepLimits,
    ) -> Result<(), RequestRefused> {
        if self.current.is_some() {
            return Err(RequestRefused::UnderWay);
        }
        // Nothing under way: what the link has not fetched yet is a tester present, or a repetition whose answer has come after
        // all. Sent first, its end would be taken for the request's and start P2 too early; the request keeps the session alive.
        self.transmits.clear();
        let suppressed = Request::suppresses_response(&pdu);
        let wait = Wait::Sending { until: now + limits.total };
        self.current = Some(InFlight { addressing, pdu, suppressed, limits, started: now, sent: 0, pending: 0, wait });
        self.transmit_current(now);
        Ok(())
    }

    /// The link has sent everything [`ClientSession::poll_transmit`] gave (on DoIP: the entity acknowledged it). P2 starts here.
    pub fn handle_sent(&mut self, now: Monotonic) {
        self.last_activity = now;
        let p2 = self.server.p2 + self.timing.margin;
        if let Some(current) = &mut self.current
            && matches!(current.wait, Wait::Sending { .. })
        {
            current.wait = Wait::Answer { until: now + p2 };
        }
    }

    /// The link is gone; a request under way fails.
    pub fn handle_lost(&mut self) {
        self.transmits.clear();
        if let Some(current) = self.current.take() {
            self.events.push_back(ClientEvent::Failed(ClientError::LinkLost { service: current.service() }));
        }
    }

    /// A UDS message came from the ECU. What does not answer the request under way is ignored.
    pub fn handle_input(&mut self, now: Monotonic, pdu: &[u8]) {
        let Some(current) = &mut self.current else { return };
        let Ok(response) = Response::decode(pdu) else { return };
        if !current.is_answered_by(pdu) {
            return;
        }
        self.last_activity = now;
        match response {
            Response::Negative { nrc: Nrc::RequestCorrectlyReceivedResponsePending, .. } => {
                current.pending = current.pending.saturating_add(1);
                let limit = current.started + current.limits.total;
                let until = (now + self.server.p2_star + self.timing.margin).min(limit);
                current.wait = Wait::Answer { until };
                self.events.push_back(ClientEvent::Pending { count: current.pending });
            }
            Response::Negative { nrc: Nrc::BusyRepeatRequest | Nrc::ResourceTemporarilyNotAvailable, service } => {
                let until = now + self.timing.busy_pause;
                current.wait = Wait::Pause { until };
                let limit = current.limits.total;
                if until > current.started + limit {
                    self.fail(ClientError::BusyTooLong { service, limit });
                }
            }
            response => self.finish_with(response),
        }
    }

    /// Call when the time of [`ClientSession::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let Some(current) = &self.current else { return self.keep_alive_if_due(now) };
        match current.wait {
            // A link that cannot say that a request is out for all the request's time is no better than a lost one.
            Wait::Sending { until } if until <= now => self.handle_lost(),
            Wait::Answer { until } if until <= now => self.answer_overdue(now),
            Wait::Pause { until } if until <= now => self.transmit_current(now),
            _ => {}
        }
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match &self.current {
            Some(current) => match current.wait {
                Wait::Sending { until } | Wait::Answer { until } | Wait::Pause { until } => Some(until),
            },
            None => self.keep_alive.then(|| self.last_activity + self.timing.s3_client),
        }
    }

    fn finish_with(&mut self, response: Response) {
        if let Response::DiagnosticSessionControl { timing: Some(timing), .. } = &response {
            self.server = *timing;
        }
        match &mut self.current {
            // Others may answer too; what was pending has come, so that silence from now on is no missing answer.
            Some(current) if current.addressing == Addressing::Functional => current.pending = 0,
            _ => self.current = None,
        }
        self.events.push_back(ClientEvent::Response(response));
    }

    fn answer_overdue(&mut self, now: Monotonic) {
        let Some(current) = &self.current else { return };
        let (service, limits) = (current.service(), current.limits);
        if current.pending > 0 {
            let over_all = now >= current.started + limits.total;
            return self.fail(match over_all {
                true => ClientError::PendingTooLong { service, limit: limits.total },
                false => ClientError::NoAnswer { service, times: current.sent },
            });
        }
        if current.addressing == Addressing::Functional || current.suppressed {
            self.current = None;
            return self.events.push_back(ClientEvent::Silent);
        }
        if current.sent <= limits.repeats {
            return self.transmit_current(now);
        }
        self.fail(ClientError::NoAnswer { service, times: current.sent });
    }

    fn keep_alive_if_due(&mut self, now: Monotonic) {
        if self.keep_alive && now >= self.last_activity + self.timing.s3_client {
            self.last_activity = now;
            // One that the link has not taken yet says the same: a bus that heals is not flooded.
            if self.transmits.is_empty() {
                self.transmits.push_back(Transmit { addressing: Addressing::Physical, pdu: vec![0x3E, 0x80] });
            }
        }
    }

    fn transmit_current(&mut self, now: Monotonic) {
        if let Some(current) = &mut self.current {
            current.sent = current.sent.saturating_add(1);
            current.wait = Wait::Sending { until: now + current.limits.total };
            self.transmits.push_back(Transmit { addressing: current.addressing, pdu: current.pdu.clone() });
        }
    }

    fn fail(&mut self, error: ClientError) {
        self.current = None;
        self.events.push_back(ClientEvent::Failed(error));
    }
}

impl InFlight {
    fn service(&self) -> ServiceId {
        ServiceId::from(self.pdu.first().copied().unwrap_or_default())
    }

    /// Whether a message answers this request: the same service, and the same sub-function, DID or counter where the answer
    /// repeats it. A late answer to a repeated or earlier request differs there.
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let service = self.service();
        match answer {
            [0x7F, refused, _] => *refused == service.code(),
            [first, rest @ ..] => {
                let asked = self.pdu.get(1..).unwrap_or_default();
                *first == service.positive() && echo_fits(service, asked, rest)
            }
            [] => false,
        }
    }
}

fn echo_fits(service: ServiceId, asked: &[u8], answered: &[u8]) -> bool {
    let same = |count: usize| {
        let fits = |(a, b): (&u8, &u8)| a & 0x7F == b & 0x7F;
        answered.len() >= count && asked.iter().zip(answered).take(count).all(fits)
    };
    match service {
        ServiceId::TransferData => asked.first() == answered.first(),
        ServiceId::RoutineControl => same(1) && asked.get(1..3) == answered.get(1..3),
        ServiceId::WriteDataByIdentifier => asked.get(..2) == answered.get(..2),
        // The server leaves unknown DIDs out, so the first answered one may be any of those asked for.
        ServiceId::ReadDataByIdentifier => asked.chunks(2).any(|did| answered.get(..2) == Some(did)),
        service if service.has_sub_function() => same(1),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
