use std::collections::VecDeque;
use std::time::Duration;

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::{Monotonic, Pdu, ReceiveError, SendError, SendRefused, fd_length};

/// How one pair of addresses speaks ISO-TP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// TX_DL: 8 on classic CAN; 8, 12, 16, 20, 24, 32, 48 or 64 on CAN FD.
    pub frame_length: usize,
    /// Byte that fills frames up to 8 bytes; `None` sends short frames. Longer FD frames are always filled (0xCC when `None`).
    pub padding: Option<u8>,
    /// Extended and mixed addressing: the address byte we send, and the one we expect.
    pub address_bytes: Option<(u8, u8)>,
    /// As receiver: frames per block, 0 for one block, the fastest.
    pub block_size: u8,
    /// As receiver: wished time between frames (STmin), 0 to 127 ms.
    pub separation: Duration,
    /// As receiver: the longest message taken, in bytes; a longer one is answered with "overflow".
    pub max_receive: usize,
    /// As sender: "wait" frames borne in a row (N_WFTmax).
    pub max_wait: u8,
    /// N_As, N_Bs, N_Cr: 1000 ms in ISO 15765-2.
    pub timeout: Duration,
    /// As sender without separation time: frames handed to the bus before the first of them is confirmed.
    pub window: usize,
}

impl Settings {
    /// Classic CAN: 8 bytes, padded with 0xCC (the fewest stuff bits), no flow control wishes, messages up to 64 KiB.
    pub fn classic() -> Self {
        Self {
            frame_length: 8,
            padding: Some(0xCC),
            address_bytes: None,
            block_size: 0,
            separation: Duration::ZERO,
            max_receive: 0x1_0000,
            max_wait: 16,
            timeout: Duration::from_millis(1000),
            window: 32,
        }
    }

    /// CAN FD with 64 bytes.
    pub fn fd() -> Self {
        Self { frame_length: 64, ..Self::classic() }
    }

    pub(crate) fn address_len(&self) -> usize {
        usize::from(self.address_bytes.is_some())
    }

    /// Bytes a single frame carries at most.
    pub fn single_room(&self) -> usize {
        if self.frame_length <= 8 { 7 - self.address_len() } else { self.frame_length - 2 - self.address_len() }
    }

    pub(crate) fn consecutive_room(&self) -> usize {
        self.frame_length - 1 - self.address_len()
    }

    /// A frame's data field: address byte, fields, padding.
    pub(crate) fn frame(&self, pdu: &Pdu<'_>, frame_length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(frame_length);
        out.extend(self.address_bytes.map(|(ours, _)| ours));
        pdu.encode(&mut out, frame_length);
        let least = if self.padding.is_some() { 8 } else { 0 };
        out.resize(fd_length(out.len().max(least)), self.padding.unwrap_or(0xCC));
        out
    }

    fn check(&self) -> Result<(), SettingsError> {
        if !(8..=64).contains(&self.frame_length) || fd_length(self.frame_length) != self.frame_length {
            return Err(SettingsError::FrameLength { length: self.frame_length });
        }
        if self.window == 0 {
            return Err(SettingsError::Window);
        }
        Ok(())
    }
}

/// Why settings cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("frame length {length} is none of 8, 12, 16, 20, 24, 32, 48, 64")]
    FrameLength { length: usize },
    #[error("a window of no frames lets none out")]
    Window,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message came.
    Received(Vec<u8>),
    /// The message's last frame was on the bus.
    Sent,
    SendFailed(SendError),
    ReceiveFailed(ReceiveError),
}

/// Which part a frame handed to the bus belongs to; the bus confirms frames of one identifier in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Message,
    Flow,
}

/// Frames to the bus and events to the owner, shared by sender and receiver.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) frames: VecDeque<(Part, Vec<u8>)>,
    pub(crate) events: VecDeque<Event>,
}

/// One pair of addresses: sends one message and receives one at the same time.
#[derive(Debug)]
pub struct IsoTp {
    settings: Settings,
    sender: Sender,
    receiver: Receiver,
    outputs: Outputs,
    in_flight: VecDeque<Part>,
}

impl IsoTp {
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let (sender, receiver) = (Sender::default(), Receiver::default());
        Ok(Self { settings, sender, receiver, outputs: Outputs::default(), in_flight: VecDeque::new() })
    }

    /// Starts sending; ends with [`Event::Sent`] or [`Event::SendFailed`].
    pub fn send(&mut self, now: Monotonic, message: Vec<u8>) -> Result<(), SendRefused> {
        self.sender.start(now, message, &self.settings, &mut self.outputs)
    }

    /// The frame of a message for a functional address, where only single frames are allowed.
    pub fn single_frame(settings: &Settings, message: &[u8]) -> Result<Vec<u8>, SendRefused> {
        if message.is_empty() {
            return Err(SendRefused::Empty);
        }
        if message.len() > settings.single_room() {
            return Err(SendRefused::TooLong { length: message.len(), limit: settings.single_room() });
        }
        let least = if message.len() + settings.address_len() <= 7 { 8 } else { settings.frame_length };
        Ok(settings.frame(&Pdu::Single { data: message }, least))
    }

    /// The data field of a frame with our receive identifier. Frames that are no ISO-TP are ignored, as the standard wants.
    pub fn handle_input(&mut self, now: Monotonic, frame: &[u8]) {
        let frame = match (self.settings.address_bytes, frame) {
            (Some((_, expected)), [address, rest @ ..]) if *address == expected => rest,
            (Some(_), _) => return,
            (None, frame) => frame,
        };
        match Pdu::decode(frame, self.settings.address_len()) {
            Ok(Pdu::Flow(status)) => self.sender.handle_flow(now, status, &self.settings, &mut self.outputs),
            Ok(pdu) => self.receiver.handle_pdu(now, &pdu, &self.settings, &mut self.outputs),
            Err(crate::PduError::FlowStatus { status }) => self.sender.handle_invalid_flow(status, &mut self.outputs),
            Err(_) => {}
        }
    }

    /// The oldest unconfirmed frame of [`IsoTp::poll_transmit`] was on the bus.
    pub fn handle_sent(&mut self, now: Monotonic) {
        match self.in_flight.pop_front() {
            Some(Part::Message) => self.sender.handle_sent(now, &self.settings, &mut self.outputs),
            Some(Part::Flow) => self.receiver.handle_flow_sent(now, &self.settings),
            None => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Monotonic) {
        self.sender.handle_timeout(now, &self.settings, &mut self.outputs);
        self.receiver.handle_timeout(now, &mut self.outputs);
    }

    /// Drops whatever is under way in both directions, without events.
    pub fn reset(&mut self) {
        self.sender = Sender::default();
        self.receiver = Receiver::default();
        self.outputs = Outputs::default();
    }

    /// The data field of the next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let (part, frame) = self.outputs.frames.pop_front()?;
        self.in_flight.push_back(part);
        Some(frame)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.outputs.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.sender.deadline().into_iter().chain(self.receiver.deadline()).min()
    }

    pub fn is_sending(&self) -> bool {
        self.sender.is_sending()
    }
}
