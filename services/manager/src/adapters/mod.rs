//! The other services on the bus, one file each.

mod backend;
mod content;
mod driver;
mod flasher;
mod operation;
mod slots;
mod vehicle;

use std::sync::Arc;

use pitstop_runtime::Context;
use pitstop_types::UnixSeconds;
use zbus::Connection;

use crate::config::Settings;
use crate::ports::{Clock, Ports};

/// All ports, on `bus`.
pub fn ports(bus: &Connection, context: &Context, settings: &Settings) -> Ports {
    Ports {
        flasher: Arc::new(flasher::BusFlasher::new(bus)),
        slots: Arc::new(slots::BusSlots::new(bus, context.path(&settings.boot_id_file))),
        content: Arc::new(content::BusContent::new(bus)),
        driver: Arc::new(driver::BusDriver::new(bus)),
        vehicle: Arc::new(vehicle::BusVehicle::new(bus)),
        backend: Arc::new(backend::BusBackend::new(bus)),
        clock: Arc::new(WallClock),
    }
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Option<UnixSeconds> {
        pitstop_runtime::wall_clock()
    }
}

/// A proxy without a cache of properties: nothing is asked of a service before it is needed.
macro_rules! proxy {
    ($proxy:ident, $bus:expr) => {
        pitstop_dbus::$proxy::builder($bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?
    };
}
pub(crate) use proxy;
