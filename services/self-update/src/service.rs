//! What each call does. Small durable steps go to [`crate::core`]; the image is written on a blocking thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pitstop_bundle::Kind;
use pitstop_bundle_io::{BundleError, BundleReader, Keyring};
use pitstop_dbus::{AdmittedBundle, OtaError, Result, SlotStatus};
use pitstop_runtime::operation::patiently;
use pitstop_runtime::{Durability, Key, OperationHandle, Operations, ResultData, wall_clock};
use pitstop_slots::{Phase, SlotImage, SlotPair};
use pitstop_types::{EcuId, HardwareId, SlotName, UpdateId};
use tokio::sync::{Mutex, watch};
use zbus::OwnedObjectPath;
use zbus::names::OwnedUniqueName;

use crate::core::{CoreHandle, Staging, chain};
use crate::install::{InstallError, Outcome, Step, Watcher, install};
use crate::ports::{Peers, SlotDevices};
use crate::release::Release;
use crate::trial_guard::Reason;
use crate::workshop::Holds;

/// The class of the TCU's image in a bundle, as in RAUC's `[image.rootfs]`.
const IMAGE_CLASS: &str = "rootfs";

/// What the service is made of.
pub struct Service<P> {
    pub core: CoreHandle,
    pub peers: P,
    pub slots: SlotPair,
    pub booted: SlotName,
    pub devices: Arc<dyn SlotDevices>,
    /// Where a slot's file system is read.
    pub paths: BTreeMap<SlotName, PathBuf>,
    pub operations: Operations,
    /// Read at each use: a new keyring may arrive while the service runs.
    pub keyring: PathBuf,
    pub hardware: HardwareId,
    pub lease: Duration,
    pub reboot_command: Vec<String>,
    /// Where `trial-guard` puts its reason down.
    pub reason: PathBuf,
    pub reboot_timeout: Duration,
    /// One writer at a time, also when a cancelled one has not noticed yet.
    pub writer: Arc<Mutex<()>>,
    pub holds: Holds,
}

impl<P: Peers> Service<P> {
    /// Both slots, the versions read out of their own file systems.
    pub async fn get_slots(&self) -> Result<Vec<SlotStatus>> {
        let view = self.core.ask(|core| core.view()).await?;
        let paths = self.paths.clone();
        let names: Vec<SlotName> = self.slots.names().into_iter().cloned().collect();
        blocking(move || {
            let status = |slot: &SlotName| {
                let release = paths.get(slot).and_then(|path| Release::of_slot(path).ok());
                SlotStatus {
                    name: slot.to_string(),
                    booted: *slot == view.booted,
                    state: view.state(slot, release.is_some()).to_owned(),
                    version: release.as_ref().map(|r| r.version.to_string()).unwrap_or_default(),
                    hardware: release.as_ref().map(|r| r.hardware.to_string()).unwrap_or_default(),
                    primary: view.is_primary(slot),
                }
            };
            names.iter().map(status).collect()
        })
        .await
    }

    /// What one slot says of itself.
    pub async fn get_release(&self, slot: &str) -> Result<Release> {
        let name = self.slots.find(slot).ok_or_else(|| OtaError::NotFound(format!("there is no slot {slot:?}")))?;
        let path = self.paths.get(name).cloned().unwrap_or_default();
        let found = blocking(move || Release::of_slot(&path)).await?;
        found.map_err(|error| OtaError::NotFound(format!("slot {slot}: {}", chain(&error))))
    }

    /// Starts or finds the operation that stages this update.
    pub async fn stage(
        self: &Arc<Self>,
        update: &str,
        expected: &str,
        attempt: u32,
        sender: Option<OwnedUniqueName>,
    ) -> Result<OwnedObjectPath> {
        let update = update_id(update)?;
        if attempt == 0 {
            return Err(OtaError::InvalidArgument("attempts count from 1".to_owned()));
        }
        let (lease, for_lease) = (self.lease, update.clone());
        self.core.ask(move |core| core.take_lease(&for_lease, lease, Instant::now())).await??;
        // What was said of an earlier image says nothing of the next. Absent is the rule.
        let _ = std::fs::remove_file(&self.reason);
        // Nobody may acknowledge a workshop's results, and its record of the slots says what they would: they are not stored.
        let durability = if update.is_workshop() { Durability::Transient } else { Durability::Durable };
        let key = Key { kind: "stage".into(), update: update.to_string(), ecu: EcuId::tcu().to_string(), attempt };
        let (service, expected) = (Arc::clone(self), expected.to_owned());
        let work = |handle| async move { service.run_stage(update, expected, handle).await };
        self.operations.start(key, durability, sender, work).await
    }

