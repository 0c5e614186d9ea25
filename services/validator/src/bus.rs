//! The object on the bus: arguments in, one call, answer out.

use std::os::fd::OwnedFd as StdFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pitstop_dbus::{AdmittedBundle, OtaError, ValidatorStatus};
use pitstop_runtime::{Durability, Key, OperationHandle, Operations, ResultData};
use pitstop_types::EcuId;
use zbus::message::Header;
use zbus::{OwnedFd, OwnedObjectPath, interface};

use crate::admission::Admission;
use crate::service::blocking;
use crate::{Validator, local};

pub(crate) struct Bus {
    pub(crate) validator: Arc<Validator>,
    pub(crate) operations: Operations,
}

#[interface(name = "io.pitstop.Ota1.Validator")]
impl Bus {
    #[zbus(out_args("key_id", "public_pem"))]
    fn get_identity(&self) -> Result<(String, String), OtaError> {
        Ok(self.validator.identity())
    }

    #[zbus(out_args("manifest"))]
    async fn collect_manifest(&self, update: &str) -> Result<Vec<u8>, OtaError> {
        self.validator.collect_manifest(update).await
    }

    #[zbus(out_args("operation"))]
    async fn verify(&self, #[zbus(header)] header: Header<'_>) -> Result<OwnedObjectPath, OtaError> {
        let key = Key { kind: "verify".to_owned(), update: String::new(), ecu: String::new(), attempt: 1 };
        let validator = Arc::clone(&self.validator);
        self.operations
            .start(key, Durability::Transient, creator(&header), |handle| async move {
                handle.phase("verifying").await;
                let outcome = validator.verify().await?;
                let update = outcome.update.map(|update| update.to_string()).unwrap_or_default();
                Ok(ResultData::from([
                    ("update".to_owned(), update.into()),
                    ("director_version".to_owned(), outcome.director_version.into()),
                    ("image_version".to_owned(), outcome.image_version.into()),
                ]))
            })
            .await
    }

    #[zbus(out_args("decision"))]
    fn get_decision(&self, update: &str) -> Result<String, OtaError> {
        let decision = self.validator.decision(update)?;
        serde_json::to_string(&decision).map_err(|error| OtaError::Internal(error.to_string()))
    }

    #[zbus(out_args("operation"))]
    async fn admit(
        &self,
        update: &str,
        ecu: &str,
        role: &str,
        bundle: OwnedFd,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, OtaError> {
        let admission = self.validator.plan_admission(update, ecu, role)?;
        // Transient: a bundle that was refused may come again, whole; one that was admitted is found so at once.
        let key = Key {
            kind: format!("admit-{}", admission.purpose.as_str()),
            update: update.to_owned(),
            ecu: ecu.to_owned(),
            attempt: 1,
        };
        let validator = Arc::clone(&self.validator);
        let bundle = std::fs::File::from(StdFd::from(bundle));
        self.operations
            .start(key, Durability::Transient, creator(&header), |handle| admit(validator, admission, bundle, handle))
            .await
    }

    #[zbus(out_args("bundle", "description"))]
    fn open_admitted(&self, update: &str, ecu: &str, role: &str) -> Result<(OwnedFd, AdmittedBundle), OtaError> {
        let (file, description) = self.validator.open_admitted(update, ecu, role)?;
        Ok((OwnedFd::from(StdFd::from(file)), description))
    }

    #[zbus(out_args("sink", "operation"))]
    async fn receive_local(
        &self,
        length: u64,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedFd, OwnedObjectPath), OtaError> {
        let key =
            Key { kind: "receive-local".to_owned(), update: String::new(), ecu: EcuId::tcu().to_string(), attempt: 1 };
        if self.operations.is_running(|other| *other == key) {
            return Err(OtaError::Busy("another package is being received".to_owned()));
        }
        let (package, sink) = local::pipe(length)?;
        let validator = Arc::clone(&self.validator);
        let work = |handle| receive(validator, package, handle);
        let operation = self.operations.start(key, Durability::Transient, creator(&header), work).await?;
        Ok((OwnedFd::from(StdFd::from(sink)), operation))
    }

    async fn end_local(&self, update: &str, committed: bool) -> Result<(), OtaError> {
        self.validator.end_local(update, committed).await
    }

    async fn release(&self, update: &str) -> Result<(), OtaError> {
        // First what runs for it, so that nothing is admitted behind the release.
        self.operations.release(update).await;
        self.validator.release(update).await
    }

    #[zbus(out_args("floors"))]
    async fn get_floors(&self) -> Result<Vec<(String, u64)>, OtaError> {
        let validator = Arc::clone(&self.validator);
        blocking(move || validator.floors()).await
    }

    async fn raise_floors(&self, update: &str) -> Result<(), OtaError> {
        self.validator.raise_floors(update).await
    }

    #[zbus(out_args("status"))]
    fn get_status(&self) -> Result<ValidatorStatus, OtaError> {
        self.validator.status()
    }
}

fn creator(header: &Header<'_>) -> Option<zbus::names::OwnedUniqueName> {
    header.sender().map(|name| name.to_owned().into())
}

/// Takes a workshop's package in.
async fn receive(
    validator: Arc<Validator>,
    package: local::Package,
    handle: OperationHandle,
) -> Result<ResultData, OtaError> {
    let (done, total) = (package.progress(), package.length());
    handle.phase("metadata").await;
    let phases = handle.clone();
    let work = validator.receive(package, async move || phases.phase("bundle").await);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result.map(|(update, version)| ResultData::from([
                ("update".to_owned(), update.to_string().into()),
                ("version".to_owned(), version.to_string().into()),
            ])),
            () = tokio::time::sleep(TELL_EVERY) => handle.progress(done.load(Ordering::Relaxed), total).await,
        }
    }
}

/// How often a running admission tells how far it is.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// Runs an admission on a blocking thread and carries its progress to the operation, and a cancel the other way.
async fn admit(
    validator: Arc<Validator>,
    admission: Admission,
    bundle: std::fs::File,
    handle: OperationHandle,
) -> Result<ResultData, OtaError> {
    let total = admission.expected.length;
    let done = Arc::new(AtomicU64::new(0));
    let checking = Arc::new(AtomicBool::new(false));
    let progress = {
        let (done, checking, handle) = (Arc::clone(&done), Arc::clone(&checking), handle.clone());
        move |phase: &'static str, bytes| {
            done.store(bytes, Ordering::Relaxed);
            checking.store(phase == "checking", Ordering::Relaxed);
            !handle.is_cancelled()
        }
    };
    let work = validator.admit(admission, bundle, progress);
    tokio::pin!(work);
    handle.phase("copying").await;
    let mut told = false;
    loop {
        tokio::select! {
            result = &mut work => return result.map(|()| ResultData::new()),
            () = tokio::time::sleep(TELL_EVERY) => {
                if checking.load(Ordering::Relaxed) && !told {
                    handle.phase("checking").await;
                    told = true;
                }
                handle.progress(done.load(Ordering::Relaxed).min(total), total).await;
            }
        }
    }
}
