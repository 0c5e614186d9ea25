//! The whole vehicle on one machine: real services on a private bus, a real backend and broker, a TPM, simulated control units.
//!
//! [`world::World`] starts it, [`scenario`] runs one story in it. `pitstop-demo` shows it to a person; tests and measurements use it too.

#![allow(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

pub mod attacks;
pub mod backend;
pub mod bus;
pub mod firmware;
pub mod process;
pub mod programs;
pub mod scenario;
pub mod show;
pub mod simulator;
pub mod tcu;
pub mod tpm;
pub mod world;