    async fn run_stage(&self, update: UpdateId, expected: String, handle: OperationHandle) -> Result<ResultData> {
        self.check_expected(&expected).await?;
        handle.phase("opening").await;
        let (file, admitted) = self.open_admitted(&update, &handle).await?;
        let _writer = self.writer.lock().await;
        let stop = Arc::new(AtomicBool::new(false));
        let (report, mut reported) = watch::channel((Step::Comparing, 0, 0));
        let job = StageJob {
            core: self.core.clone(),
            update,
            file,
            admitted,
            keyring: self.keyring.clone(),
            hardware: self.hardware.clone(),
            devices: Arc::clone(&self.devices),
            report,
            stop: Arc::clone(&stop),
        };
        let mut done = tokio::task::spawn_blocking(move || job.run());
        let mut step = None;
        loop {
            tokio::select! {
                ended = &mut done => {
                    let outcome = ended.map_err(|error| OtaError::Internal(format!("the writing thread ended: {error}")))??;
                    let word = if outcome == Outcome::AlreadySo { "already-so" } else { "written" };
                    return Ok(ResultData::from([("outcome".to_owned(), word.to_owned().into())]));
                }
                () = handle.cancelled(), if !stop.load(Ordering::Relaxed) => {
                    // The writer sees it at its next chunk; its own end is the operation's.
                    stop.store(true, Ordering::Relaxed);
                    handle.phase("stopping").await;
                }
                Ok(()) = reported.changed() => {
                    let (now, bytes, total) = *reported.borrow_and_update();
                    if step != Some(now) {
                        step = Some(now);
                        handle.phase(now.as_str()).await;
                    }
                    handle.progress(bytes, total).await;
                }
            }
        }
    }

    /// Why the slot that was tried last was left, if it was and anybody knows.
    pub async fn fall_back_reason(&self) -> String {
        let Ok(view) = self.core.ask(|core| core.view()).await else { return String::new() };
        let left = view.record.installation.filter(|now| matches!(now.phase, Phase::FallingBack | Phase::FellBack));
        let reason = left.and_then(|now| Reason::read(&self.reason).filter(|reason| reason.slot == now.target));
        reason.map(|reason| reason.text).unwrap_or_default()
    }

    /// Takes the bundle from `validator`, which may be starting too: that it does not answer yet is no result worth keeping.
    async fn open_admitted(&self, update: &UpdateId, handle: &OperationHandle) -> Result<(File, AdmittedBundle)> {
        tokio::select! {
            opened = patiently(|| self.peers.open_admitted(update.as_str())) => opened,
            () = handle.cancelled() => Err(OtaError::Cancelled("before it was written".to_owned())),
        }
    }

    /// The order names the version it expects to run; a TCU that differs is not written.
    async fn check_expected(&self, expected: &str) -> Result<()> {
        let booted = self.booted.to_string();
        let found = match self.get_release(&booted).await {
            Ok(release) => release.version.to_string(),
            Err(OtaError::NotFound(_)) => String::new(),
            Err(other) => return Err(other),
        };
        if found == expected {
            return Ok(());
        }
        Err(OtaError::UnexpectedSoftware(format!("slot {booted} runs {found:?}, the order expects {expected:?}")))
    }

    pub async fn activate(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        Ok(self.core.ask(move |core| core.activate(&update)).await??)
    }

    pub async fn mark_good(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        Ok(self.core.ask(move |core| core.mark_good(&update)).await??)
    }

    pub async fn mark_other_bad(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        Ok(self.core.ask(move |core| core.mark_other_bad(&update)).await??)
    }

    pub async fn commit(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        Ok(self.core.ask(move |core| core.commit(&update)).await??)
    }

    pub async fn roll_back(&self, update: &str) -> Result<bool> {
        let update = update_id(update)?;
        Ok(self.core.ask(move |core| core.roll_back(&update)).await??)
    }

