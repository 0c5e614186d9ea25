//! Buses and diagnostic links: what several services need to talk CAN, ISO-TP and DoIP.
//!
//! - [`LinkAddress`]: the `link` texts of `vehicle.toml`;
//! - [`CanBus`]: one CAN or CAN FD bus, by SocketCAN, by the simulator's hub or by the socketcand protocol;
//! - [`DiagnosticLink`]: UDS messages to and from one ECU, as [`IsoTpChannel`] on a bus or [`DoipConnection`] on TCP;
//! - [`DiagnosticClient`]: a request and its response on such a link.
//!
//! [`hub`] and [`socketcand`] also hold the wire forms of their protocols, which the simulator's side needs too.

mod address;
mod bus;
mod client;
mod doip;
mod frame;
pub mod hub;
mod isotp;
mod link;
mod raw;
pub mod socketcand;

pub use address::{LinkAddress, LinkAddressError};
pub use bus::{CanBus, CanError, FrameReceiver, Sent};
pub use client::{DiagnosticClient, DiagnosticError};
pub use doip::{DoipConnection, DoipSettings};
pub use frame::{CanFrame, CanId, FrameError};
pub use isotp::{IsoTpChannel, IsoTpSettings};
pub use link::{DiagnosticLink, LinkError};
