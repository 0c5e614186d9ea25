//! The object `/io/pitstop/Ota1/Flasher`: converts arguments and answers, decides nothing.

use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{EcuDescription, EcuVersions, OtaError};
use pitstop_runtime::{Durability, Key, OperationHandle, Operations};
use pitstop_types::{SoftwareVersion, UpdateId};
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

use crate::job::Watcher;
use crate::service::{Flasher, Request, Verb};

/// Most ECUs one ReadVersions may name.
const MAX_IDS: usize = 64;

/// The D-Bus object.
pub struct FlasherObject {
    flasher: Arc<Flasher>,
    operations: Operations,
}

impl FlasherObject {
    pub fn new(flasher: Arc<Flasher>, operations: Operations) -> Self {
        Self { flasher, operations }
    }

    async fn order(
        &self,
        header: &Header<'_>,
        verb: Verb,
        update: &str,
        ecu: &str,
        expected: &str,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        let request = Request {
            verb,
            update: UpdateId::new(update).map_err(invalid)?,
            ecu: self.flasher.ecu(ecu)?.id.clone(),
            expected: optional_version(expected)?,
        };
        let key = Key { kind: verb.as_str().to_owned(), update: update.to_owned(), ecu: ecu.to_owned(), attempt };
        if self.operations.is_running(|running| running.ecu == ecu && *running != key) {
            return Err(OtaError::Busy(format!("ECU {ecu} is in other work")));
        }
        let creator = header.sender().map(|sender| sender.to_owned().into());
        let flasher = self.flasher.clone();
        let work = move |handle: OperationHandle| async move { flasher.carry_out(&request, &Told(handle)).await };
        self.operations.start(key, Durability::Durable, creator, work).await
    }
}

#[interface(name = "io.pitstop.Ota1.Flasher")]
impl FlasherObject {
    #[zbus(out_args("ecus"))]
    fn list_ecus(&self) -> Result<Vec<EcuDescription>, OtaError> {
        Ok(self.flasher.list())
    }

    #[zbus(out_args("versions"))]
    async fn read_versions(&self, ecus: Vec<String>) -> Result<Vec<EcuVersions>, OtaError> {
        if ecus.len() > MAX_IDS {
            return Err(OtaError::InvalidArgument(format!("{} ECUs, at most {MAX_IDS} are read", ecus.len())));
        }
        self.flasher.read_versions(&ecus).await
    }

    #[zbus(out_args("operation"))]
    async fn stage(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: &str,
        ecu: &str,
        expected: &str,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        self.order(&header, Verb::Stage, update, ecu, expected, attempt).await
    }

    #[zbus(out_args("operation"))]
    async fn activate(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: &str,
        ecu: &str,
        expected: &str,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        self.order(&header, Verb::Activate, update, ecu, expected, attempt).await
    }

    #[zbus(out_args("operation"))]
    async fn commit(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: &str,
        ecu: &str,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        self.order(&header, Verb::Commit, update, ecu, "", attempt).await
    }

    #[zbus(out_args("operation"))]
    async fn roll_back(
        &self,
        #[zbus(header)] header: Header<'_>,
        update: &str,
        ecu: &str,
        attempt: u32,
    ) -> Result<OwnedObjectPath, OtaError> {
        self.order(&header, Verb::RollBack, update, ecu, "", attempt).await
    }
}

fn invalid(error: impl ToString) -> OtaError {
    OtaError::InvalidArgument(error.to_string())
}

/// Empty: nothing is expected to run, or anything.
fn optional_version(text: &str) -> Result<Option<SoftwareVersion>, OtaError> {
    if text.is_empty() { Ok(None) } else { SoftwareVersion::new(text).map(Some).map_err(invalid) }
}

/// A job's course, told by its operation object.
struct Told(OperationHandle);

#[async_trait]
impl Watcher for Told {
    async fn phase(&self, phase: &str) {
        self.0.phase(phase).await;
    }

    async fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total).await;
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}
