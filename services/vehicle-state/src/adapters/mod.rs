//! The real clocks and CAN buses.

mod can;

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub(crate) use can::CanBuses;

use crate::Clocks;

/// The computer's clocks. The monotonic one goes on during suspend, so that a signal from before a sleep is old after it.
pub(crate) fn clocks() -> Clocks {
    let boot_time = || clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
    Clocks { monotonic: Arc::new(boot_time), wall: pitstop_runtime::wall_clock }
}
