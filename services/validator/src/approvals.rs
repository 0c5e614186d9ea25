//! Decisions that were verified, kept whole until their update ends: nothing that expires later changes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage};
use pitstop_types::{Decision, EcuId, ReleaseCounter, SoftwareRef, SoftwareVersion, UnixSeconds, UpdateId};
use pitstop_uptane::{Approval, Verified};
use serde::{Deserialize, Serialize};

use crate::refusal;

const FOLDER: &str = "approvals/";
/// A decision that nobody ever released is forgotten this long after its last day, in seconds.
const KEPT_AFTER: i64 = 30 * 86_400;
/// So many images are remembered for each ECU, to name in manifests what it runs.
const KNOWN_IMAGES: usize = 4;

/// A decision and what it demands at its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approved {
    pub(crate) decision: Decision,
    pub(crate) floors: BTreeMap<EcuId, ReleaseCounter>,
}

impl Approved {
    /// Same files for the same ECUs, same floors, same text for the driver; dates and versions of metadata may go on.
    fn orders_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.decision, &other.decision);
        a.ecus == b.ecus && a.facts == b.facts && a.campaign == b.campaign && self.floors == other.floors
    }
}

type Images = BTreeMap<EcuId, Vec<SoftwareRef>>;

pub(crate) struct Approvals {
    storage: Arc<dyn Storage>,
    images: Document<Images>,
}

impl Approvals {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { images: Document::new(storage.clone(), "images", 1), storage }
    }

    /// Keeps a verified decision. `begun` says of an update that bundles were admitted for it: from then on its id means these
    /// files and this text, and an order that says otherwise is refused.
    pub(crate) fn store(
        &self,
        approval: &Verified<Approval>,
        begun: impl Fn(&UpdateId) -> bool,
    ) -> Result<Option<UpdateId>, OtaError> {
        let Some(decision) = approval.decision.clone() else { return Ok(None) };
        let update = decision.update.clone();
        let approved = Approved { decision, floors: approval.floors.clone() };
        let document = self.document(&update);
        let before = document.load().ok().flatten();
        if before.as_ref() == Some(&approved) {
            return Ok(Some(update));
        }
        if begun(&update) && before.is_none_or(|before| !before.orders_the_same(&approved)) {
            return Err(OtaError::MixAndMatch(format!("update {update} has begun with other files or another text")));
        }
        self.remember_images(&approved.decision)?;
        document.store(&approved).map_err(refusal::store)?;
        Ok(Some(update))
    }

    pub(crate) fn get(&self, update: &UpdateId) -> Result<Approved, OtaError> {
        let found = self.document(update).load().map_err(refusal::store)?;
        found.ok_or_else(|| OtaError::UnknownUpdate(format!("no decision for update {update} was verified")))
    }

    pub(crate) fn remove(&self, update: &UpdateId) -> Result<(), OtaError> {
        self.document(update).remove().map_err(refusal::store)
    }

    /// Forgets decisions long past their last day, except those that `keep` still needs.
    pub(crate) fn prune(&self, now: UnixSeconds, keep: impl Fn(&UpdateId) -> bool) -> Result<(), OtaError> {
        for name in self.storage.list(FOLDER).map_err(refusal::store)? {
            let Some(update) = name.strip_prefix(FOLDER).and_then(|id| UpdateId::new(id).ok()) else { continue };
            // A damaged one decides nothing any more either.
            let past = self.get(&update).map_or(true, |old| old.decision.install_by.saturating_add(KEPT_AFTER) < now);
            if past && !keep(&update) {
                self.remove(&update)?;
            }
        }
        Ok(())
    }

    /// The image that gives an ECU this version, if one was ever part of a decision.
    pub(crate) fn image(&self, ecu: &EcuId, version: &SoftwareVersion) -> Option<SoftwareRef> {
        // Missing or damaged: the manifest then names the version without the file.
        let images = self.images.load().ok().flatten()?;
        images.get(ecu)?.iter().find(|image| image.version == *version).cloned()
    }

    fn remember_images(&self, decision: &Decision) -> Result<(), OtaError> {
        let before = self.images.load().unwrap_or_default().unwrap_or_default();
        let mut images = before.clone();
        for part in &decision.ecus {
            let known = images.entry(part.ecu.clone()).or_default();
            for software in part.fallback.iter().chain([&part.target]) {
                known.retain(|image| image.version != software.version);
                known.push(software.clone());
            }
            let excess = known.len().saturating_sub(KNOWN_IMAGES);
            known.drain(..excess);
        }
        if images == before { Ok(()) } else { self.images.store(&images).map_err(refusal::store) }
    }

    fn document(&self, update: &UpdateId) -> Document<Approved> {
        Document::new(self.storage.clone(), format!("{FOLDER}{update}"), 1)
    }
}
