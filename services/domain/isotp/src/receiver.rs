use crate::machine::{Event, Outputs, Part};
use crate::{FlowStatus, Monotonic, Pdu, Settings};

/// Why a message that had begun did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    #[error("no consecutive frame came in time (N_Cr)")]
    NoConsecutiveFrame,
    #[error("consecutive frame {found} came where {expected} was due (N_WRONG_SN)")]
    WrongSequence { expected: u8, found: u8 },
    #[error("a consecutive frame carries {found} bytes where {expected} were due")]
    WrongLength { expected: usize, found: usize },
    #[error("a new message began before this one had ended (N_UNEXP_PDU)")]
    Interrupted,
    #[error("the message has {length} bytes, {limit} are taken")]
    TooLong { length: u32, limit: usize },
}

#[derive(Debug, Default)]
pub(crate) struct Receiver {
    current: Option<Reception>,
}

#[derive(Debug)]
struct Reception {
    length: usize,
    data: Vec<u8>,
    sequence: u8,
    /// Data bytes of every consecutive frame but the last: as many as the first frame's length allows (RX_DL).
    room: usize,
    /// Frames until the next flow control; `None`: no more of them.
    block_left: Option<u8>,
    until: Monotonic,
}

/// Memory reserved when a message begins; it grows with what really comes, up to the limit.
const FIRST_RESERVE: usize = 4096;

impl Receiver {
    pub(crate) fn handle_pdu(&mut self, now: Monotonic, pdu: &Pdu<'_>, settings: &Settings, out: &mut Outputs) {
        match pdu {
            Pdu::Single { data } => {
                self.interrupt(out);
                out.events.push_back(Event::Received(data.to_vec()));
            }
            Pdu::First { length, data } => {
                self.interrupt(out);
                self.begin(now, *length, data, settings, out);
            }
            Pdu::Consecutive { sequence, data } => self.go_on(now, *sequence, data, settings, out),
            Pdu::Flow(_) => {}
        }
    }

    /// N_Cr runs from our flow control's being on the bus.
    pub(crate) fn handle_flow_sent(&mut self, now: Monotonic, settings: &Settings) {
        if let Some(current) = &mut self.current {
            current.until = now + settings.timeout;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Monotonic, out: &mut Outputs) {
        if self.current.take_if(|current| current.until <= now).is_some() {
            out.events.push_back(Event::ReceiveFailed(ReceiveError::NoConsecutiveFrame));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.current.as_ref().map(|current| current.until)
    }

    fn interrupt(&mut self, out: &mut Outputs) {
        if self.current.take().is_some() {
            out.events.push_back(Event::ReceiveFailed(ReceiveError::Interrupted));
        }
    }

    fn begin(&mut self, now: Monotonic, length: u32, data: &[u8], settings: &Settings, out: &mut Outputs) {
        let limit = settings.max_receive;
        let Some(whole) = usize::try_from(length).ok().filter(|&length| length <= limit) else {
            push_flow(FlowStatus::Overflow, settings, out);
            return out.events.push_back(Event::ReceiveFailed(ReceiveError::TooLong { length, limit }));
        };
        let fields = if length <= 0xFFF { 2 } else { 6 };
        let mut buffer = Vec::with_capacity(whole.min(FIRST_RESERVE));
        buffer.extend_from_slice(data);
        self.current = Some(Reception {
            length: whole,
            data: buffer,
            sequence: 1,
            room: data.len() + fields - 1,
            block_left: block(settings),
            until: now + settings.timeout,
        });
        push_flow(continue_to_send(settings), settings, out);
    }

    fn go_on(&mut self, now: Monotonic, sequence: u8, data: &[u8], settings: &Settings, out: &mut Outputs) {
        let Some(mut current) = self.current.take() else { return };
        if sequence != current.sequence {
            let error = ReceiveError::WrongSequence { expected: current.sequence, found: sequence };
            return out.events.push_back(Event::ReceiveFailed(error));
        }
        let left = current.length - current.data.len();
        let due = left.min(current.room);
        // The last frame may be padded; the others have exactly the first frame's length.
        let fits = if left > current.room { data.len() == due } else { data.len() >= due };
        let Some(taken) = data.get(..due).filter(|_| fits) else {
            let error = ReceiveError::WrongLength { expected: due, found: data.len() };
            return out.events.push_back(Event::ReceiveFailed(error));
        };
        current.data.extend_from_slice(taken);
        if current.data.len() == current.length {
            return out.events.push_back(Event::Received(current.data));
        }
        current.sequence = (current.sequence + 1) & 0x0F;
        current.until = now + settings.timeout;
        current.block_left = current.block_left.map(|left| left - 1);
        if current.block_left == Some(0) {
            current.block_left = block(settings);
            push_flow(continue_to_send(settings), settings, out);
        }
        self.current = Some(current);
    }
}

fn block(settings: &Settings) -> Option<u8> {
    (settings.block_size > 0).then_some(settings.block_size)
}

fn continue_to_send(settings: &Settings) -> FlowStatus {
    FlowStatus::ContinueToSend { block_size: settings.block_size, separation: settings.separation }
}

fn push_flow(status: FlowStatus, settings: &Settings, out: &mut Outputs) {
    out.frames.push_back((Part::Flow, settings.frame(&Pdu::Flow(status), 8)));
}
