//! `flasher`: programs the ECUs behind CAN and DoIP.
//!
//! Read it in this order: `start` (what is built), `bus` (the D-Bus object), `service` (orders and jobs), `job` (one job on one ECU:
//! the machine of `pitstop-flashing` driven over a link), `lanes` (who may use a bus when), `record` (what survives a restart),
//! `ports` (what it needs from outside) and `adapters` (where that really comes from).

pub mod adapters;
mod bus;
pub mod config;
mod error;
mod job;
mod lanes;
pub mod ports;
mod record;
mod service;
mod start;

pub use bus::FlasherObject;
pub use record::stored_records;
pub use service::{Flasher, Parts, Request, Verb};
pub use start::main;
