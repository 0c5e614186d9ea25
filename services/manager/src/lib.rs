//! The manager: one vehicle update from the decision to its end.
//!
//! Read [`pitstop_lifecycle`] first: it holds all that can happen. `service.rs` is the one task that owns an update;
//! `effects.rs` does what the record asks, through the ports in `ports.rs`; `check.rs` finds out whether there is
//! something to do; `adapters/` are the other services on the bus; `bus.rs` is what this one shows there.

mod adapters;
mod bus;
mod check;
mod config;
mod effects;
mod hints;
mod history;
mod pace;
pub mod ports;
mod report;
mod reporter;
mod service;
mod start;
mod status;
mod tether;
mod words;

pub use bus::{ManagerObject, Shown, announce, ask};
pub use config::{Input, Settings, SettingsError};
pub use history::{EcuEntry, Entry, History, Refusal};
pub use service::{Command, News, Service, stored_record};
pub use start::main;
pub use tether::{Live, Tether};

#[cfg(test)]
mod tests;
