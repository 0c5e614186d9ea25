//! The vehicle-state service: signals with their age, conditions over them, and the drive inhibit.
//!
//! The behaviour lies in two places without I/O: the crate `pitstop-conditions` (signals and conditions) and [`Inhibit`].
//! `service.rs` is the one task that owns both; `bus.rs` is the object on D-Bus; `adapters/` talks to the CAN buses.

mod adapters;
mod attention;
mod bus;
mod config;
mod inhibit;
mod ports;
mod service;

use std::process::ExitCode;

use anyhow::Context as _;
use pitstop_flashing::Vehicle;
use pitstop_runtime::{Args, Context};

pub use config::{InhibitFrame, Input, STANDSTILL, Settings, SettingsError};
pub use inhibit::{Inhibit, Order, Record, Shown, State, TooManyOwners};
pub use ports::{Buses, Clocks, Frame, SendError};
pub use service::Service;

/// Runs the service to its end.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("vehicle-state", args, start)
}

async fn start(context: Context) -> anyhow::Result<()> {
    let input: Input = context.config()?;
    let read = |path: &std::path::Path| {
        let path = context.path(path);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let vehicle = Vehicle::read(&read(&input.vehicle)?).context("vehicle.toml")?;
    let (dbc, signals) = (read(&input.dbc)?, read(&input.signals)?);
    let settings = input.validate(&dbc, &signals)?;
    let buses = adapters::CanBuses::open(&vehicle, &settings, context.root())?;
    let clocks = adapters::clocks();
    let bus = context.bus().await?;
    let service = Service::serve(&bus, settings, buses, context.storage()?, clocks).await?;
    context.ready(&bus, "VehicleState").await?;
    tokio::select! {
        () = service.run() => {}
        () = context.until_shutdown() => {}
    }
    Ok(())
}
