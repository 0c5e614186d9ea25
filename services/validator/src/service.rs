//! What the validator does, verb by verb. Each verb stores before it answers, and can be asked for again after any interruption.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use pitstop_bundle_io::Keyring;
use pitstop_dbus::{AdmittedBundle, OtaError, ValidatorStatus};
use pitstop_store::Storage;
use pitstop_tpm::floor::Floor;
use pitstop_types::{Decision, EcuId, HardwareId, ReleaseCounter, SoftwareRef, SoftwareVersion, UpdateId, Vin};
use pitstop_uptane::{Approval, Generation, Vehicle, Verification, Verified, VerifyError};

use crate::admission::{Admission, Source};
use crate::approvals::{Approvals, Approved};
use crate::ledger::Ledger;
use crate::ports::{Clock, Identity, MetadataSource, VersionSource};
use crate::refusal;
use crate::report::Report;
use crate::trust::Trust;
use crate::vault::{Purpose, Vault};

/// Everything the service is built from.
pub struct Parts {
    pub storage: Arc<dyn Storage>,
    /// Folder of the admitted bundles.
    pub bundles: PathBuf,
    /// Bytes to leave free on the data partition.
    pub reserve: u64,
    pub vin: Vin,
    /// Fitted ECUs with their hardware, the TCU among them.
    pub ecus: BTreeMap<EcuId, HardwareId>,
    /// The roots that the device was built with.
    pub factory: Generation,
    pub keyring: Keyring,
    pub identity: Arc<dyn Identity>,
    /// Keeps the TCU's floor; `None` without a TPM.
    pub tcu_floor: Option<Arc<dyn Floor>>,
    pub metadata: Arc<dyn MetadataSource>,
    pub versions: Arc<dyn VersionSource>,
    pub clock: Clock,
}

/// The service. Its state is what is stored; calls that change it take turns.
pub struct Validator {
    pub(crate) vin: Vin,
    pub(crate) ecus: BTreeMap<EcuId, HardwareId>,
    pub(crate) ledger: Ledger,
    pub(crate) trust: Trust,
    pub(crate) approvals: Approvals,
    pub(crate) vault: Vault,
    pub(crate) keyring: Keyring,
    identity: Arc<dyn Identity>,
    metadata: Arc<dyn MetadataSource>,
    pub(crate) versions: Arc<dyn VersionSource>,
    pub(crate) clock: Clock,
    /// One verification at a time.
    pub(crate) verifying: tokio::sync::Mutex<()>,
    /// Admissions and releases exclude each other: a sweep would take an unfinished copy away.
    pub(crate) bundles: Arc<tokio::sync::Mutex<()>>,
}

/// What a verification told the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: the Director wants nothing.
    pub update: Option<UpdateId>,
    pub director_version: u64,
    pub image_version: u64,
}

impl Validator {
    /// Opens the stores. Fails closed where one is damaged.
    pub fn open(parts: Parts) -> Result<Self, OtaError> {
        let ledger = Ledger::new(parts.storage.clone(), parts.tcu_floor);
        ledger.read()?;
        Ok(Self {
            vin: parts.vin,
            ecus: parts.ecus,
            ledger,
            trust: Trust::new(parts.storage.clone(), parts.factory),
            approvals: Approvals::new(parts.storage.clone()),
            vault: Vault::open(parts.storage, parts.bundles, parts.reserve)?,
            keyring: parts.keyring,
            identity: parts.identity,
            metadata: parts.metadata,
            versions: parts.versions,
            clock: parts.clock,
            verifying: tokio::sync::Mutex::new(()),
            bundles: Arc::default(),
        })
    }

    /// Key id and public key (PEM) of the identity key.
    pub fn identity(&self) -> (String, String) {
        let public = self.identity.public();
        (public.id().to_string(), public.public_text().to_owned())
    }

    /// Reads the versions and signs a new manifest.
    pub async fn collect_manifest(self: &Arc<Self>, update: &str) -> Result<Vec<u8>, OtaError> {
        let update = if update.is_empty() { String::new() } else { parse_update(update)?.to_string() };
        let readings = self.versions.read_all().await?;
        let this = Arc::clone(self);
        blocking(move || {
            let attack = this.ledger.read()?.last_error;
            let report = Report {
                vin: this.vin.clone(),
                counter: this.ledger.next_report()?,
                // A vehicle that does not know the time reports all the same, and says so.
                now: this.ledger.now((this.clock)()).ok(),
                update,
                attack,
            };
            report.sign(readings, &this.approvals, &this.identity)
        })
        .await
    }

