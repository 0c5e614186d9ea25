use std::time::Duration;

/// What a flow control frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStatus {
    /// Go on: `block_size` frames until the next flow control (0: no more of them), `separation` at least between frames.
    ContinueToSend {
        block_size: u8,
        separation: Duration,
    },
    Wait,
    Overflow,
}

/// One frame's transport fields; the address byte, where there is one, is taken off before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pdu<'a> {
    Single { data: &'a [u8] },
    First { length: u32, data: &'a [u8] },
    Consecutive { sequence: u8, data: &'a [u8] },
    Flow(FlowStatus),
}

/// Why a frame is no ISO-TP frame. Such frames are ignored, except an unknown flow status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    #[error("the frame is empty or shorter than its fields")]
    TooShort,
    #[error("frame type {kind} is reserved")]
    Kind { kind: u8 },
    #[error("a single frame claims {claimed} bytes, the frame has room for {room}")]
    SingleLength { claimed: usize, room: usize },
    #[error("a first frame announces {length} bytes, which need no first frame of this form")]
    FirstLength { length: u32 },
    /// N_INVALID_FS: ends a transmission.
    #[error("flow status {status} is reserved")]
    FlowStatus { status: u8 },
}

/// The data length of a CAN FD frame that holds `bytes`: 0 to 8, 12, 16, 20, 24, 32, 48 or 64.
pub const fn fd_length(bytes: usize) -> usize {
    match bytes {
        0..=8 => bytes,
        9..=12 => 12,
        13..=16 => 16,
        17..=20 => 20,
        21..=24 => 24,
        25..=32 => 32,
        33..=48 => 48,
        _ => 64,
    }
}

impl<'a> Pdu<'a> {
    /// Reads a frame's fields. `address_bytes` (0 or 1) have been taken off the front already.
    pub fn decode(frame: &'a [u8], address_bytes: usize) -> Result<Self, PduError> {
        let (&first, rest) = frame.split_first().ok_or(PduError::TooShort)?;
        let low = first & 0x0F;
        match first >> 4 {
            0 => single(low, rest, frame.len() + address_bytes),
            1 => first_frame(low, rest, frame.len() + address_bytes, address_bytes),
            2 => Ok(Self::Consecutive { sequence: low, data: rest }),
            3 => flow(low, rest),
            kind => Err(PduError::Kind { kind }),
        }
    }

    /// Appends the fields, without padding.
    pub fn encode(&self, out: &mut Vec<u8>, frame_length: usize) {
        match self {
            Self::Single { data } => {
                // A frame of up to 8 bytes has the length in its first byte, a longer one in the second.
                if frame_length <= 8 {
                    out.push(data.len() as u8)
                } else {
                    out.extend([0, data.len() as u8])
                }
                out.extend_from_slice(data);
            }
            Self::First { length, data } => {
                match u16::try_from(*length) {
                    Ok(short @ ..=0xFFF) => out.extend((0x1000 | short).to_be_bytes()),
                    _ => {
                        out.extend([0x10, 0x00]);
                        out.extend(length.to_be_bytes());
                    }
                }
                out.extend_from_slice(data);
            }
            Self::Consecutive { sequence, data } => {
                out.push(0x20 | sequence & 0x0F);
                out.extend_from_slice(data);
            }
            Self::Flow(FlowStatus::ContinueToSend { block_size, separation }) => {
                out.extend([0x30, *block_size, separation_code(*separation)]);
            }
            Self::Flow(FlowStatus::Wait) => out.extend([0x31, 0, 0]),
            Self::Flow(FlowStatus::Overflow) => out.extend([0x32, 0, 0]),
        }
    }
}

/// `frame_length` includes the address byte: the room is what the frame could carry.
fn single(low: u8, rest: &[u8], frame_length: usize) -> Result<Pdu<'_>, PduError> {
    let (claimed, data) = if frame_length <= 8 {
        (usize::from(low), rest)
    } else {
        // Longer frames must use the second byte; a length in the first is then an error.
        let (&length, data) = rest.split_first().ok_or(PduError::TooShort)?;
        if low != 0 {
            return Err(PduError::SingleLength { claimed: usize::from(low), room: data.len() });
        }
        (usize::from(length), data)
    };
    match data.get(..claimed) {
        Some(data) if claimed > 0 => Ok(Pdu::Single { data }),
        _ => Err(PduError::SingleLength { claimed, room: data.len() }),
    }
}

fn first_frame(low: u8, rest: &[u8], frame_length: usize, address_bytes: usize) -> Result<Pdu<'_>, PduError> {
    // A receiver learns the sender's frame length here; a first frame always fills a frame of at least 8 bytes.
    let (&second, rest) = rest.split_first().ok_or(PduError::TooShort)?;
    if frame_length < 8 {
        return Err(PduError::TooShort);
    }
    let short = u32::from(low) << 8 | u32::from(second);
    if short > 0 {
        let single_room = if frame_length <= 8 { 7 } else { frame_length - 2 } - address_bytes;
        let fits_single = short as usize <= single_room;
        return if fits_single {
            Err(PduError::FirstLength { length: short })
        } else {
            Ok(Pdu::First { length: short, data: rest })
        };
    }
    let (&length, data) = rest.split_first_chunk::<4>().ok_or(PduError::TooShort)?;
    let length = u32::from_be_bytes(length);
    if length <= 0xFFF { Err(PduError::FirstLength { length }) } else { Ok(Pdu::First { length, data }) }
}

