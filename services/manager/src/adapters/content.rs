use async_trait::async_trait;
use pitstop_dbus::OtaError;
use pitstop_lifecycle::Role;
use pitstop_types::{Decision, EcuId, SoftwareRef, UpdateId};
use zbus::{Connection, Fd};

use super::{operation, proxy};
use crate::ports::Content;
use crate::tether::Tether;

pub struct BusContent {
    bus: Connection,
}

impl BusContent {
    pub fn new(bus: &Connection) -> Self {
        Self { bus: bus.clone() }
    }
}

#[async_trait]
impl Content for BusContent {
    async fn collect_manifest(&self, update: Option<&UpdateId>) -> Result<Vec<u8>, OtaError> {
        proxy!(ValidatorProxy, &self.bus).collect_manifest(update.map_or("", UpdateId::as_str)).await
    }

    async fn verify(&self, tether: &Tether) -> Result<Option<UpdateId>, OtaError> {
        let path = proxy!(ValidatorProxy, &self.bus).verify().await?;
        let mut result = operation::wait(&self.bus, "Validator", &path, tether).await?;
        let update = result.remove("update").and_then(|value| String::try_from(value).ok()).unwrap_or_default();
        if update.is_empty() {
            return Ok(None);
        }
        UpdateId::new(update).map(Some).map_err(|error| OtaError::MetadataMalformed(error.to_string()))
    }

    async fn decision(&self, update: &UpdateId) -> Result<Decision, OtaError> {
        let json = proxy!(ValidatorProxy, &self.bus).get_decision(update.as_str()).await?;
        serde_json::from_str(&json).map_err(|error| OtaError::MetadataMalformed(error.to_string()))
    }

    async fn admit(
        &self,
        update: &UpdateId,
        ecu: &EcuId,
        role: Role,
        bundle: &SoftwareRef,
        tether: &Tether,
    ) -> Result<(), OtaError> {
        let validator = proxy!(ValidatorProxy, &self.bus);
        let downloader = proxy!(DownloaderProxy, &self.bus);
        let sha256 = bundle.sha256.to_string();
        let path = downloader.fetch(update.as_str(), &sha256, bundle.length).await?;
        operation::wait(&self.bus, "Downloader", &path, tether).await?;
        let file = downloader.open(&sha256).await?;
        let path = validator.admit(update.as_str(), ecu.as_str(), role.as_str(), Fd::from(file)).await?;
        operation::wait(&self.bus, "Validator", &path, tether).await?;
        Ok(())
    }

    async fn raise_floors(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(ValidatorProxy, &self.bus).raise_floors(update.as_str()).await
    }

    async fn release(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(DownloaderProxy, &self.bus).release(update.as_str()).await?;
        proxy!(ValidatorProxy, &self.bus).release(update.as_str()).await
    }
}
