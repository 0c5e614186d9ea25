//! The simulator's hub: one Unix socket connection per participant and bus.
//!
//! The participant sends one line, `pitstop-hub 1 BUS`, and gets `ok classic`, `ok fd` or `error TEXT`. Then both send messages:
//! one byte kind (1 send, 2 received, 3 confirmed), and for 1 and 2: flags (1 extended, 2 FD), identifier (u32), length, data;
//! numbers big-endian. Each sent frame is confirmed, in order, when it was on the bus.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::bus::{Outgoing, Wire};
use crate::{CanBus, CanError, CanFrame, CanId};

const SEND: u8 = 1;
const RECEIVED: u8 = 2;
const CONFIRMED: u8 = 3;
const EXTENDED: u8 = 1;
const FD: u8 = 2;

/// Longest first line, in bytes.
pub const MAX_LINE: u64 = 256;

/// What goes over the socket after the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubMessage {
    Send(CanFrame),
    Received(CanFrame),
    Confirmed,
}

impl HubMessage {
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (kind, frame) = match self {
            Self::Send(frame) => (SEND, frame),
            Self::Received(frame) => (RECEIVED, frame),
            Self::Confirmed => return out.push(CONFIRMED),
        };
        let extended = if frame.id().is_extended() { EXTENDED } else { 0 };
        let flags = if frame.is_fd() { extended | FD } else { extended };
        out.extend([kind, flags]);
        out.extend(frame.id().number().to_be_bytes());
        out.push(frame.data().len() as u8);
        out.extend_from_slice(frame.data());
    }

    /// Takes one message off the front of `buffer`; `None` until more bytes come.
    pub fn decode_from(buffer: &mut &[u8]) -> io::Result<Option<Self>> {
        let Some((&kind, rest)) = buffer.split_first() else { return Ok(None) };
        if kind == CONFIRMED {
            *buffer = rest;
            return Ok(Some(Self::Confirmed));
        }
        if kind != SEND && kind != RECEIVED {
            return Err(invalid("unknown message kind"));
        }
        let &[flags, i0, i1, i2, i3, length, ref data @ ..] = rest else { return Ok(None) };
        if length > 64 {
            return Err(invalid("frame longer than 64 bytes"));
        }
        let Some((data, rest)) = data.split_at_checked(usize::from(length)) else { return Ok(None) };
        let number = u32::from_be_bytes([i0, i1, i2, i3]);
        let id = match (flags & EXTENDED != 0, CanId::from_number(number)) {
            (true, Some(_)) => CanId::Extended(number),
            (false, Some(id @ CanId::Standard(_))) => id,
            _ => return Err(invalid("identifier out of range")),
        };
        let frame = CanFrame::new(id, flags & FD != 0, data).map_err(|_| invalid("frame length"))?;
        *buffer = rest;
        Ok(Some(if kind == SEND { Self::Send(frame) } else { Self::Received(frame) }))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Joins a bus of the hub.
pub(crate) async fn open(path: &Path, bus: &str, fd: bool) -> Result<CanBus, CanError> {
    let failed = |source| CanError::Open { bus: bus.into(), source };
    let stream = UnixStream::connect(path).await.map_err(failed)?;
    let (read, mut write) = stream.into_split();
    write.write_all(format!("pitstop-hub 1 {bus}\n").as_bytes()).await.map_err(failed)?;
    let mut read = BufReader::new(read);
    let mut line = String::new();
    (&mut read).take(MAX_LINE).read_line(&mut line).await.map_err(failed)?;
    match line.trim_end() {
        "ok fd" => {}
        "ok classic" if fd => return Err(CanError::NoFd { bus: bus.into() }),
        "ok classic" => {}
        other => return Err(CanError::Protocol { bus: bus.into(), what: format!("hub answered {other:?}") }),
    }
    let (handle, wire) = CanBus::new(bus, fd);
    let name = bus.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run(read, write, wire).await {
            log::warn!("bus {name} of the hub is lost: {error}");
        }
    });
    Ok(handle)
}

async fn run(mut read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf, mut wire: Wire) -> io::Result<()> {
    let mut unconfirmed = VecDeque::new();
    let mut received = Vec::with_capacity(4096);
    let mut batch = Vec::with_capacity(4096);
    loop {
        tokio::select! {
            outgoing = wire.next() => {
                let Some(first) = outgoing else { return Ok(()) };
                batch.clear();
                push(&mut batch, &mut unconfirmed, first);
                while let Some(next) = wire.try_next() {
                    push(&mut batch, &mut unconfirmed, next);
                }
                write.write_all(&batch).await?;
            }
            count = read.read_buf(&mut received) => {
                if count? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                take(&mut received, &wire, &mut unconfirmed)?;
            }
        }
    }
}

fn push(batch: &mut Vec<u8>, unconfirmed: &mut VecDeque<Outgoing>, outgoing: Outgoing) {
    HubMessage::Send(outgoing.frame).encode_into(batch);
    unconfirmed.push_back(outgoing);
}

fn take(received: &mut Vec<u8>, wire: &Wire, unconfirmed: &mut VecDeque<Outgoing>) -> io::Result<()> {
    let mut rest = received.as_slice();
    while let Some(message) = HubMessage::decode_from(&mut rest)? {
        match message {
            HubMessage::Received(frame) => wire.deliver(frame),
            HubMessage::Confirmed => {
                let sent = unconfirmed.pop_front().ok_or_else(|| invalid("confirmation without a frame"))?;
                sent.settle(Ok(()));
            }
            HubMessage::Send(_) => return Err(invalid("the hub sends only received frames")),
        }
    }
    let used = received.len() - rest.len();
    received.drain(..used);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = CanFrame> {
        let length = prop::sample::select(vec![0usize, 1, 8, 12, 48, 64]);
        (0..0x2000_0000u32, length, any::<bool>(), any::<[u8; 64]>()).prop_map(|(id, length, fd, data)| {
            let id = CanId::from_number(id >> (id % 19)).unwrap();
            CanFrame::new(id, fd || length > 8, &data[..length]).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_message_reads_back_and_a_cut_one_waits(frame in frame(), received in any::<bool>()) {
            let message = if received { HubMessage::Received(frame) } else { HubMessage::Send(frame) };
            let mut bytes = vec![];
            message.encode_into(&mut bytes);
            HubMessage::Confirmed.encode_into(&mut bytes);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(HubMessage::decode_from(&mut rest).unwrap(), Some(message));
            prop_assert_eq!(HubMessage::decode_from(&mut rest).unwrap(), Some(HubMessage::Confirmed));
            for end in 0..bytes.len() - 1 {
                prop_assert_eq!(HubMessage::decode_from(&mut &bytes[..end]).unwrap(), None);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = HubMessage::decode_from(&mut bytes.as_slice());
        }
    }
}
