//! `uds-server`: the TCU as a diagnostic server, ISO 14229 on ISO 13400 (DoIP).
//!
//! Read in this order: [`config`], [`content`] (what the TCU says of itself, and lets testers do), [`engine`] (one task that owns
//! the protocol machines of `pitstop-doip` and `pitstop-uds` and all connections), [`testers`] (whose certificates count),
//! [`workshop`] (the update that a tester brings, another task) with [`record`] (what of it outlives a restart), [`ports`] and
//! [`adapters`] (the other services), [`software`] (the versions, asked of `self-update`), [`bus`] (the status on D-Bus).
//!
//! It needs nothing of the over-the-air side: with `manager`, `backend-link` and `downloader` stopped it answers and updates the
//! same. What it does not serve it refuses with the standard's code.

pub mod adapters;
pub mod bus;
pub mod config;
pub mod content;
pub mod engine;
pub mod ports;
pub mod record;
pub mod software;
mod start;
pub mod testers;
pub mod workshop;

pub use start::main;
