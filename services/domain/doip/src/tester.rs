use std::collections::VecDeque;
use std::time::Duration;

use crate::{
    ActivationCode, DiagnosticNackCode, Frame, HeaderNack, LogicalAddress, Message, Monotonic, ProtocolVersion,
    Rejected, StreamDecoder, StreamItem,
};

/// How a tester speaks on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TesterSettings {
    pub version: ProtocolVersion,
    /// Our own address.
    pub source: LogicalAddress,
    /// Routing activation type: 00 default, 01 WWH-OBD.
    pub activation_type: u8,
    /// Longest payload taken, in bytes.
    pub max_length: u32,
    /// A_DoIP_Ctrl: 2 s for the routing activation response.
    pub activation_time: Duration,
    /// A message counts as lost when it is not acknowledged in 2 s.
    pub ack_time: Duration,
}

impl TesterSettings {
    /// Version 02 and activation type 00, which every entity takes; messages of up to 1 MiB.
    pub const fn new(source: LogicalAddress) -> Self {
        Self {
            version: ProtocolVersion::V2012,
            source,
            activation_type: 0x00,
            max_length: 0x10_0000,
            activation_time: Duration::from_secs(2),
            ack_time: Duration::from_secs(2),
        }
    }
}

/// Why the connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TesterError {
    #[error("routing activation was refused with code 0x{:02X}", .0.code())]
    ActivationRefused(ActivationCode),
    #[error("no routing activation response came in time")]
    NoActivation,
    #[error("a diagnostic message was not acknowledged in time")]
    NoAck,
    #[error("the entity rejected a header with code 0x{:02X}", .0.code())]
    HeaderRejected(HeaderNack),
    #[error("the entity sent a header that is not DoIP, code 0x{:02X}", .0.nack.code())]
    Malformed(Rejected),
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TesterEvent {
    /// Routing is active; diagnostic messages may be sent.
    Activated { entity: LogicalAddress },
    /// The entity took the message under way (8002). P2 starts here.
    Acknowledged,
    /// The entity refused the message under way (8003).
    Refused(DiagnosticNackCode),
    /// A UDS message from an ECU.
    Received { source: LogicalAddress, data: Vec<u8> },
    /// Close the connection.
    Failed(TesterError),
}

/// Why a message was not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    #[error("routing is not active on this connection")]
    NotActive,
    #[error("the message before was not acknowledged yet")]
    UnderWay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Activating { until: Monotonic },
    Idle,
    AwaitingAck { target: LogicalAddress, until: Monotonic },
    Failed,
}

/// The client's side of one TCP connection: routing activation first, then one diagnostic message at a time.
#[derive(Debug)]
pub struct Tester {
    settings: TesterSettings,
    decoder: StreamDecoder,
    state: State,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<TesterEvent>,
}

impl Tester {
    /// The connection was made: asks for routing activation.
    pub fn new(now: Monotonic, settings: TesterSettings) -> Self {
        let mut tester = Self {
            settings,
            decoder: StreamDecoder::new(settings.max_length),
            state: State::Activating { until: now + settings.activation_time },
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        let TesterSettings { source, activation_type, .. } = settings;
        tester.transmit(Message::RoutingActivationRequest { source, activation_type, oem: None });
        tester
    }

    /// Sends a UDS message; ends with [`TesterEvent::Acknowledged`] or [`TesterEvent::Refused`].
    pub fn send(&mut self, now: Monotonic, target: LogicalAddress, data: &[u8]) -> Result<(), SendRefused> {
        match self.state {
            State::Idle => {}
            State::AwaitingAck { .. } => return Err(SendRefused::UnderWay),
            State::Activating { .. } | State::Failed => return Err(SendRefused::NotActive),
        }
        self.state = State::AwaitingAck { target, until: now + self.settings.ack_time };
        self.transmit(Message::Diagnostic { source: self.settings.source, target, data: data.to_vec() });
        Ok(())
    }

    /// Bytes from the connection.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(item) = self.decoder.next_item() {
            match item {
                StreamItem::Frame(frame) => self.handle_message(frame.message),
                // A negative acknowledge is never answered, and a tester has nobody else to tell.
                StreamItem::Rejected(rejected) if rejected.close => self.fail(TesterError::Malformed(rejected)),
                StreamItem::Rejected(_) => {}
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Monotonic) {
        match self.state {
            State::Activating { until } if until <= now => self.fail(TesterError::NoActivation),
            State::AwaitingAck { until, .. } if until <= now => self.fail(TesterError::NoAck),
            _ => {}
        }
    }

    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<TesterEvent> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.state {
            State::Activating { until } | State::AwaitingAck { until, .. } => Some(until),
            State::Idle | State::Failed => None,
        }
    }

    fn handle_message(&mut self, message: Message) {
        let ours = self.settings.source;
        match message {
            Message::RoutingActivationResponse { tester, entity, code, .. } if tester == ours => {
                self.handle_activation(entity, code);
            }
            Message::AliveCheckRequest => self.transmit(Message::AliveCheckResponse { source: ours }),
            Message::DiagnosticAck { source, target, .. } if target == ours && self.awaits(source) => {
                self.state = State::Idle;
                self.events.push_back(TesterEvent::Acknowledged);
            }
            Message::DiagnosticNack { source, target, code, .. } if target == ours && self.awaits(source) => {
                self.state = State::Idle;
                self.events.push_back(TesterEvent::Refused(code));
            }
            Message::Diagnostic { source, target, data } if target == ours => {
                self.events.push_back(TesterEvent::Received { source, data });
            }
            Message::HeaderNack(code) => self.fail(TesterError::HeaderRejected(code)),
            _ => {}
        }
    }

    fn handle_activation(&mut self, entity: LogicalAddress, code: ActivationCode) {
        if !matches!(self.state, State::Activating { .. }) {
            return;
        }
        if code.is_active() {
            self.state = State::Idle;
            self.events.push_back(TesterEvent::Activated { entity });
        } else if code != ActivationCode::ActivatedAfterConfirmation {
            self.fail(TesterError::ActivationRefused(code));
        }
    }

    fn awaits(&self, from: LogicalAddress) -> bool {
        // A functional target may be acknowledged by the entity under its own address.
        matches!(self.state, State::AwaitingAck { target, .. } if target == from || target.is_functional())
    }

    fn transmit(&mut self, message: Message) {
        self.transmits.push_back(Frame::new(self.settings.version, message).encode());
    }

    fn fail(&mut self, error: TesterError) {
        if self.state != State::Failed {
            self.state = State::Failed;
            self.events.push_back(TesterEvent::Failed(error));
        }
    }
}