    pub async fn lease(&self, owner: &str, update: &str, seconds: u32) -> Result<()> {
        let update = update_id(update)?;
        if !matches!(owner, "ota" | "workshop") {
            return Err(OtaError::InvalidArgument(format!("{owner:?} is no owner; \"ota\" and \"workshop\" are")));
        }
        if !(1..=86_400).contains(&seconds) {
            return Err(OtaError::InvalidArgument("a lease lasts 1 to 86400 seconds".to_owned()));
        }
        let (owner, duration) = (owner.to_owned(), Duration::from_secs(u64::from(seconds)));
        Ok(self.core.ask(move |core| core.lease(&owner, &update, duration, Instant::now())).await??)
    }

    pub async fn release_lease(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        self.core.ask(move |core| core.release(&update)).await
    }

    /// Restarts the TCU if a restart is due for this update, after asking for itself whether that is safe and wanted. The answer to
    /// another update says nothing of what is in the slot.
    pub async fn reboot(&self, update: &str) -> Result<()> {
        let update = update_id(update)?;
        self.check_due(&update).await?;
        let (standstill, inhibited, reason) = self.peers.check_safe().await?;
        if !standstill || !inhibited {
            return Err(OtaError::NotSafe(reason));
        }
        // Going back needs no consent: the vehicle would be held until somebody answers, or until a clock is right again.
        if !self.core.ask(|core| core.goes_back()).await? {
            self.check_consent(&update).await?;
        }
        self.run_reboot(&update).await
    }

    pub(crate) async fn check_due(&self, update: &UpdateId) -> Result<()> {
        let of = update.clone();
        if self.core.ask(move |core| core.reboot_due_for(&of)).await? {
            return Ok(());
        }
        Err(OtaError::WrongPhase(format!("no restart is due for {update}: nothing of it was activated or rolled back")))
    }

    async fn check_consent(&self, update: &UpdateId) -> Result<()> {
        let answer = self.peers.answer(update.as_str()).await?;
        match (answer.choice.as_str(), wall_clock()) {
            ("now", _) => Ok(()),
            ("at", Some(now)) if answer.at <= now => Ok(()),
            ("at", Some(_)) => Err(OtaError::NoConsent(format!("the driver agreed to Unix time {}", answer.at))),
            ("at", None) => Err(OtaError::TimeUnknown(format!("the driver agreed to Unix time {}", answer.at))),
            (other, _) => Err(OtaError::NoConsent(format!("the stored answer is {other:?}"))),
        }
    }

    pub(crate) async fn run_reboot(&self, update: &UpdateId) -> Result<()> {
        let Some((program, arguments)) = self.reboot_command.split_first() else {
            return Err(OtaError::Internal("no reboot command".to_owned()));
        };
        log::info!(update = update.as_str(); "restarting the TCU");
        let command = tokio::process::Command::new(program).args(arguments).output();
        match tokio::time::timeout(self.reboot_timeout, command).await {
            // A command that does not come back has perhaps begun: the restart itself is the answer.
            Err(_) => Ok(()),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect();
                Err(OtaError::Internal(format!("{program} ended with {}: {words}", output.status)))
            }
            Ok(Err(error)) => Err(OtaError::Internal(format!("running {program}: {error}"))),
        }
    }
}

/// The blocking part of staging.
struct StageJob {
    core: CoreHandle,
    update: UpdateId,
    file: File,
    admitted: AdmittedBundle,
    keyring: PathBuf,
    hardware: HardwareId,
    devices: Arc<dyn SlotDevices>,
    report: watch::Sender<(Step, u64, u64)>,
    stop: Arc<AtomicBool>,
}

