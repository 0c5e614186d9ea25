//! A vehicle's worth of simulated ECUs, and the CAN hub they meet on.
//!
//! A vehicle is a TOML file ([`Vehicle`]); [`start`] brings it to life: a hub that paces frames by bit time, ECUs with flash, boot
//! loader, UDS server, broadcast signals and faults to switch on, and a DoIP gateway. `vehicles/demo.toml` is the vehicle of the
//! demonstration.
//!
//! Read `ecu.rs` (power and faults around the UDS server of `pitstop-uds`), `content.rs` (what the ECU does), `flash.rs`, then
//! `hub.rs`, `can.rs` and `doip.rs` for the ways in, and `control.rs` for the back door.
//!
//! ## Routines
//!
//! | id | name | option record | answer |
//! |---|---|---|---|
//! | 0203 | check preconditions | - | 00 |
//! | FF00 | erase | alfi, address, size (whole sectors) | 00 |
//! | 0202 | check memory | address(4) length(4) CRC-32(4) | 00 as wanted, 01 not |
//! | FF01 | check dependencies: identity block valid, so the bank may be started | - | 00 / 01 |
//! | F010 | activate: start the written bank at the next reset, on trial (dual bank) | - | 00, 01 nothing bootable there |
//! | F011 | commit: end the trial for good | - | 00 |
//! | F012 | roll back: start the bank before the trial at the next reset | - | 00, 01 nothing bootable there |
//! | F013 | bank status | - | active bank, trial 0/1, version of bank 0 and of bank 1 (24 bytes each, zero padded) |
//!
//! Each is idempotent. While a trial lasts, the other bank is the way back and cannot be changed (NRC 22). A trial also ends after
//! so many starts, or when the tried bank is not bootable.

mod actor;
mod can;
mod content;
mod control;
mod doip;
mod ecu;
mod fault;
mod flash;
mod hub;
mod simulation;
mod vehicle;

// ECUs without a bus, for tests that drive them in virtual time.
pub use content::Content;
pub use ecu::{Output, SimEcu};
pub use fault::{Fault, FaultError};
pub use flash::Flash;
pub use simulation::{Options, Ready, start};
pub use vehicle::{EcuSpec, Software, Vehicle, VehicleError};
