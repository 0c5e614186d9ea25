//! Ended updates and refusals, each an append-only log in which every entry carries the hash of the one before.

use std::collections::BTreeSet;
use std::sync::Arc;

use pitstop_dbus::{HistoryEntry, RefusalEntry};
use pitstop_lifecycle::{Consent, Failure, Record};
use pitstop_store::{ChainState, ChainedLog, Storage, StoreError};
use pitstop_types::{CampaignId, Digest, EcuId, ReleaseCounter, SoftwareVersion, UnixSeconds, UpdateEnd, UpdateId};
use serde::{Deserialize, Serialize};

use crate::words;

/// Refusals that are kept. Enough for a vehicle's life; a backend that has one refused every minute must not fill the disk.
const MAX_REFUSALS: usize = 4096;

/// One ended update, as evidence (UN R156 7.1.1.3, 7.1.2.3): what was ordered, what was agreed to, what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub update: UpdateId,
    pub campaign: CampaignId,
    pub end: UpdateEnd,
    pub started: UnixSeconds,
    pub ended: UnixSeconds,
    #[serde(default)]
    pub reason: Option<Failure>,
    pub ecus: Vec<EcuEntry>,
    /// Every answer of the driver.
    pub answers: Vec<Consent>,
    /// Digest of the driver's information that the decision carried.
    pub facts: Digest,
    pub director_targets_version: u64,
    pub image_targets_version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcuEntry {
    pub ecu: EcuId,
    #[serde(default)]
    pub before: Option<SoftwareVersion>,
    pub target: SoftwareVersion,
    pub target_sha256: Digest,
    pub target_counter: ReleaseCounter,
    /// What was read back; `None`: bootloader, no answer, or never changed.
    #[serde(default)]
    pub after: Option<SoftwareVersion>,
}

/// One refused decision or bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub at: UnixSeconds,
    /// Empty where the decision itself was refused: it cannot be said whose it is.
    pub update: String,
    pub error: String,
    pub text: String,
}

/// Version that `ecu` runs after `record`'s update, as far as it is known.
pub(crate) fn after(record: &Record, step: &pitstop_lifecycle::Step) -> Option<SoftwareVersion> {
    match record.found.get(&step.ecu) {
        Some(found) => found.clone(),
        // Nothing was read back because nothing was changed.
        None if step.state == pitstop_lifecycle::StepState::Waiting
            || step.state == pitstop_lifecycle::StepState::Staged =>
        {
            step.before.clone()
        }
        None => None,
    }
}

impl Entry {
    fn of(record: &Record, ended: UnixSeconds) -> Self {
        let ecu = |step: &pitstop_lifecycle::Step| EcuEntry {
            ecu: step.ecu.clone(),
            before: step.before.clone(),
            target: step.target.version.clone(),
            target_sha256: step.target.sha256,
            target_counter: step.target.counter,
            after: after(record, step),
        };
        let facts = serde_json::to_vec(&record.decision.facts).unwrap_or_default();
        Self {
            update: record.decision.update.clone(),
            campaign: record.decision.campaign.clone(),
            end: record.end.unwrap_or(UpdateEnd::NeedsWorkshop),
            started: record.started,
            ended,
            reason: record.reason.clone(),
            ecus: record.steps.iter().map(ecu).collect(),
            answers: record.answers.clone(),
            facts: Digest::of(&facts),
            director_targets_version: record.decision.director_targets_version,
            image_targets_version: record.decision.image_targets_version,
        }
    }
}

/// The two logs.
pub struct History {
    updates: ChainedLog,
    refusals: ChainedLog,
}

