//! Numbers that only grow: the report counter, the time, the floors. One small document, written before its content is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage};
use pitstop_tpm::floor::{Floor, FloorError};
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
    /// The TCU's floor, where no copy of the data partition brings it back; `None` without a TPM.
    tcu: Option<Arc<dyn Floor>>,
    /// Reading, changing and writing is one step.
    step: Mutex<()>,
}

impl Ledger {
    pub(crate) fn new(storage: Arc<dyn Storage>, tcu: Option<Arc<dyn Floor>>) -> Self {
        Self { document: Document::new(storage, "ledger", 1), tcu, step: Mutex::new(()) }
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

    /// The floors in force. Blocks while the TPM answers. One that does not answer refuses: without it an old floor would do.
    pub(crate) fn floors(&self) -> Result<BTreeMap<EcuId, ReleaseCounter>, OtaError> {
        let mut floors = self.read()?.floors;
        if let Some(kept) = &self.tcu {
            let kept = kept.floor().map_err(|error| refusal::floor(&error))?;
            let known = floors.entry(EcuId::tcu()).or_insert(ReleaseCounter(0));
            if kept > known.0 {
                log::warn!(
                    "the TPM keeps {kept} as the TCU's floor, the ledger {known}: an old copy of it, or one that was lost"
                );
            }
            known.0 = known.0.max(kept);
        }
        floors.retain(|_, floor| floor.0 > 0);
        Ok(floors)
    }

    /// One ECU's floor, 0 where none was ever raised; blocks for the TCU's only.
    pub(crate) fn floor(&self, ecu: &EcuId) -> Result<ReleaseCounter, OtaError> {
        let floors = if ecu.is_tcu() { self.floors()? } else { self.read()?.floors };
        Ok(floors.get(ecu).copied().unwrap_or(ReleaseCounter(0)))
    }

    /// Raises floors, never lowers one; the TCU's in the TPM first. Blocks as [`Ledger::floors`] does.
    pub(crate) fn raise(&self, floors: &BTreeMap<EcuId, ReleaseCounter>) -> Result<(), OtaError> {
        if let (Some(kept), Some(floor)) = (&self.tcu, floors.get(&EcuId::tcu())) {
            match kept.raise(floor.0) {
                // Kept in the ledger alone from now on: better than no floor.
                Err(error @ FloorError::TooManySteps { .. }) => {
                    log::error!("the TPM does not keep the TCU's floor: {error}")
                }
                raised => raised.map_err(|error| refusal::floor(&error))?,
            }
        }
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
    use pitstop_tpm::floor::MemoryFloor;

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
                match Ledger::new(Arc::new(disk.storage()), None).next_report() {
                    Ok(counter) => given.push(counter),
                    Err(_) => disk.power_on(),
                }
            }
            assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "{cut:?}: {given:?}");
        }
    }

    #[test]
    fn floors_rise_and_never_fall() {
        let ledger = Ledger::new(Arc::new(Disk::new().storage()), None);
        for (floor, expected) in [(3, 3), (2, 3), (3, 3), (5, 5)] {
            ledger.raise(&[(ecu(), ReleaseCounter(floor))].into()).unwrap();
            assert_eq!(ledger.read().unwrap().floors[&ecu()], ReleaseCounter(expected));
        }
    }

    fn tcu(floor: u64) -> BTreeMap<EcuId, ReleaseCounter> {
        [(EcuId::tcu(), ReleaseCounter(floor))].into()
    }

    #[test]
    fn an_old_copy_of_the_ledger_brings_no_old_floor_of_the_tcu_back() {
        let (disk, kept) = (Disk::new(), Arc::new(MemoryFloor::default()));
        let storage: Arc<dyn Storage> = Arc::new(disk.storage());
        let ledger = Ledger::new(storage.clone(), Some(kept.clone()));
        ledger.raise(&tcu(3)).unwrap();
        let old = storage.read("ledger").unwrap().unwrap();
        ledger.raise(&tcu(5)).unwrap();
        storage.replace("ledger", &old).unwrap();
        assert_eq!(ledger.floors().unwrap(), tcu(5));
        storage.remove("ledger").unwrap();
        assert_eq!(ledger.floors().unwrap(), tcu(5));
        // And one that the TPM has lost stays in the ledger.
        ledger.raise(&tcu(6)).unwrap();
        assert_eq!(Ledger::new(storage, Some(Arc::new(MemoryFloor::default()))).floors().unwrap(), tcu(6));
    }

    #[test]
    fn a_floor_that_was_cut_while_it_rose_is_the_old_or_the_new_one() {
        for cut in [Cut::Before(0), Cut::Torn(0), Cut::After(0)] {
            let (disk, kept) = (Disk::new(), Arc::new(MemoryFloor::default()));
            disk.plan(Some(cut));
            let _ = Ledger::new(Arc::new(disk.storage()), Some(kept.clone())).raise(&tcu(4));
            disk.power_on();
            let ledger = Ledger::new(Arc::new(disk.storage()), Some(kept));
            assert_eq!(ledger.floors().unwrap(), tcu(4), "{cut:?}: the TPM knew it first");
        }
    }

    #[test]
    fn without_an_answer_of_the_tpm_there_is_no_floor() {
        struct Silent;
        impl Floor for Silent {
            fn floor(&self) -> Result<u64, FloorError> {
                Err(FloorError::CounterMissing)
            }
            fn raise(&self, _: u64) -> Result<(), FloorError> {
                Err(FloorError::CounterMissing)
            }
        }
        let ledger = Ledger::new(Arc::new(Disk::new().storage()), Some(Arc::new(Silent)));
        assert!(matches!(ledger.floors(), Err(OtaError::Storage(_))));
        assert!(matches!(ledger.raise(&tcu(1)), Err(OtaError::Storage(_))));
        assert_eq!(ledger.next_report(), Ok(1), "what runs is reported all the same");
    }

    #[test]
    fn a_floor_beyond_what_the_tpm_can_count_is_kept_in_the_ledger() {
        let ledger = Ledger::new(Arc::new(Disk::new().storage()), Some(Arc::new(MemoryFloor::default())));
        ledger.raise(&tcu(20_261_122)).unwrap();
        assert_eq!(ledger.floors().unwrap(), tcu(20_261_122));
    }

    #[test]
    fn the_time_never_goes_back_and_an_unknown_one_is_refused() {
        let ledger = Ledger::new(Arc::new(Disk::new().storage()), None);
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
        let ledger = Ledger::new(storage.clone(), None);
        ledger.next_report().unwrap();
        storage.replace("ledger", b"pitstop 1 00\n{}").unwrap();
        assert!(matches!(ledger.next_report(), Err(OtaError::Storage(_))));
        assert!(matches!(ledger.now(Some(1_795_000_000)), Err(OtaError::Storage(_))));
        assert!(matches!(ledger.raise(&BTreeMap::new()), Err(OtaError::Storage(_))));
    }
}
