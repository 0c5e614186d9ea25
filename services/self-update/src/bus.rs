//! The D-Bus object: arguments in, answers out.

use std::sync::Arc;

use pitstop_dbus::{OtaError, SlotRelease, SlotStatus};
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

use crate::ports::Peers;
use crate::service::Service;

/// `io.pitstop.Ota1.SelfUpdate`.
pub struct SelfUpdate<P>(pub Arc<Service<P>>);

#[interface(name = "io.pitstop.Ota1.SelfUpdate")]
impl<P: Peers> SelfUpdate<P> {
    #[zbus(out_args("slots"))]
    async fn get_slots(&self) -> Result<Vec<SlotStatus>, OtaError> {
        self.0.get_slots().await
    }

    #[zbus(out_args("release"))]
    async fn get_release(&self, slot: String) -> Result<SlotRelease, OtaError> {
        let release = self.0.get_release(&slot).await?;
        Ok(SlotRelease {
            software_number: release.software_number,
            version: release.version.to_string(),
            counter: release.counter.0,
            hardware: release.hardware.to_string(),
        })
    }

    #[zbus(out_args("operation"))]
    async fn stage(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: String,
        expected: String,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        let sender = header.sender().map(|name| name.to_owned().into());
        self.0.stage(&update, &expected, attempt, sender).await
    }

    async fn activate(&self, update: String) -> Result<(), OtaError> {
        self.0.activate(&update).await
    }

    async fn reboot(&self, update: String) -> Result<(), OtaError> {
        self.0.reboot(&update).await
    }

    async fn mark_good(&self, update: String) -> Result<(), OtaError> {
        self.0.mark_good(&update).await
    }

    async fn mark_other_bad(&self, update: String) -> Result<(), OtaError> {
        self.0.mark_other_bad(&update).await
    }

    async fn commit(&self, update: String) -> Result<(), OtaError> {
        self.0.commit(&update).await
    }

    #[zbus(out_args("restart"))]
    async fn roll_back(&self, update: String) -> Result<bool, OtaError> {
        self.0.roll_back(&update).await
    }

    async fn lease(&self, owner: String, update: String, seconds: u32) -> Result<(), OtaError> {
        self.0.lease(&owner, &update, seconds).await
    }

    async fn release_lease(&self, update: String) -> Result<(), OtaError> {
        self.0.release_lease(&update).await
    }

    #[zbus(property)]
    fn booted_slot(&self) -> String {
        self.0.booted.to_string()
    }

    #[zbus(property)]
    async fn fall_back_reason(&self) -> String {
        self.0.fall_back_reason().await
    }
}
