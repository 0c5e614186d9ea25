//! `io.pitstop.Ota1.Operation` as it is served.

use std::collections::HashMap;
use std::sync::Arc;

use pitstop_dbus::OtaError;
use zbus::message::Header;
use zbus::{OwnedVariant, interface};

use super::{Entry, Operations, State, lock, on_wire, state_text};

/// The D-Bus object.
pub(super) struct Operation {
    pub(super) entry: Arc<Entry>,
    pub(super) operations: Operations,
}

#[interface(name = "io.pitstop.Ota1.Operation")]
impl Operation {
    #[zbus(property)]
    fn kind(&self) -> String {
        lock(&self.entry.progress).key.kind.clone()
    }
    #[zbus(property)]
    fn update(&self) -> String {
        lock(&self.entry.progress).key.update.clone()
    }
    #[zbus(property)]
    fn ecu(&self) -> String {
        lock(&self.entry.progress).key.ecu.clone()
    }
    #[zbus(property)]
    fn state(&self) -> String {
        state_text(lock(&self.entry.progress).state).to_owned()
    }
    #[zbus(property)]
    fn phase(&self) -> String {
        lock(&self.entry.progress).phase.clone()
    }
    #[zbus(property)]
    fn done(&self) -> u64 {
        lock(&self.entry.progress).done
    }
    #[zbus(property)]
    fn total(&self) -> u64 {
        lock(&self.entry.progress).total
    }
    #[zbus(property)]
    fn error_name(&self) -> String {
        lock(&self.entry.progress).error_name.clone()
    }
    #[zbus(property)]
    fn error_text(&self) -> String {
        lock(&self.entry.progress).error_text.clone()
    }
    #[zbus(property)]
    fn result(&self) -> HashMap<String, OwnedVariant> {
        on_wire(&lock(&self.entry.progress).result)
    }

    fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<(), OtaError> {
        let creator = lock(&self.entry.creator).clone();
        match (creator, header.sender()) {
            (Some(creator), Some(sender)) if creator.as_str() != sender.as_str() => {
                Err(OtaError::WrongPhase("only who started an operation cancels it".to_owned()))
            }
            _ => {
                self.entry.cancel.send_replace(true);
                Ok(())
            }
        }
    }

    async fn acknowledge(&self) -> Result<(), OtaError> {
        let (key, state) = {
            let progress = lock(&self.entry.progress);
            (progress.key.clone(), progress.state)
        };
        if state == State::Running {
            return Err(OtaError::Busy("the operation is running".to_owned()));
        }
        // Taking the object away waits for its calls to end, this one too: let it end first.
        let operations = self.operations.clone();
        tokio::spawn(async move { operations.drop_entry(&key).await });
        Ok(())
    }
}
