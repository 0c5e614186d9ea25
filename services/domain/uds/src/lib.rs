//! UDS (ISO 14229-1): messages as types, a client session and a server core, without I/O.
//!
//! Read it in this order:
//! - [`Nrc`] and [`Reaction`]: why a server refuses, and what a client does about it;
//! - [`Request`], [`Response`]: every service Pitstop speaks, with `encode` and `decode`;
//! - [`ClientSession`]: one request at a time with its timers (P2, P2*, response pending, busy, keep-alive);
//! - [`server`]: the check order of the standard around an [`server::EcuContent`], shared by the TCU's own server and by the
//!   simulated ECUs.
//!
//! Machines take the time as an argument ([`Monotonic`]); after each input drain `poll_transmit` and `poll_event`, then wait
//! until `poll_timeout` or the next input.

mod client;
mod did;
mod message;
mod nrc;
mod reader;
mod request;
mod response;
pub mod server;
mod service;

pub use client::{ClientError, ClientEvent, ClientSession, ClientTiming, RequestRefused, StepLimits, Transmit};
pub use did::Did;
pub use message::{AddressAndSize, DecodeError, EncodeError, ResetType, RoutineAction, RoutineId, SessionType};
pub use nrc::{Nrc, Reaction};
pub use request::Request;
pub use response::{BlockLength, Response, SessionTiming};
pub use service::ServiceId;

/// Monotonic time since any fixed origin; it goes on while the vehicle sleeps. Only differences count.
pub type Monotonic = std::time::Duration;

/// Whether a request is meant for one ECU or for all that listen (ISO 14229-2, target address type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    Physical,
    Functional,
}
