//! DoIP (ISO 13400-2:2019): UDS over TCP and the vehicle's identification over UDP, without I/O.
//!
//! - [`Message`], [`Frame`]: the payload types with their codec, protocol versions 02 and 03;
//! - [`StreamDecoder`]: messages out of a TCP stream, header checks in the standard's order, limits before allocation;
//! - [`Tester`]: the client's side of one connection (routing activation, diagnostic messages and their acknowledgement);
//! - [`Entity`]: the vehicle's side of all connections and of UDP.
//!
//! After each input drain `poll_transmit` and `poll_event`, then wait until `poll_timeout` or the next input.

mod codec;
mod entity;
mod message;
mod tester;

pub use codec::{Frame, Rejected, StreamDecoder, StreamItem};
pub use entity::{ConnectionId, Entity, EntityEvent, EntitySettings, EntityTransmit, NotRouted};
pub use message::{
    ActivationCode, DecodeError, DiagnosticNackCode, HeaderNack, LogicalAddress, Message, PayloadType, ProtocolVersion,
    VehicleAnnouncement,
};
pub use tester::{SendRefused, Tester, TesterError, TesterEvent, TesterSettings};

/// Monotonic time since any fixed origin.
pub type Monotonic = std::time::Duration;

/// The TCP and UDP port of DoIP without TLS.
pub const PORT: u16 = 13400;
