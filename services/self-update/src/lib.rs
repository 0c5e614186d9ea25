//! `self-update`: the TCU's own two slots.
//!
//! Read in this order: [`config`], [`service`] (what each call does), `pitstop_slots::SlotRecord` (what may follow what),
//! [`core`] (record and boot environment kept in step, write before act), [`install`] (one image into one slot),
//! [`workshop`] (what is different when the diagnostic server asks), [`bus`] (the D-Bus object), [`adapters`] (slot files, the
//! other services).
//!
//! What is installed comes from `validator` by the service's own call, is checked against the service's own keyring and is
//! compared with the signed hash tree block by block while it is read. The slot that runs is never opened for writing.
//!
//! [`trial_guard`] is a program of its own, for the case that a new slot's services do not come up.

pub mod adapters;
pub mod bus;
pub mod config;
pub mod core;
pub mod install;
pub mod ports;
pub mod release;
pub mod service;
mod start;
pub mod trial_guard;
pub mod workshop;

pub use start::{boot_decision_main, main};
