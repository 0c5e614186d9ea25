use std::time::Duration;

use crate::machine::{Event, Outputs, Part};
use crate::{FlowStatus, Monotonic, Pdu, Settings};

/// Why a message was not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    #[error("an empty message cannot be sent")]
    Empty,
    #[error("the message has {length} bytes, {limit} are possible")]
    TooLong { length: usize, limit: usize },
    #[error("another message is being sent")]
    UnderWay,
}

/// Why a message was not sent to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the bus did not take a frame in time (N_As)")]
    FrameNotSent,
    #[error("no flow control came in time (N_Bs)")]
    NoFlowControl,
    #[error("the receiver asked to wait {times} times in a row (N_WFTmax)")]
    TooManyWaits { times: u8 },
    #[error("the message is too long for the receiver (overflow)")]
    Overflow,
    #[error("flow status {status} is reserved (N_INVALID_FS)")]
    InvalidFlowStatus { status: u8 },
}

#[derive(Debug, Default)]
pub(crate) struct Sender {
    message: Vec<u8>,
    /// Bytes already in frames.
    position: usize,
    sequence: u8,
    unconfirmed: usize,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Idle,
    /// Frames are with the bus and nothing else is to be done before they are confirmed.
    Confirming { until: Monotonic, then: Then },
    /// First frame or block is out.
    AwaitingFlow { until: Monotonic, waits: u8 },
    /// `left` frames of this block are to come (`None`: all), the next not before `not_before`.
    Block { left: Option<u8>, separation: Duration, not_before: Monotonic, until: Monotonic },
}

#[derive(Debug, Clone, Copy)]
enum Then {
    AwaitFlow,
    Finish,
}

impl Sender {
    pub(crate) fn start(
        &mut self,
        now: Monotonic,
        message: Vec<u8>,
        settings: &Settings,
        out: &mut Outputs,
    ) -> Result<(), SendRefused> {
        if self.is_sending() {
            return Err(SendRefused::UnderWay);
        }
        if message.is_empty() {
            return Err(SendRefused::Empty);
        }
        let length = u32::try_from(message.len())
            .map_err(|_| SendRefused::TooLong { length: message.len(), limit: u32::MAX as usize })?;
        *self = Self { message, ..Self::default() };
        let until = now + settings.timeout;
        if self.message.len() <= settings.single_room() {
            let short = self.message.len() + settings.address_len() <= 7;
            let frame_length = if short { 8 } else { settings.frame_length };
            self.position = self.message.len();
            out.frames.push_back((Part::Message, settings.frame(&Pdu::Single { data: &self.message }, frame_length)));
            self.state = State::Confirming { until, then: Then::Finish };
        } else {
            let fields = if length <= 0xFFF { 2 } else { 6 };
            let room = settings.frame_length - fields - settings.address_len();
            let (data, _) = self.message.split_at(room.min(self.message.len()));
            let first = Pdu::First { length, data };
            out.frames.push_back((Part::Message, settings.frame(&first, settings.frame_length)));
            self.position = room;
            self.sequence = 1;
            self.state = State::Confirming { until, then: Then::AwaitFlow };
        }
        self.unconfirmed = 1;
        Ok(())
    }

    pub(crate) fn handle_flow(&mut self, now: Monotonic, status: FlowStatus, settings: &Settings, out: &mut Outputs) {
        // The flow control can overtake the confirmation of the frame it answers; out of turn it is ignored.
        let waits = match self.state {
            State::AwaitingFlow { waits, .. } => waits,
            State::Confirming { then: Then::AwaitFlow, .. } => 0,
            _ => return,
        };
        match status {
            FlowStatus::ContinueToSend { block_size, separation } => {
                let left = (block_size > 0).then_some(block_size);
                let until = now + settings.timeout;
                self.state = State::Block { left, separation, not_before: now, until };
                self.fill(now, settings, out);
            }
            FlowStatus::Wait if waits >= settings.max_wait => self.fail(SendError::TooManyWaits { times: waits }, out),
            FlowStatus::Wait => {
                self.state = State::AwaitingFlow { until: now + settings.timeout, waits: waits + 1 };
            }
            FlowStatus::Overflow => self.fail(SendError::Overflow, out),
        }
    }