impl StageJob {
    fn run(self) -> Result<Outcome> {
        let keyring =
            std::fs::read(&self.keyring).map_err(|e| OtaError::Storage(format!("reading the keyring: {e}")))?;
        let now = wall_clock()
            .ok_or_else(|| OtaError::TimeUnknown("the certificate's validity cannot be judged".to_owned()))?;
        let keyring = Keyring::from_pem(&keyring).map_err(|e| OtaError::BadSignature(chain(&e)))?;
        let file = self.file.try_clone().map_err(storage)?;
        let bundle = BundleReader::open(file, &keyring, self.admitted.judged_at(now)).map_err(refused)?;
        let (name, image) = self.check(&bundle)?;
        let (update, for_core) = (self.update.clone(), image.clone());
        let (staging, booted) = self
            .core
            .ask_blocking(move |core| core.stage(&update, &for_core).map(|s| (s, core.booted().clone())))??;
        let Staging::Write(slot) = staging else { return Ok(Outcome::AlreadySo) };
        let mut source = bundle.read_file(&name).map_err(refused)?;
        let opened = self.devices.open(&slot, &booted);
        let mut watcher = Reporter { job: &self };
        let outcome = opened
            .map_err(|source| InstallError::Device { step: Step::Comparing, offset: 0, source })
            .and_then(|mut device| install(&mut source, &image, device.as_mut(), &mut watcher));
        let (update, for_core, good) = (self.update.clone(), image, outcome.is_ok());
        let noted = self.core.ask_blocking(move |core| core.written(&update, &for_core, good));
        // What kept the image out of the slot comes first: that it could not be noted either is its consequence.
        let outcome = outcome.map_err(|error| install_error(&slot, &error))?;
        if noted?? { Ok(outcome) } else { Err(OtaError::Cancelled("rolled back while it was written".to_owned())) }
    }

    /// Holds the bundle against what was admitted and against this TCU.
    fn check(&self, bundle: &BundleReader) -> Result<(String, SlotImage)> {
        let meta = bundle.meta().map_err(refused)?;
        if meta.kind != Kind::Tcu {
            return Err(OtaError::BadBundle("the bundle is not for a TCU".to_owned()));
        }
        if meta.hardware != self.hardware || self.admitted.hardware != self.hardware.as_str() {
            let text = format!("the bundle is for {}, this TCU is {}", meta.hardware, self.hardware);
            return Err(OtaError::BadHardwareId(text));
        }
        let info = bundle.info();
        let root = info.manifest.bundle.verity_hash.map(|hash| hash.to_string());
        let same = root.as_deref() == Some(self.admitted.verity_root.as_str())
            && info.manifest_hash.to_string() == self.admitted.manifest_hash
            && meta.release_counter.0 == self.admitted.counter
            && meta.version.as_str() == self.admitted.version;
        if !same {
            return Err(OtaError::BadBundle("the bundle is not the one that was admitted".to_owned()));
        }
        let image = info.manifest.image.get(IMAGE_CLASS);
        let found = image.and_then(|image| Some((image.filename.clone()?, image.size?, image.sha256?)));
        let (name, length, sha256) = found
            .ok_or_else(|| OtaError::BadBundle("the bundle has no [image.rootfs] with size and hash".to_owned()))?;
        Ok((name, SlotImage { version: meta.version.clone(), counter: meta.release_counter, length, sha256 }))
    }
}

/// Tells progress, and finds out whether to go on.
struct Reporter<'a> {
    job: &'a StageJob,
}

impl Watcher for Reporter<'_> {
    fn step(&mut self, step: Step, done: u64, total: u64) -> bool {
        self.job.report.send_replace((step, done, total));
        let update = self.job.update.clone();
        // A roll-back takes the installation away under the writer; the slot is marked bad by then.
        !self.job.stop.load(Ordering::Relaxed)
            && self.job.core.ask_blocking(move |core| core.may_write(&update)).unwrap_or(false)
    }
}

fn install_error(slot: &SlotName, error: &InstallError) -> OtaError {
    let text = format!("slot {slot}: {}", chain(error));
    match error {
        InstallError::TooLarge { .. } => OtaError::OutOfSpace(text),
        InstallError::Source(_) | InstallError::WrongImage => OtaError::BadBundle(text),
        InstallError::Device { .. } | InstallError::ReadBack => OtaError::SlotFailed(text),
        InstallError::Cancelled => OtaError::Cancelled(text),
    }
}

/// Content that does not fit the signed tree is a bad bundle here; the finer names are the admission's.
fn refused(error: BundleError) -> OtaError {
    match error.name() {
        "HashMismatch" => OtaError::BadBundle(error.text()),
        name => OtaError::from_name(name, error.text()),
    }
}

fn storage(error: std::io::Error) -> OtaError {
    OtaError::Storage(error.to_string())
}

pub(crate) fn update_id(text: &str) -> Result<UpdateId> {
    UpdateId::new(text).map_err(|error| OtaError::InvalidArgument(error.to_string()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| OtaError::Internal(error.to_string()))
}

#[cfg(test)]
#[path = "service_tests.rs"]
pub(crate) mod tests;
