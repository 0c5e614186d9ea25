use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{HmiProxy, OtaError, VehicleStateProxy};
use pitstop_runtime::operation::patiently;
use pitstop_types::UpdateId;
use zbus::Connection;

use super::times::Times;
use crate::ports::Safety;

/// Asks `hmi` for the stored answer and `vehicle-state` for standstill and inhibit, both at the moment of need.
pub struct BusSafety {
    bus: Connection,
    times: Arc<Times>,
}

impl BusSafety {
    pub fn new(bus: Connection, times: Arc<Times>) -> Self {
        Self { bus, times }
    }
}

#[async_trait]
impl Safety for BusSafety {
    async fn consented(&self, update: &UpdateId) -> Result<(), OtaError> {
        let hmi = HmiProxy::builder(&self.bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        let answer = match patiently(|| hmi.get_answer(update.as_str())).await {
            Err(OtaError::UnknownUpdate(text)) => return Err(OtaError::NoConsent(text)),
            other => other?,
        };
        let agreed = match answer.choice.as_str() {
            "now" => true,
            // An unknown time agrees to nothing.
            "at" => self.times.now(answer.at).is_some_and(|now| now >= answer.at),
            _ => false,
        };
        if agreed { Ok(()) } else { Err(OtaError::NoConsent(format!("the stored answer is {:?}", answer.choice))) }
    }

    async fn safe(&self) -> Result<(), OtaError> {
        let state =
            VehicleStateProxy::builder(&self.bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        match patiently(|| state.check_safe()).await? {
            (true, true, _) => Ok(()),
            (_, _, reason) => Err(OtaError::NotSafe(reason)),
        }
    }
}
