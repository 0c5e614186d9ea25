use std::collections::BTreeMap;

use can_dbc::{Dbc, MessageId, MultiplexIndicator, NumericValue, ValueType};

use crate::{ByteOrder, Layout, LayoutError};

/// A DBC file larger than this is refused before it is parsed: a vehicle's is some hundred kilobytes.
pub const MAX_DBC_BYTES: usize = 4 << 20;
/// Longest payload of a CAN FD frame (ISO 11898-1), in bytes.
const MAX_FRAME_BYTES: u64 = 64;

/// Identifier of a CAN frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameId {
    /// 11 bits.
    Standard(u16),
    /// 29 bits.
    Extended(u32),
}

/// The messages of a DBC file that can be decoded: plain, not multiplexed, integer signals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Database {
    messages: BTreeMap<String, Message>,
}

/// One message and its signals.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub name: String,
    pub id: FrameId,
    /// Length in bytes, at most 64.
    pub length: usize,
    signals: BTreeMap<String, Signal>,
}

#[derive(Debug, Clone, PartialEq)]
struct Signal {
    layout: Result<Layout, Unusable>,
    unit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    Multiplexed,
    Float,
    Layout(LayoutError),
}

/// Why a DBC file, or a part of it that is asked for, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    #[error("the DBC file has {0} bytes, at most {MAX_DBC_BYTES} are read")]
    TooLarge(usize),
    #[error("the DBC file cannot be parsed: {0}")]
    Syntax(String),
    #[error("the DBC file has message {0} twice")]
    Twice(String),
    #[error("message {name} has {length} bytes; a frame carries at most 64")]
    Length { name: String, length: u64 },
    #[error("message {name} has the identifier {id:#x}, which no frame can have")]
    Identifier { name: String, id: u32 },
    #[error("the DBC file has no message {0}")]
    NoMessage(String),
    #[error("message {message} has no signal {signal}")]
    NoSignal { message: String, signal: String },
    #[error("signal {signal} of message {message} is multiplexed; that is not supported")]
    Multiplexed { message: String, signal: String },
    #[error("signal {signal} of message {message} is a floating-point signal; that is not supported")]
    Float { message: String, signal: String },
    #[error("signal {signal} of message {message} cannot be decoded: {cause}")]
    Layout { message: String, signal: String, cause: LayoutError },
}

impl Database {
    /// Reads a DBC file. Signals that cannot be decoded are an error only when they are asked for.
    pub fn parse(text: &str) -> Result<Self, DatabaseError> {
        if text.len() > MAX_DBC_BYTES {
            return Err(DatabaseError::TooLarge(text.len()));
        }
        let dbc = Dbc::try_from(text).map_err(|e| DatabaseError::Syntax(e.to_string()))?;
        let mut messages = BTreeMap::new();
        for source in &dbc.messages {
            let message = Message::of(source, &dbc)?;
            if messages.insert(message.name.clone(), message).is_some() {
                return Err(DatabaseError::Twice(source.name.clone()));
            }
        }
        Ok(Self { messages })
    }

    pub fn message(&self, name: &str) -> Result<&Message, DatabaseError> {
        self.messages.get(name).ok_or_else(|| DatabaseError::NoMessage(name.to_owned()))
    }
}

impl Message {
    fn of(source: &can_dbc::Message, dbc: &Dbc) -> Result<Self, DatabaseError> {
        let name = source.name.clone();
        if source.size > MAX_FRAME_BYTES {
            return Err(DatabaseError::Length { name, length: source.size });
        }
        let id = match source.id {
            MessageId::Standard(id) if id <= 0x7FF => FrameId::Standard(id),
            MessageId::Extended(id) if id <= 0x1FFF_FFFF => FrameId::Extended(id),
            other => return Err(DatabaseError::Identifier { name, id: other.raw() }),
        };
        let length = source.size as usize;
        let signals = source.signals.iter().map(|s| (s.name.clone(), Signal::of(s, source.id, dbc, length))).collect();
        Ok(Self { name, id, length, signals })
    }

    /// Layout of one signal.
    pub fn layout(&self, signal: &str) -> Result<Layout, DatabaseError> {
        let (message, signal) = (self.name.clone(), signal.to_owned());
        match self.signals.get(&signal).map(|found| found.layout) {
            Some(Ok(layout)) => Ok(layout),
            Some(Err(Unusable::Multiplexed)) => Err(DatabaseError::Multiplexed { message, signal }),
            Some(Err(Unusable::Float)) => Err(DatabaseError::Float { message, signal }),
            Some(Err(Unusable::Layout(cause))) => Err(DatabaseError::Layout { message, signal, cause }),
            None => Err(DatabaseError::NoSignal { message, signal }),
        }
    }

    /// Unit of one signal as the file spells it; empty when unknown.
    pub fn unit(&self, signal: &str) -> &str {
        self.signals.get(signal).map_or("", |found| &found.unit)
    }
}

impl Signal {
    fn of(source: &can_dbc::Signal, id: MessageId, dbc: &Dbc, length: usize) -> Self {
        Self { layout: layout(source, id, dbc, length), unit: source.unit.clone() }
    }
}

fn layout(source: &can_dbc::Signal, id: MessageId, dbc: &Dbc, length: usize) -> Result<Layout, Unusable> {
    if !matches!(source.multiplexer_indicator, MultiplexIndicator::Plain | MultiplexIndicator::Multiplexor) {
        return Err(Unusable::Multiplexed);
    }
    let float =
        |kind: &can_dbc::SignalExtendedValueType| *kind != can_dbc::SignalExtendedValueType::SignedOrUnsignedInteger;
    if dbc.extended_value_type_for_signal(id, &source.name).is_some_and(float) {
        return Err(Unusable::Float);
    }
    let outside = Unusable::Layout(LayoutError::Outside(length));
    let (low, high) = (number(source.min), number(source.max));
    let layout = Layout {
        start: u16::try_from(source.start_bit).map_err(|_| outside)?,
        size: u8::try_from(source.size).map_err(|_| Unusable::Layout(LayoutError::Size(source.size)))?,
        order: match source.byte_order {
            can_dbc::ByteOrder::LittleEndian => ByteOrder::Little,
            can_dbc::ByteOrder::BigEndian => ByteOrder::Big,
        },
        signed: source.value_type == ValueType::Signed,
        factor: source.factor,
        offset: source.offset,
        range: (low != 0.0 || high != 0.0).then_some((low, high)),
    };
    layout.check(length).map_err(Unusable::Layout)?;
    Ok(layout)
}

fn number(value: NumericValue) -> f64 {
    match value {
        NumericValue::Uint(v) => v as f64,
        NumericValue::Int(v) => v as f64,
        NumericValue::Double(v) => v,
    }
}
