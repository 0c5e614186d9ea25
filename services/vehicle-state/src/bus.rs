//! The object on the bus. A method checks its arguments, sends one command to the service, converts the answer.

use pitstop_conditions::{Expr, MAX_EXPRESSION_BYTES};
use pitstop_dbus::{ConditionResult, OtaError, SignalStatus};
use pitstop_types::UpdateId;
use tokio::sync::watch;
use zbus::{Connection, interface};

use crate::State;
use crate::service::{Command, Handle};

/// Conditions judged in one call.
const MAX_CONDITIONS: usize = 64;

/// `io.pitstop.Ota1.VehicleState`.
pub(crate) struct VehicleStateObject {
    service: Handle,
    inhibit: watch::Receiver<State>,
}

impl VehicleStateObject {
    pub(crate) fn new(service: Handle, inhibit: watch::Receiver<State>) -> Self {
        Self { service, inhibit }
    }

    /// Tells property watchers about the drive inhibit.
    pub(crate) async fn inhibit_changed_on(bus: &Connection) {
        let path = pitstop_dbus::object_path("VehicleState");
        if let Ok(object) = bus.object_server().interface::<_, Self>(path.as_str()).await
            && let Err(cause) = object.get().await.inhibit_changed(object.signal_emitter()).await
        {
            log::warn!("telling the changed drive inhibit failed: {cause}");
        }
    }
}

#[interface(name = "io.pitstop.Ota1.VehicleState")]
impl VehicleStateObject {
    #[zbus(out_args("signals"))]
    async fn get_signals(&self) -> Result<Vec<SignalStatus>, OtaError> {
        self.service.call(|reply| Command::GetSignals { reply }).await
    }

    #[zbus(out_args("results"))]
    async fn evaluate(&self, conditions: Vec<String>) -> Result<Vec<ConditionResult>, OtaError> {
        let conditions = parse(conditions)?;
        self.service.call(|reply| Command::Evaluate { conditions, reply }).await
    }

    async fn request_inhibit(&self, owner: String) -> Result<(), OtaError> {
        let owner = owner_id(owner)?;
        self.service.call(|reply| Command::Request { owner, reply }).await
    }

    async fn release_inhibit(&self, owner: String) -> Result<(), OtaError> {
        let owner = owner_id(owner)?;
        self.service.call(|reply| Command::Release { owner, reply }).await
    }

    #[zbus(out_args("standstill", "inhibited", "reason"))]
    async fn check_safe(&self) -> Result<(bool, bool, String), OtaError> {
        self.service.call(|reply| Command::CheckSafe { reply }).await
    }

    #[zbus(property)]
    fn inhibit(&self) -> &'static str {
        self.inhibit.borrow().as_str()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn inhibit_owners(&self) -> zbus::fdo::Result<Vec<String>> {
        let owners = self.service.call(|reply| Command::Owners { reply }).await;
        owners.map_err(|error| zbus::fdo::Error::Failed(error.text().to_owned()))
    }
}

fn owner_id(text: String) -> Result<UpdateId, OtaError> {
    UpdateId::new(text).map_err(|cause| OtaError::InvalidArgument(cause.to_string()))
}

/// Conditions with the text they were read from.
fn parse(conditions: Vec<String>) -> Result<Vec<(String, Expr)>, OtaError> {
    if conditions.len() > MAX_CONDITIONS {
        let found = conditions.len();
        return Err(OtaError::InvalidArgument(format!(
            "{found} conditions; at most {MAX_CONDITIONS} are judged at once"
        )));
    }
    let read = |text: String| match text.parse::<Expr>() {
        Ok(expr) => Ok((text, expr)),
        // One that is too long is not repeated in the answer.
        Err(cause) if text.len() > MAX_EXPRESSION_BYTES => Err(OtaError::InvalidArgument(cause.to_string())),
        Err(cause) => Err(OtaError::InvalidArgument(format!("condition {text:?}: {cause}"))),
    };
    conditions.into_iter().map(read).collect()
}
