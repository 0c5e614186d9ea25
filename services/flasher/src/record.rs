//! What survives a restart: which ECU's flash is being touched, by what.
//!
//! Stored before the ECU is disrupted, removed when the job has ended with the ECU as it should be. While it is there, an ECU in
//! its bootloader is there by our own doing, and may be flashed again. How far the flashing came is not stored: the ECU tells.

use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::{EcuId, UpdateId};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// A job that has touched, or is about to touch, an ECU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touched {
    pub update: UpdateId,
    /// Verb of the order, as its operation names it.
    pub verb: String,
    /// Bundle manifest's SHA-256 in hexadecimal.
    pub digest: String,
    /// The flash was released for erasing, by this job or one before it that did not end. Older records do not tell, so it may have been.
    #[serde(default = "yes")]
    pub erased: bool,
}

fn yes() -> bool {
    true
}

/// What jobs before this one that did not end may have done to an ECU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Left {
    /// It may be in its bootloader.
    pub touched: bool,
    /// Its flash may have been erased.
    pub erased: bool,
}

/// Names of the records of touched ECUs, all of which can be read.
pub fn stored_records(storage: Arc<dyn Storage>) -> Result<Vec<String>, StoreError> {
    Records::new(storage).stored()
}

/// The records of all ECUs.
#[derive(Clone)]
pub(crate) struct Records {
    storage: Arc<dyn Storage>,
}

impl Records {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// What was being done to the ECU. A damaged record counts as one: going on carefully is right, forgetting is not.
    pub(crate) fn left(&self, ecu: &EcuId) -> Left {
        match self.document(ecu).load() {
            Ok(found) => found.map_or_else(Left::default, |record| Left { touched: true, erased: record.erased }),
            Err(error) => {
                log::warn!("the record of ECU {ecu} cannot be read, so it counts as touched: {error}");
                Left { touched: true, erased: true }
            }
        }
    }

    /// Stores the record durably. That the flash was erased stays in it until the record is removed.
    pub(crate) fn touch(&self, ecu: &EcuId, touched: &Touched) -> Result<(), OtaError> {
        let erased = touched.erased || self.left(ecu).erased;
        let record = Touched { erased, ..touched.clone() };
        self.document(ecu).store(&record).map_err(|e| OtaError::Storage(format!("record of ECU {ecu}: {e}")))
    }

    /// The ECU is as it should be.
    pub(crate) fn clear(&self, ecu: &EcuId) {
        if let Err(error) = self.document(ecu).remove() {
            // Left behind it does no harm: the next job only begins more carefully.
            log::warn!("the record of ECU {ecu} stays behind: {error}");
        }
    }

    /// Names of all records that are stored. One that cannot be read is an error.
    pub(crate) fn stored(&self) -> Result<Vec<String>, StoreError> {
        let names = self.storage.list("touched/")?;
        for name in &names {
            Document::<Touched>::new(self.storage.clone(), name, FORMAT).load()?;
        }
        Ok(names)
    }

    fn document(&self, ecu: &EcuId) -> Document<Touched> {
        Document::new(self.storage.clone(), format!("touched/{ecu}"), FORMAT)
    }
}

#[cfg(test)]
mod tests {
    use pitstop_store::cut::Disk;

    use super::*;

    #[test]
    fn what_was_erased_stays_so_until_the_record_is_removed() {
        let records = Records::new(Arc::new(Disk::new().storage()));
        let bcm = EcuId::new("bcm").unwrap();
        let touched = |erased| Touched {
            update: UpdateId::new("u1").unwrap(),
            verb: "activate".to_owned(),
            digest: String::new(),
            erased,
        };
        for (erased, left) in [(false, false), (true, true), (false, true)] {
            records.touch(&bcm, &touched(erased)).unwrap();
            assert_eq!(records.left(&bcm), Left { touched: true, erased: left });
        }
        records.clear(&bcm);
        assert_eq!(records.left(&bcm), Left::default());
    }

    #[test]
    fn a_record_that_does_not_tell_counts_as_erased() {
        let old = r#"{"update":"u1","verb":"activate","digest":""}"#;
        assert!(serde_json::from_str::<Touched>(old).unwrap().erased);
    }
}
