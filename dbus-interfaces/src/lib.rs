//! The D-Bus contract of Pitstop in Rust: names, wire types, named errors and proxies that match the XML beside this crate.
//!
//! The XML comes first. A service implements it with `#[zbus::interface]` and proves it in a test with
//! [`contract::differences`]; a client uses the proxies here. Whatever is added to the XML is added here by hand,
//! because generated proxies would lose the named errors.

pub mod access;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod names;
mod proxies;
mod wire;

pub use error::{OtaError, Result};
pub use names::{ERROR_PREFIX, INTERFACES, Interface, bus_name, interface_name, object_path, unit_name, xml};
pub use proxies::*;
pub use wire::*;
