//! backend-link: the only service that talks to the backend's API.
//!
//! Read [`service`] first (one task that owns outbox, session and deadlines), then [`bus`] (the D-Bus object), then the parts: [`api`] (HTTPS with the
//! device's certificate), [`mqtt`] (hints down, presence and progress up), [`outbox`] (reports until acknowledged), [`provision`],
//! [`pauses`] (how often anybody may make this service act).
//! Nothing here is believed by anybody: metadata is verified by validator, bundles are checked block by block, a hint only makes somebody ask.

pub mod api;
pub mod bus;
pub mod config;
pub mod device;
pub mod mqtt;
pub mod outbox;
pub mod pauses;
pub mod provision;
pub mod service;
mod start;

use std::process::ExitCode;

/// Entry of the service's process.
pub fn main(args: pitstop_runtime::Args) -> ExitCode {
    pitstop_runtime::run("backend-link", args, start::start)
}
