use crate::{HeaderNack, Message, PayloadType, ProtocolVersion};

const HEADER: usize = 8;

/// A message with its header's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub version: ProtocolVersion,
    pub message: Message,
}

impl Frame {
    pub const fn new(version: ProtocolVersion, message: Message) -> Self {
        Self { version, message }
    }

    pub fn encode(&self) -> Vec<u8> {
        let version = self.version.code();
        let mut out = vec![version, !version];
        out.extend(self.message.payload_type().code().to_be_bytes());
        out.extend([0; 4]);
        self.message.encode_payload(&mut out);
        let length = (out.len() - HEADER) as u32;
        for (to, from) in out.iter_mut().skip(4).zip(length.to_be_bytes()) {
            *to = from;
        }
        out
    }

    /// Reads one whole message, as a UDP datagram carries it.
    pub fn decode_datagram(datagram: &[u8], max_length: u32) -> Result<Self, Rejected> {
        let mut decoder = StreamDecoder::new(max_length);
        decoder.push(datagram);
        match decoder.next_item() {
            Some(StreamItem::Frame(frame)) if decoder.buffered() == 0 => Ok(frame),
            Some(StreamItem::Rejected(rejected)) => Err(rejected),
            // The header's length and the datagram's differ.
            _ => {
                let version = match *datagram {
                    [version, inverse, ..] => ProtocolVersion::from_header(version, inverse),
                    _ => None,
                };
                Err(Rejected::new(version.unwrap_or(ProtocolVersion::V2012), HeaderNack::InvalidLength, true))
            }
        }
    }
}

/// A header that was not taken; answer it with the code, and close the connection where the standard says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// The version to answer with.
    pub version: ProtocolVersion,
    pub nack: HeaderNack,
    pub close: bool,
}

impl Rejected {
    /// A header of this version was not taken.
    const fn new(version: ProtocolVersion, nack: HeaderNack, close: bool) -> Self {
        Self { version: version.of_answer(), nack, close }
    }
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    Frame(Frame),
    Rejected(Rejected),
}

/// Cuts a TCP stream into messages.
///
/// Headers are checked in the order of ISO 13400-2:2019, figure 16: pattern, type, length against the limit, length for the type.
/// The payload of a message that is too long or of an unknown type is skipped, not stored. After a rejection that closes the
/// connection nothing more comes.
#[derive(Debug)]
pub struct StreamDecoder {
    max_length: u32,
    buffer: Vec<u8>,
    skip: u32,
    dead: bool,
}

impl StreamDecoder {
    /// `max_length`: the longest payload taken, in bytes.
    pub const fn new(max_length: u32) -> Self {
        Self { max_length, buffer: Vec::new(), skip: 0, dead: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.dead {
            return;
        }
        let skipped = bytes.len().min(self.skip as usize);
        self.skip -= skipped as u32;
        self.buffer.extend_from_slice(bytes.get(skipped..).unwrap_or_default());
    }

    /// The next message or rejection; `None` until more bytes come.
    pub fn next_item(&mut self) -> Option<StreamItem> {
        if self.dead {
            return None;
        }
        let &[version, inverse, type_high, type_low, l0, l1, l2, l3, ..] = self.buffer.as_slice() else { return None };
        let kind = u16::from_be_bytes([type_high, type_low]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        match self.check_header(version, inverse, kind, length) {
            Ok((version, kind)) => self.take_frame(version, kind, length),
            Err(rejected) => {
                if rejected.close {
                    self.dead = true;
                    self.buffer = Vec::new();
                } else {
                    self.discard(length);
                }
                Some(StreamItem::Rejected(rejected))
            }
        }
    }

    /// Bytes that wait for the rest of their message.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn check_header(
        &self,
        version: u8,
        inverse: u8,
        kind: u16,
        length: u32,
    ) -> Result<(ProtocolVersion, PayloadType), Rejected> {
        let reject = |version, nack, close| Err(Rejected::new(version, nack, close));
        let Some(version) = ProtocolVersion::from_header(version, inverse) else {
            return reject(ProtocolVersion::V2012, HeaderNack::IncorrectPattern, true);
        };
        let Some(kind) = PayloadType::from_code(kind) else {
            return reject(version, HeaderNack::UnknownPayloadType, false);
        };
        let identification = matches!(
            kind,
            PayloadType::VehicleIdRequest | PayloadType::VehicleIdRequestByEid | PayloadType::VehicleIdRequestByVin
        );
        if version == ProtocolVersion::Default && !identification {
            return reject(ProtocolVersion::V2012, HeaderNack::IncorrectPattern, true);
        }
        if length > self.max_length {
            return reject(version, HeaderNack::MessageTooLarge, false);
        }
        let (least, most) = kind.lengths();
        if !(least..=most).contains(&length) {
            return reject(version, HeaderNack::InvalidLength, true);
        }
        Ok((version, kind))
    }

    fn take_frame(&mut self, version: ProtocolVersion, kind: PayloadType, length: u32) -> Option<StreamItem> {
        let end = HEADER + length as usize;
        let payload = self.buffer.get(HEADER..end)?;
        let item = match Message::decode_payload(kind, payload) {
            Ok(message) => StreamItem::Frame(Frame { version, message }),
            Err(_) => {
                self.dead = true;
                StreamItem::Rejected(Rejected::new(version, HeaderNack::InvalidLength, true))
            }
        };
        self.buffer.drain(..end);
        Some(item)
    }

    fn discard(&mut self, length: u32) {
        let whole = HEADER + length as usize;
        let here = whole.min(self.buffer.len());
        self.buffer.drain(..here);
        self.skip = (whole - here) as u32;
    }
}
