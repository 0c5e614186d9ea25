use async_trait::async_trait;
use pitstop_dbus::{ConditionResult, OtaError};
use pitstop_types::UpdateId;
use zbus::Connection;

use super::proxy;
use crate::ports::Vehicle;

pub struct BusVehicle {
    bus: Connection,
}

impl BusVehicle {
    pub fn new(bus: &Connection) -> Self {
        Self { bus: bus.clone() }
    }
}

#[async_trait]
impl Vehicle for BusVehicle {
    async fn evaluate(&self, conditions: &[String]) -> Result<Vec<ConditionResult>, OtaError> {
        proxy!(VehicleStateProxy, &self.bus).evaluate(conditions).await
    }

    async fn request_inhibit(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(VehicleStateProxy, &self.bus).request_inhibit(update.as_str()).await
    }

    async fn release_inhibit(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(VehicleStateProxy, &self.bus).release_inhibit(update.as_str()).await
    }

    async fn inhibit_owners(&self) -> Result<Vec<UpdateId>, OtaError> {
        let owners = proxy!(VehicleStateProxy, &self.bus).inhibit_owners().await?;
        Ok(owners.into_iter().filter_map(|owner| UpdateId::new(owner).ok()).collect())
    }

    async fn unsafe_because(&self) -> Result<Option<String>, OtaError> {
        let (standstill, inhibited, reason) = proxy!(VehicleStateProxy, &self.bus).check_safe().await?;
        Ok((!standstill || !inhibited).then_some(reason))
    }
}