    pub(crate) fn handle_invalid_flow(&mut self, status: u8, out: &mut Outputs) {
        if matches!(self.state, State::AwaitingFlow { .. } | State::Confirming { then: Then::AwaitFlow, .. }) {
            self.fail(SendError::InvalidFlowStatus { status }, out);
        }
    }

    pub(crate) fn handle_sent(&mut self, now: Monotonic, settings: &Settings, out: &mut Outputs) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
        let fresh = now + settings.timeout;
        match self.state {
            State::Confirming { then: Then::Finish, .. } if self.unconfirmed == 0 => {
                *self = Self::default();
                out.events.push_back(Event::Sent);
            }
            State::Confirming { then: Then::AwaitFlow, .. } if self.unconfirmed == 0 => {
                self.state = State::AwaitingFlow { until: fresh, waits: 0 };
            }
            State::Confirming { then, .. } => self.state = State::Confirming { until: fresh, then },
            State::Block { left, separation, .. } => {
                self.state = State::Block { left, separation, not_before: now + separation, until: fresh };
                self.fill(now, settings, out);
            }
            State::Idle | State::AwaitingFlow { .. } => {}
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Monotonic, settings: &Settings, out: &mut Outputs) {
        match self.state {
            State::Confirming { until, .. } if until <= now => self.fail(SendError::FrameNotSent, out),
            State::AwaitingFlow { until, .. } if until <= now => self.fail(SendError::NoFlowControl, out),
            State::Block { until, .. } if until <= now && self.unconfirmed > 0 => {
                self.fail(SendError::FrameNotSent, out);
            }
            State::Block { .. } => self.fill(now, settings, out),
            _ => {}
        }
    }

    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        match self.state {
            State::Idle => None,
            State::Confirming { until, .. } | State::AwaitingFlow { until, .. } => Some(until),
            State::Block { until, .. } if self.unconfirmed > 0 => Some(until),
            State::Block { not_before, .. } => Some(not_before),
        }
    }

    pub(crate) fn is_sending(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Hands frames to the bus: as many as the window lets, or one at a time where the receiver wants time between them.
    fn fill(&mut self, now: Monotonic, settings: &Settings, out: &mut Outputs) {
        while let State::Block { left, separation, not_before, until } = self.state {
            let window = if separation.is_zero() { settings.window } else { 1 };
            if self.unconfirmed >= window || now < not_before {
                return;
            }
            self.push_consecutive(settings, out);
            let until = if self.unconfirmed == 1 { now + settings.timeout } else { until };
            let left = left.map(|left| left - 1);
            self.state = if self.position >= self.message.len() {
                State::Confirming { until, then: Then::Finish }
            } else if left == Some(0) {
                State::Confirming { until, then: Then::AwaitFlow }
            } else {
                State::Block { left, separation, not_before, until }
            };
        }
    }

    fn push_consecutive(&mut self, settings: &Settings, out: &mut Outputs) {
        let rest = self.message.get(self.position..).unwrap_or_default();
        let (data, _) = rest.split_at(rest.len().min(settings.consecutive_room()));
        let pdu = Pdu::Consecutive { sequence: self.sequence, data };
        out.frames.push_back((Part::Message, settings.frame(&pdu, settings.frame_length)));
        self.position += data.len();
        self.sequence = (self.sequence + 1) & 0x0F;
        self.unconfirmed += 1;
    }

    fn fail(&mut self, error: SendError, out: &mut Outputs) {
        out.frames.retain(|(part, _)| *part != Part::Message);
        *self = Self::default();
        out.events.push_back(Event::SendFailed(error));
    }
}
