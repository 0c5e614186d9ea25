use async_trait::async_trait;
use pitstop_dbus::{EcuDescription, EcuVersions, OtaError};
use pitstop_types::EcuId;
use zbus::{Connection, OwnedObjectPath};

use super::{operation, proxy};
use crate::ports::{EcuFlasher, Ended, Order, Verb};
use crate::tether::Tether;

pub struct BusFlasher {
    bus: Connection,
}

impl BusFlasher {
    pub fn new(bus: &Connection) -> Self {
        Self { bus: bus.clone() }
    }

    async fn request(&self, order: &Order) -> Result<OwnedObjectPath, OtaError> {
        let flasher = proxy!(FlasherProxy, &self.bus);
        let (update, ecu) = (order.update.as_str(), order.ecu.as_str());
        match order.verb {
            Verb::Stage => flasher.stage(update, ecu, &order.expected, order.attempt).await,
            Verb::Activate => flasher.activate(update, ecu, &order.expected, order.attempt).await,
            Verb::Commit => flasher.commit(update, ecu, order.attempt).await,
            Verb::RollBack => flasher.roll_back(update, ecu, order.attempt).await,
        }
    }
}

#[async_trait]
impl EcuFlasher for BusFlasher {
    async fn list(&self) -> Result<Vec<EcuDescription>, OtaError> {
        proxy!(FlasherProxy, &self.bus).list_ecus().await
    }

    async fn versions(&self, ecus: &[EcuId]) -> Result<Vec<EcuVersions>, OtaError> {
        let ecus: Vec<String> = ecus.iter().map(ToString::to_string).collect();
        proxy!(FlasherProxy, &self.bus).read_versions(&ecus).await
    }

    async fn carry_out(&self, order: &Order, tether: &Tether) -> Ended {
        operation::carry_out(&self.bus, "Flasher", self.request(order).await, tether).await
    }
}
