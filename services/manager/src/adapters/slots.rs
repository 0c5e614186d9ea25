use std::path::PathBuf;

use async_trait::async_trait;
use pitstop_dbus::{OtaError, SlotStatus};
use pitstop_types::UpdateId;
use zbus::{Connection, OwnedObjectPath};

use super::{operation, proxy};
use crate::ports::{Ended, Order, Slots};
use crate::tether::Tether;

/// Linux makes a new one at each boot.
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub struct BusSlots {
    bus: Connection,
    boot_id_file: PathBuf,
}

impl BusSlots {
    pub fn new(bus: &Connection, boot_id_file: PathBuf) -> Self {
        Self { bus: bus.clone(), boot_id_file }
    }

    async fn request(&self, order: &Order) -> Result<OwnedObjectPath, OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).stage(order.update.as_str(), &order.expected, order.attempt).await
    }
}

#[async_trait]
impl Slots for BusSlots {
    async fn slots(&self) -> Result<Vec<SlotStatus>, OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).get_slots().await
    }

    async fn boot_id(&self) -> String {
        let simulated = tokio::fs::read_to_string(&self.boot_id_file).await;
        let id = match simulated {
            Ok(id) => id,
            // None at all: then every start looks like the same boot, and a lost restart is ordered again.
            Err(_) => tokio::fs::read_to_string(KERNEL_BOOT_ID).await.unwrap_or_default(),
        };
        id.trim().to_owned()
    }

    async fn fall_back_reason(&self) -> String {
        let asked = async { Ok::<_, OtaError>(proxy!(SelfUpdateProxy, &self.bus).fall_back_reason().await?) };
        asked.await.unwrap_or_default()
    }

    async fn stage(&self, order: &Order, tether: &Tether) -> Ended {
        operation::carry_out(&self.bus, "SelfUpdate", self.request(order).await, tether).await
    }

    async fn activate(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).activate(update.as_str()).await
    }

    async fn reboot(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).reboot(update.as_str()).await
    }

    async fn mark_good(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).mark_good(update.as_str()).await
    }

    async fn mark_other_bad(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).mark_other_bad(update.as_str()).await
    }

    async fn commit(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).commit(update.as_str()).await
    }

    async fn roll_back(&self, update: &UpdateId) -> Result<(), OtaError> {
        // Whether a restart is needed the record knows better: it has seen which slot runs.
        proxy!(SelfUpdateProxy, &self.bus).roll_back(update.as_str()).await.map(|_restart| ())
    }

    async fn release_lease(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(SelfUpdateProxy, &self.bus).release_lease(update.as_str()).await
    }
}
