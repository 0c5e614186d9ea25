//! `uds-server`: the TCU as a diagnostic server, ISO 14229 on ISO 13400 (DoIP).
//!
//! Read in this order: [`config`], [`content`] (what the TCU says of itself: the DIDs), [`engine`] (one task that owns the
//! protocol machines of `pitstop-doip` and `pitstop-uds` and all connections), [`software`] (the versions, asked of
//! `self-update`), [`bus`] (the status on D-Bus).
//!
//! It needs nothing of the over-the-air side: with `manager`, `backend-link` and `downloader` stopped it answers the same.
//! Nothing can be written through it yet; what it does not serve it refuses with the standard's code.

pub mod bus;
pub mod config;
pub mod content;
pub mod engine;
pub mod software;
mod start;

pub use start::main;
