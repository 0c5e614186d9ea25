//! The beginning of a life: what is stored, and what runs.

use std::sync::Arc;

use pitstop_lifecycle::{Boot, Record};
use pitstop_runtime::operation::patiently;
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::{SlotName, UpdateId};

use super::{ENVELOPE, Home, LONGEST_SLEEP, RESPITE, Service, is_over};

impl Service {
    /// The first act of every life with an update under way: which slot runs?
    pub(super) fn look_what_runs(&mut self) {
        let slots = self.ports.slots.clone();
        let at = self.now();
        self.tasks.spawn(async move {
            loop {
                match slots.slots().await {
                    Ok(found) => {
                        let booted = found.into_iter().find(|slot| slot.booted);
                        if let Some(slot) = booted.and_then(|slot| SlotName::new(slot.name).ok()) {
                            let (boot_id, reason) = (slots.boot_id().await, slots.fall_back_reason().await);
                            return Home::Boot(Boot { slot, boot_id, at, reason });
                        }
                        log::error!("self-update does not say which slot runs");
                    }
                    Err(error) => log::debug!("which slot runs? {}", error.text()),
                }
                tokio::time::sleep(RESPITE).await;
            }
        });
    }

    /// A life without an update under way: is one held all the same, whose record was lost?
    pub(super) fn look_who_holds(&mut self) {
        let vehicle = self.ports.vehicle.clone();
        self.tasks.spawn(async move {
            loop {
                match vehicle.inhibit_owners().await {
                    Ok(holders) => return Home::Holders(holders),
                    Err(error) => log::debug!("who holds the drive inhibit? {}", error.text()),
                }
                tokio::time::sleep(RESPITE).await;
            }
        });
    }

    /// Nobody goes on with these updates, so nobody else would let the vehicle drive again or give the slots back. Workshops' are
    /// self-update's business. The slot that is left runs until the next start.
    pub(super) fn let_go(&mut self, holders: Vec<UpdateId>) {
        let mine = |id: &UpdateId| {
            self.record.as_ref().is_some_and(|record| record.decision.update == *id && !is_over(record))
        };
        for update in holders.into_iter().filter(|id| !id.is_workshop() && !mine(id)) {
            log::error!(update = update.as_str(); "its record is lost: the slots go back to the old software, the vehicle may drive");
            let (slots, vehicle) = (self.ports.slots.clone(), self.ports.vehicle.clone());
            tokio::spawn(async move {
                if let Err(error) = patiently(|| slots.roll_back(&update)).await {
                    log::warn!(update = update.as_str(); "the slots are not given back: {}", error.text());
                }
                let released = patiently(|| slots.release_lease(&update)).await.err();
                let released = patiently(|| vehicle.release_inhibit(&update)).await.err().or(released);
                if let Some(error) = released {
                    log::warn!(update = update.as_str(); "it is not let go: {}", error.text());
                }
            });
        }
    }

    pub(super) fn learn_buses(&mut self) {
        let flasher = self.ports.flasher.clone();
        self.tasks.spawn(async move {
            loop {
                if let Ok(ecus) = flasher.list().await {
                    return Home::Buses(ecus.into_iter().map(|ecu| (ecu.ecu, ecu.bus)).collect());
                }
                tokio::time::sleep(LONGEST_SLEEP).await;
            }
        });
    }
}

pub(super) fn record_document(storage: &Arc<dyn Storage>) -> Document<Record> {
    Document::new(storage.clone(), "record", ENVELOPE)
}

/// The record as it is stored. One that is damaged, or that this release must leave alone, is an error.
pub fn stored_record(storage: &Arc<dyn Storage>) -> Result<Option<Record>, StoreError> {
    match record_document(storage).load()? {
        Some(record) if !record.readable() => Err(StoreError::Format {
            name: "record".to_owned(),
            found: record.readable_from,
            known: pitstop_lifecycle::FORMAT,
        }),
        record => Ok(record),
    }
}

/// The same for the service's start: one that is damaged is put aside and said to be lost, since the next manifest shows what runs.
pub(super) fn load_record(storage: &Arc<dyn Storage>) -> Result<Option<Record>, StoreError> {
    match stored_record(storage) {
        Err(error @ StoreError::Damaged { .. }) => {
            log::error!("{error}; kept as record.damaged");
            let document = record_document(storage);
            document.keep_damaged()?;
            document.remove()?;
            Ok(None)
        }
        other => other,
    }
}