    /// The full verification of both repositories; what it decides is stored.
    pub async fn verify(self: &Arc<Self>) -> Result<Outcome, OtaError> {
        let _turn = self.verifying.lock().await;
        let result = self.verify_once().await;
        // What the transport says is no verdict on the metadata.
        let word = match &result {
            Ok(_) => Some(String::new()),
            Err(error) if error.is_temporary() || matches!(error, OtaError::NotProvisioned(_)) => None,
            Err(error) => Some(error.short_name().to_owned()),
        };
        if let Some(word) = word {
            self.ledger.change(|entries| entries.last_error = word)?;
        }
        result
    }

    async fn verify_once(self: &Arc<Self>) -> Result<Outcome, OtaError> {
        let now = self.ledger.now((self.clock)())?;
        let trusted = self.trust.load(&self.ledger)?;
        let this = Arc::clone(self);
        let floors = blocking(move || this.ledger.floors()).await?;
        let vehicle = Vehicle { vin: self.vin.clone(), ecus: self.ecus.clone(), floors };
        let machine = Verification::new(vehicle, trusted.clone(), Some(now)).map_err(|e| refusal::metadata(&e))?;
        let (machine, result) = self.drive(machine).await;
        let generation = machine.generation();
        if generation != trusted {
            // Also after a refusal: what was verified before it stays verified.
            let this = Arc::clone(self);
            blocking(move || this.trust.store(&this.ledger, &generation)).await?;
        }
        result?;
        if let Some(error) = machine.passed_over() {
            log::warn!("the Director's list for workshops is passed over: {error}");
        }
        let (approval, _) = machine.finish().map_err(|error| refusal::metadata(&error))?;
        let this = Arc::clone(self);
        blocking(move || this.keep(&approval, now)).await
    }

    /// Fetches and hands over until the machine wants nothing more.
    async fn drive(&self, mut machine: Verification) -> (Verification, Result<(), OtaError>) {
        while let Some(fetch) = machine.poll_fetch() {
            let bytes = match self.metadata.fetch(fetch.repository, &fetch.file, fetch.limit).await {
                Ok(bytes) => bytes,
                Err(error) => return (machine, Err(error)),
            };
            // Signatures over megabytes take a while; status calls are answered meanwhile.
            let step = tokio::task::spawn_blocking(move || {
                let result: Result<(), VerifyError> = machine.handle_file(bytes);
                (machine, result)
            });
            let result;
            (machine, result) = match step.await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            if let Err(error) = result {
                return (machine, Err(refusal::metadata(&error)));
            }
        }
        (machine, Ok(()))
    }

    fn keep(&self, approval: &Verified<Approval>, now: i64) -> Result<Outcome, OtaError> {
        let update = self.approvals.store(approval, |update| self.vault.has_any(update))?;
        self.approvals.prune(now, |update| self.vault.has_any(update))?;
        self.ledger.change(|entries| {
            entries.verified_at = entries.verified_at.max(now);
            entries.director_version = approval.director_targets_version;
        })?;
        Ok(Outcome {
            update,
            director_version: approval.director_targets_version,
            image_version: approval.image_targets_version,
        })
    }

    /// The stored decision.
    pub fn decision(&self, update: &str) -> Result<Decision, OtaError> {
        Ok(self.approvals.get(&parse_update(update)?)?.decision)
    }

    /// What is to be admitted, from the decision. Errors here are those of the call, before any work begins.
    pub(crate) fn plan_admission(&self, update: &str, ecu: &str, role: &str) -> Result<Admission, OtaError> {
        let (update, ecu, purpose) = parse_request(update, ecu, role)?;
        let decision = self.approvals.get(&update)?.decision;
        let expected = software(&decision, &ecu, purpose)?.clone();
        let floor = self.ledger.floor(&ecu)?;
        let now = self.ledger.now((self.clock)())?;
        Ok(Admission { update, ecu, purpose, expected, floor, now })
    }

