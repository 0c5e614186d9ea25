//! downloader: fetches bundles over HTTPS by short-lived links into its cache.
//!
//! Read [`service`] first (one task that owns the index of the cache), then [`fetch`] (one bundle, resumable over loss of network and power), then
//! [`bus`]. The parts: [`answer`] (what a server's answer means), [`store`] (files and records of one bundle), [`pace`] (rate limit and stall limit), [`ports`] (where links come from). It holds no key,
//! decides nothing, and trusts nothing it fetches: what it checks is the hash it was told.

pub mod answer;
pub mod bus;
pub mod config;
pub mod fetch;
pub mod pace;
pub mod ports;
pub mod service;
mod start;
pub mod store;

use std::process::ExitCode;

/// Entry of the service's process.
pub fn main(args: pitstop_runtime::Args) -> ExitCode {
    pitstop_runtime::run("downloader", args, start::start)
}