impl History {
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { updates: ChainedLog::new(storage.clone(), "history"), refusals: ChainedLog::new(storage, "refusals") }
    }

    /// Adds the ended update, and its refusal, once each. What a full log cannot take is in the journal only: the update must end
    /// all the same, and the next one begin.
    pub fn add(&self, record: &Record, now: UnixSeconds) -> Result<(), StoreError> {
        let entries = self.updates.entries::<Entry>()?;
        if !entries.iter().any(|entry| entry.data.update == record.decision.update) {
            match self.updates.append(&Entry::of(record, now)) {
                Err(error @ StoreError::TooLarge { .. }) => {
                    log::error!(update = record.decision.update.as_str(); "the history is full: {error}");
                }
                other => other.map(drop)?,
            }
        }
        let update = record.decision.update.to_string();
        if let (Some(UpdateEnd::Refused), Some(reason)) = (record.end, &record.reason) {
            let known = self.refusals.entries::<Refusal>()?;
            if !is_full(known.len()) && !known.iter().any(|entry| entry.data.update == update) {
                let text =
                    reason.ecu.as_ref().map_or_else(|| reason.text.clone(), |ecu| format!("{ecu}: {}", reason.text));
                self.refusals.append(&Refusal { at: now, update, error: reason.error.clone(), text })?;
            }
        }
        Ok(())
    }

    /// Adds a refusal of a decision as a whole; `false` if the newest one says the same already.
    pub fn refuse(&self, refusal: &Refusal) -> Result<bool, StoreError> {
        let mut known = self.refusals.entries::<Refusal>()?;
        if is_full(known.len()) {
            return Ok(true);
        }
        let newest = known.pop();
        let same =
            |old: &Refusal| old.error == refusal.error && old.text == refusal.text && old.update == refusal.update;
        if newest.is_some_and(|entry| same(&entry.data)) {
            return Ok(false);
        }
        self.refusals.append(refusal)?;
        Ok(true)
    }

    /// Updates that have ended here; they are not begun again.
    pub fn ended(&self) -> Result<BTreeSet<UpdateId>, StoreError> {
        Ok(self.updates.entries::<Entry>()?.into_iter().map(|entry| entry.data.update).collect())
    }

    /// The newest `limit` entries, newest first, as they go over the bus.
    pub fn newest(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        let wire = |hash: Digest, entry: Entry| HistoryEntry {
            update: entry.update.to_string(),
            campaign: entry.campaign.to_string(),
            end: entry.end.to_string(),
            started: entry.started,
            ended: entry.ended,
            error_name: entry.reason.as_ref().map(|reason| reason.error.clone()).unwrap_or_default(),
            error_text: entry.reason.as_ref().map(words::reason).unwrap_or_default(),
            ecus: entry.ecus.into_iter().map(|e| (e.ecu.to_string(), text(e.before), text(e.after))).collect(),
            hash: hash.to_string(),
        };
        let entries = self.updates.entries::<Entry>()?;
        Ok(entries.into_iter().rev().take(limit).map(|entry| wire(entry.hash, entry.data)).collect())
    }

    pub fn newest_refusals(&self, limit: usize) -> Result<Vec<RefusalEntry>, StoreError> {
        let wire = |entry: Refusal| RefusalEntry {
            at: entry.at,
            update: entry.update,
            error_name: entry.error,
            text: entry.text,
        };
        let entries = self.refusals.entries::<Refusal>()?;
        Ok(entries.into_iter().rev().take(limit).map(|entry| wire(entry.data)).collect())
    }

    /// Entries as they are stored, oldest first: evidence that can be checked without this program.
    pub fn export(&self, first: usize, limit: usize) -> Result<Vec<String>, StoreError> {
        Ok(self.updates.stored_lines()?.into_iter().skip(first).take(limit).collect())
    }

    /// Recomputes the hashes of both logs. Counted are ended updates.
    pub fn verify(&self) -> Result<ChainState, StoreError> {
        let updates = self.updates.verify()?;
        let refusals = self.refusals.verify()?;
        Ok(ChainState { whole: updates.whole && refusals.whole, ..updates })
    }
}

/// Whether there are as many refusals as are kept.
fn is_full(refusals: usize) -> bool {
    if refusals >= MAX_REFUSALS {
        log::error!("the log of refusals is full; this one is in the journal only");
    }
    refusals >= MAX_REFUSALS
}

pub(crate) fn text(version: Option<SoftwareVersion>) -> String {
    version.map_or_else(String::new, |version| version.to_string())
}
