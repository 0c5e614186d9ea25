//! Numbers that only grow: the report counter, the time, the floors. One small document, written before its content is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage};
use pitstop_types::{EcuId, ReleaseCounter, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::refusal;

/// How far the wall clock may be behind the last verified time, in seconds, and still count as right. A clock that is set by
/// the network steps by less; one that lost its battery is years off.
const MAX_STEP_BACK: i64 = 600;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Entries {
    /// Counter of the last manifest that was signed, or was about to be.
    pub(crate) report_counter: u64,
    /// Latest time at which a full verification succeeded; so it lies before the expiry of a signed timestamp, and a clock
    /// that once ran wild cannot push it further.
    pub(crate) verified_at: UnixSeconds,
    pub(crate) floors: BTreeMap<EcuId, ReleaseCounter>,
    /// Metadata beyond the factory's roots was stored: from now on its absence is a damage, not a beginning.
    pub(crate) trusted: bool,
    /// Newest Director targets version that was verified, for status.
    #[serde(default)]
    pub(crate) director_version: u64,
    /// Name of the last verification's error, empty after a good one.
    #[serde(default)]
    pub(crate) last_error: String,
}

pub(crate) struct Ledger {
    document: Document<Entries>,
    /// Reading, changing and writing is one step.
    step: Mutex<()>,
}

impl Ledger {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { document: Document::new(storage, "ledger", 1), step: Mutex::new(()) }
    }

    /// What is remembered. A damaged ledger is an error: zeros would let old software and old manifests in.
    pub(crate) fn read(&self) -> Result<Entries, OtaError> {
        Ok(self.document.load().map_err(refusal::store)?.unwrap_or_default())
    }

    /// Whether there ever was one.
    pub(crate) fn exists(&self) -> Result<bool, OtaError> {
        Ok(self.document.load().map_err(refusal::store)?.is_some())
    }

    /// Changes entries durably; unchanged ones are not written again.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Entries)) -> Result<Entries, OtaError> {
        let _step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read()?;
        let mut entries = before.clone();
        change(&mut entries);
        if entries != before {
            self.document.store(&entries).map_err(refusal::store)?;
        }
        Ok(entries)
    }

    /// The next report counter. It is stored when this returns, so that no two manifests ever carry the same one.
    pub(crate) fn next_report(&self) -> Result<u64, OtaError> {
        Ok(self.change(|entries| entries.report_counter += 1)?.report_counter)
    }

    /// The time to judge by: never before the last verified one, and refused where the wall clock is not known or went back.
    pub(crate) fn now(&self, wall: Option<UnixSeconds>) -> Result<UnixSeconds, OtaError> {
        let verified = self.read()?.verified_at;
        let Some(wall) = wall else {
            return Err(OtaError::TimeUnknown("the wall clock is not set".to_owned()));
        };
        if wall < verified.saturating_sub(MAX_STEP_BACK) {
            let text = format!("the wall clock is {} s before the last verified time", verified - wall);
            return Err(OtaError::TimeUnknown(text));
        }
        Ok(wall.max(verified))
    }

    /// Raises floors, never lowers one.
    pub(crate) fn raise(&self, floors: &BTreeMap<EcuId, ReleaseCounter>) -> Result<(), OtaError> {
        let raise = |entries: &mut Entries| {
            for (ecu, &floor) in floors {
                let known = entries.floors.entry(ecu.clone()).or_insert(ReleaseCounter(0));
                *known = (*known).max(floor);
            }
        };
        self.change(raise).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_store::cut::{Cut, Disk};

    fn ecu() -> EcuId {
        EcuId::new("bcm").unwrap()
    }

    #[test]
    fn no_report_counter_is_given_twice_whenever_the_power_fails() {
        for cut in [Cut::Before(0), Cut::After(0), Cut::Torn(0), Cut::Before(1), Cut::After(1)] {
            let disk = Disk::new();
            disk.plan(Some(cut));
            let mut given = Vec::new();
            for _ in 0..3 {
                match Ledger::new(Arc::new(disk.storage())).next_report() {
                    Ok(counter) => given.push(counter),
                    Err(_) => disk.power_on(),
                }
            }
            assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "{cut:?}: {given:?}");
        }
    }

    #[test]
    fn floors_rise_and_never_fall() {
        let ledger = Ledger::new(Arc::new(Disk::new().storage()));
        for (floor, expected) in [(3, 3), (2, 3), (3, 3), (5, 5)] {
            ledger.raise(&[(ecu(), ReleaseCounter(floor))].into()).unwrap();
            assert_eq!(ledger.read().unwrap().floors[&ecu()], ReleaseCounter(expected));
        }
    }

    #[test]
    fn the_time_never_goes_back_and_an_unknown_one_is_refused() {
        let ledger = Ledger::new(Arc::new(Disk::new().storage()));
        let at = 1_795_000_000;
        assert_eq!(ledger.now(Some(at)), Ok(at));
        ledger.change(|entries| entries.verified_at = at).unwrap();
        assert_eq!(ledger.now(Some(at + 5)), Ok(at + 5));
        assert_eq!(ledger.now(Some(at - MAX_STEP_BACK)), Ok(at));
        assert!(matches!(ledger.now(Some(at - MAX_STEP_BACK - 1)), Err(OtaError::TimeUnknown(_))));
        assert!(matches!(ledger.now(None), Err(OtaError::TimeUnknown(_))));
    }

    #[test]
    fn a_damaged_ledger_refuses_everything() {
        let disk = Disk::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.storage());
        let ledger = Ledger::new(storage.clone());
        ledger.next_report().unwrap();
        storage.replace("ledger", b"pitstop 1 00\n{}").unwrap();
        assert!(matches!(ledger.next_report(), Err(OtaError::Storage(_))));
        assert!(matches!(ledger.now(Some(1_795_000_000)), Err(OtaError::Storage(_))));
        assert!(matches!(ledger.raise(&BTreeMap::new()), Err(OtaError::Storage(_))));
    }
}
