//! Buses and diagnostic links: what several services need to talk CAN, ISO-TP and DoIP.
//!
//! - [`LinkAddress`]: the `link` texts of `vehicle.toml`;
//! - [`DiagnosticLink`]: UDS messages to and from one ECU;
//! - [`DiagnosticClient`]: a request and its response on such a link.

mod address;
mod bus;
mod client;
mod link;

pub use address::{LinkAddress, LinkAddressError};
pub use bus::CanError;
pub use client::{DiagnosticClient, DiagnosticError};
pub use link::{DiagnosticLink, LinkError};
