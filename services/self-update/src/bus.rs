//! The D-Bus object: arguments in, answers out. Two interfaces, for two callers that must not reach each other's updates.

use std::sync::Arc;

use pitstop_dbus::{OtaError, SlotRelease, SlotStatus};
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

use pitstop_types::UpdateId;

use crate::ports::Peers;
use crate::service::{Service, update_id};

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
        self.0.stage(&campaigns(&update)?, &expected, attempt, sender).await
    }

    async fn activate(&self, update: String) -> Result<(), OtaError> {
        self.0.activate(&campaigns(&update)?).await
    }

    async fn reboot(&self, update: String) -> Result<(), OtaError> {
        self.0.reboot(&campaigns(&update)?).await
    }

    async fn mark_good(&self, update: String) -> Result<(), OtaError> {
        self.0.mark_good(&campaigns(&update)?).await
    }

    async fn mark_other_bad(&self, update: String) -> Result<(), OtaError> {
        self.0.mark_other_bad(&campaigns(&update)?).await
    }

    async fn commit(&self, update: String) -> Result<(), OtaError> {
        self.0.commit(&campaigns(&update)?).await
    }

    #[zbus(out_args("restart"))]
    async fn roll_back(&self, update: String) -> Result<bool, OtaError> {
        self.0.roll_back(&campaigns(&update)?).await
    }

    async fn lease(&self, owner: String, update: String, seconds: u32) -> Result<(), OtaError> {
        self.0.lease(&owner, &campaigns(&update)?, seconds).await
    }

    async fn release_lease(&self, update: String) -> Result<(), OtaError> {
        self.0.release_lease(&campaigns(&update)?).await
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

/// `io.pitstop.Ota1.Workshop`, at the same path.
pub struct Workshop<P>(pub Arc<Service<P>>);

#[interface(name = "io.pitstop.Ota1.Workshop")]
impl<P: Peers> Workshop<P> {
    #[zbus(out_args("update", "phase", "version"))]
    async fn get_update(&self) -> Result<(String, String, String), OtaError> {
        self.0.workshop_update().await
    }

    async fn check(&self) -> Result<(), OtaError> {
        self.0.check_free().await
    }

    #[zbus(out_args("operation"))]
    async fn stage(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: String,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        let sender = header.sender().map(|name| name.to_owned().into());
        self.0.stage_for_workshop(&workshops(&update)?, attempt, sender).await
    }

    async fn activate(&self, update: String) -> Result<(), OtaError> {
        self.0.activate_for_workshop(&workshops(&update)?).await
    }

    async fn reboot(&self, update: String) -> Result<(), OtaError> {
        self.0.reboot_for_workshop(&workshops(&update)?).await
    }

    async fn mark_good(&self, update: String) -> Result<(), OtaError> {
        self.0.mark_good(workshops(&update)?.as_str()).await
    }

    async fn commit(&self, update: String) -> Result<(), OtaError> {
        let update = workshops(&update)?;
        self.0.commit(update.as_str()).await?;
        self.0.forget(&update).await;
        self.0.let_go(&update).await;
        Ok(())
    }

    #[zbus(out_args("restart"))]
    async fn roll_back(&self, update: String) -> Result<bool, OtaError> {
        let update = workshops(&update)?;
        let restart = self.0.roll_back(update.as_str()).await?;
        self.0.forget(&update).await;
        if !restart {
            self.0.let_go(&update).await;
        }
        Ok(restart)
    }
}

/// An id of a campaign's update.
fn campaigns(text: &str) -> Result<String, OtaError> {
    match update_id(text)? {
        update if update.is_workshop() => Err(OtaError::InvalidArgument(format!("{update} is a workshop's update"))),
        update => Ok(update.into()),
    }
}

/// An id of a workshop's update.
fn workshops(text: &str) -> Result<UpdateId, OtaError> {
    let update = update_id(text)?;
    if update.is_workshop() {
        return Ok(update);
    }
    Err(OtaError::InvalidArgument(format!("{update} is not a workshop's update")))
}