fn flow(low: u8, rest: &[u8]) -> Result<Pdu<'_>, PduError> {
    let &[block_size, separation, ..] = rest else { return Err(PduError::TooShort) };
    let status = match low {
        0 => FlowStatus::ContinueToSend { block_size, separation: separation_time(separation) },
        1 => FlowStatus::Wait,
        2 => FlowStatus::Overflow,
        status => return Err(PduError::FlowStatus { status }),
    };
    Ok(Pdu::Flow(status))
}

/// STmin: 00 to 7F ms, F1 to F9 in steps of 100 us; reserved values mean the longest time, 127 ms (ISO 15765-2, 9.6.5.4).
fn separation_time(code: u8) -> Duration {
    match code {
        0x00..=0x7F => Duration::from_millis(u64::from(code)),
        0xF1..=0xF9 => Duration::from_micros(u64::from(code - 0xF0) * 100),
        _ => Duration::from_millis(127),
    }
}

/// The shortest code that is at least `time`, at most 127 ms.
fn separation_code(time: Duration) -> u8 {
    match time.as_micros() {
        0 => 0,
        micros @ 1..=900 => 0xF0 + micros.div_ceil(100) as u8,
        micros => micros.div_ceil(1000).min(127) as u8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_have_the_standards_bytes() {
        let cases: [(&[u8], Pdu<'_>); 6] = [
            (&[0x02, 0x3E, 0x00, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC], Pdu::Single { data: &[0x3E, 0x00] }),
            (&[0x02, 0x3E, 0x00], Pdu::Single { data: &[0x3E, 0x00] }),
            (&[0x10, 0x14, 1, 2, 3, 4, 5, 6], Pdu::First { length: 20, data: &[1, 2, 3, 4, 5, 6] }),
            (&[0x10, 0, 0, 0, 0x10, 0, 1, 2], Pdu::First { length: 4096, data: &[1, 2] }),
            (&[0x2F, 9], Pdu::Consecutive { sequence: 15, data: &[9] }),
            (
                &[0x30, 8, 0xF3],
                Pdu::Flow(FlowStatus::ContinueToSend { block_size: 8, separation: Duration::from_micros(300) }),
            ),
        ];
        for (bytes, pdu) in cases {
            assert_eq!(Pdu::decode(bytes, 0), Ok(pdu), "{bytes:02X?}");
        }
    }

    #[test]
    fn malformed_frames_are_named() {
        assert_eq!(Pdu::decode(&[], 0), Err(PduError::TooShort));
        assert_eq!(Pdu::decode(&[0x00, 1], 0), Err(PduError::SingleLength { claimed: 0, room: 1 }));
        assert_eq!(Pdu::decode(&[0x03, 1], 0), Err(PduError::SingleLength { claimed: 3, room: 1 }));
        assert_eq!(Pdu::decode(&[0x10, 7, 1, 2, 3, 4, 5, 6], 0), Err(PduError::FirstLength { length: 7 }));
        assert_eq!(Pdu::decode(&[0x10, 0, 0, 0, 0x0F, 0xFF, 1, 2], 0), Err(PduError::FirstLength { length: 4095 }));
        assert_eq!(Pdu::decode(&[0x33, 0, 0], 0), Err(PduError::FlowStatus { status: 3 }));
        assert_eq!(Pdu::decode(&[0x40], 0), Err(PduError::Kind { kind: 4 }));
    }

    #[test]
    fn with_an_address_byte_a_first_frame_may_announce_seven_bytes() {
        assert!(Pdu::decode(&[0x10, 7, 1, 2, 3, 4, 5], 1).is_ok());
        assert_eq!(Pdu::decode(&[0x10, 6, 1, 2, 3, 4, 5], 1), Err(PduError::FirstLength { length: 6 }));
    }

    #[test]
    fn reserved_separation_times_mean_the_longest() {
        for code in [0x80, 0xF0, 0xFA, 0xFF] {
            assert_eq!(separation_time(code), Duration::from_millis(127));
        }
    }

    proptest! {
        #[test]
        fn a_separation_time_is_never_shortened(micros in 0u64..200_000) {
            let time = Duration::from_micros(micros);
            let read = separation_time(separation_code(time));
            prop_assert!(read >= time.min(Duration::from_millis(127)));
        }

        #[test]
        fn any_frame_decodes_or_is_refused(frame in prop::collection::vec(any::<u8>(), 0..65), address in 0..2usize) {
            let _ = Pdu::decode(&frame, address);
        }
    }
}