    /// Checks and admits a bundle. `progress` is told phase and bytes done; answering `false` stops it.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        admission: Admission,
        bundle: File,
        mut progress: impl FnMut(&'static str, u64) -> bool + Send + 'static,
    ) -> Result<(), OtaError> {
        let turn = Arc::clone(&self.bundles).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let _turn = turn;
            // Released while it waited for its turn: nothing may be admitted for it any more.
            this.approvals.get(&admission.update)?;
            admission.run(&this.vault, &this.keyring, Source::File(&bundle), &mut progress)
        })
        .await
    }

    /// An admitted bundle for its installer.
    pub fn open_admitted(&self, update: &str, ecu: &str, role: &str) -> Result<(File, AdmittedBundle), OtaError> {
        let (update, ecu, purpose) = parse_request(update, ecu, role)?;
        let record = self
            .vault
            .find(&update, &ecu, purpose)?
            .ok_or_else(|| OtaError::NotAdmitted(format!("{} of {ecu} for update {update}", purpose.as_str())))?;
        Ok((self.vault.open_bundle(&record)?, record.describe()))
    }

    /// Forgets an ended update.
    pub async fn release(self: &Arc<Self>, update: &str) -> Result<(), OtaError> {
        let update = parse_update(update)?;
        let turn = Arc::clone(&self.bundles).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let _turn = turn;
            this.vault.release(&update)?;
            this.approvals.remove(&update)
        })
        .await
    }

    /// Every fitted ECU with its floor; 0 where none was ever raised.
    pub fn floors(&self) -> Result<Vec<(String, u64)>, OtaError> {
        let floors = self.ledger.floors()?;
        let floor = |ecu: &EcuId| floors.get(ecu).map_or(0, |floor| floor.0);
        Ok(self.ecus.keys().map(|ecu| (ecu.to_string(), floor(ecu))).collect())
    }

    /// After the commit: what the decision demands. The TCU's floor comes last and only to what it runs now: it may have fallen back
    /// to the old slot since, and a floor above what runs would refuse the very software it runs, for good.
    pub async fn raise_floors(self: &Arc<Self>, update: &str) -> Result<(), OtaError> {
        let Approved { decision, mut floors } = self.approvals.get(&parse_update(update)?)?;
        let tcu = floors.remove_entry(&EcuId::tcu());
        self.ledger.raise(&floors)?;
        let Some((tcu, floor)) = tcu else { return Ok(()) };
        let runs = self.versions.read_tcu().await?.version;
        if running_counter(&decision, &tcu, runs.as_ref()).is_none_or(|counter| counter < floor) {
            // Not an error: nothing that whoever asks could do would change it.
            let runs = runs.map_or_else(|| "nothing known".to_owned(), |version| version.to_string());
            log::warn!("the TCU runs {runs}, so its floor is not raised to {floor} as update {update} demands");
            return Ok(());
        }
        let this = Arc::clone(self);
        blocking(move || this.ledger.raise(&BTreeMap::from([(tcu, floor)]))).await
    }

    pub fn status(&self) -> Result<ValidatorStatus, OtaError> {
        let entries = self.ledger.read()?;
        Ok(ValidatorStatus {
            key_store: self.identity.store().to_owned(),
            trusted: entries.trusted,
            director_version: entries.director_version,
            last_error: entries.last_error,
        })
    }
}

/// The bundle that a decision gives an ECU for a purpose.
fn software<'d>(decision: &'d Decision, ecu: &EcuId, purpose: Purpose) -> Result<&'d SoftwareRef, OtaError> {
    let part = decision.ecu(ecu).ok_or_else(|| OtaError::UnknownEcu(format!("{ecu} has no part in this update")))?;
    match purpose {
        Purpose::Target => Ok(&part.target),
        Purpose::Fallback => {
            part.fallback.as_ref().ok_or_else(|| OtaError::InvalidArgument(format!("{ecu} has no fallback")))
        }
    }
}

/// Release counter of what `ecu` runs, if it is software of this decision.
fn running_counter(decision: &Decision, ecu: &EcuId, runs: Option<&SoftwareVersion>) -> Option<ReleaseCounter> {
    let part = decision.ecu(ecu)?;
    let software =
        std::iter::once(&part.target).chain(&part.fallback).find(|software| Some(&software.version) == runs)?;
    Some(software.counter)
}

pub(crate) fn parse_update(update: &str) -> Result<UpdateId, OtaError> {
    UpdateId::new(update).map_err(|error| OtaError::InvalidArgument(error.to_string()))
}

fn parse_request(update: &str, ecu: &str, role: &str) -> Result<(UpdateId, EcuId, Purpose), OtaError> {
    let ecu = EcuId::new(ecu).map_err(|error| OtaError::InvalidArgument(error.to_string()))?;
    Ok((parse_update(update)?, ecu, Purpose::parse(role)?))
}

/// Runs what blocks beside the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OtaError> + Send + 'static,
) -> Result<T, OtaError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(OtaError::Internal(format!("the work ended by a defect: {error}"))),
    }
}
