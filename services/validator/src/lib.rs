//! The validator: decides by Uptane what may be installed, admits bundles, signs the vehicle's manifests.
//!
//! It holds all that trust hangs on (metadata, floors, the admitted bundles, the identity key) and has no network: metadata comes
//! through `BackendLink`, bundles come as file descriptors. Read `service.rs` first, it is what the service does; then `ledger.rs`
//! and `trust.rs` (what is remembered), `admission.rs` and `vault.rs` (bundles), `local.rs` (a workshop's package), `report.rs` (the manifest). The rules of Uptane
//! themselves are in the crate `pitstop-uptane`.

mod adapters;
mod admission;
mod approvals;
mod bus;
mod config;
mod ledger;
mod local;
mod ports;
mod refusal;
mod report;
mod service;
mod start;
mod trust;
mod vault;

use std::process::ExitCode;

use pitstop_runtime::Args;

pub use ports::{EcuReading, Identity, MetadataSource, VersionSource};
pub use service::{Parts, Validator};

/// Runs the service to its end.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("validator", args, start::start)
}

#[cfg(test)]
mod tests;
