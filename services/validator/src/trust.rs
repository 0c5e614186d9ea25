//! The trusted metadata: one generation of both repositories' files, replaced whole.

use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage};
use pitstop_uptane::Generation;

use crate::ledger::Ledger;
use crate::refusal;

pub(crate) struct Trust {
    document: Document<Generation>,
    /// The roots this device was built with.
    factory: Generation,
}

impl Trust {
    pub(crate) fn new(storage: Arc<dyn Storage>, factory: Generation) -> Self {
        Self { document: Document::new(storage, "metadata", 1), factory }
    }

    /// What is trusted now. The factory's roots only on a device that never stored anything: where the ledger says that there
    /// was metadata, or metadata is there and the ledger is not, something was taken away, and nothing is believed.
    pub(crate) fn load(&self, ledger: &Ledger) -> Result<Generation, OtaError> {
        let lost = |what: &str| Err(OtaError::Storage(format!("the {what} is gone although there was one")));
        match (self.document.load().map_err(refusal::store)?, ledger.read()?.trusted) {
            (Some(_), _) if !ledger.exists()? => lost("ledger"),
            (Some(generation), _) => Ok(generation),
            (None, false) => Ok(self.factory.clone()),
            (None, true) => lost("trusted metadata"),
        }
    }

    /// Stores a verified generation. The ledger exists before the metadata does, and says so after it does: a cut between leaves
    /// a state that [`Trust::load`] takes.
    pub(crate) fn store(&self, ledger: &Ledger, generation: &Generation) -> Result<(), OtaError> {
        if !ledger.exists()? {
            ledger.next_report()?;
        }
        self.document.store(generation).map_err(refusal::store)?;
        ledger.change(|entries| entries.trusted = true).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_store::cut::{Cut, Disk};

    fn generation(text: &str) -> Generation {
        Generation::initial(text.to_owned(), text.to_owned())
    }

    fn trust(disk: &Disk) -> (Trust, Ledger) {
        (Trust::new(Arc::new(disk.storage()), generation("factory")), Ledger::new(Arc::new(disk.storage())))
    }

    #[test]
    fn a_generation_is_old_or_new_whenever_the_power_fails() {
        for first in [false, true] {
            for write in 0..4 {
                for cut in [Cut::Before(write), Cut::After(write), Cut::Torn(write)] {
                    let disk = Disk::new();
                    let (trust, ledger) = self::trust(&disk);
                    if first {
                        trust.store(&ledger, &generation("old")).unwrap();
                    }
                    disk.plan(Some(cut));
                    let stored = trust.store(&ledger, &generation("new"));
                    disk.power_on();
                    let old = generation(if first { "old" } else { "factory" });
                    let found = trust.load(&ledger).unwrap();
                    assert!(found == generation("new") || (stored.is_err() && found == old), "{first} {cut:?}");
                    // And it goes on from there.
                    trust.store(&ledger, &generation("new")).unwrap();
                    assert_eq!(trust.load(&ledger).unwrap(), generation("new"));
                }
            }
        }
    }

    #[test]
    fn metadata_or_ledger_that_vanished_is_not_a_beginning() {
        for gone in ["metadata", "ledger"] {
            let disk = Disk::new();
            let (trust, ledger) = self::trust(&disk);
            assert_eq!(trust.load(&ledger).unwrap(), generation("factory"));
            trust.store(&ledger, &generation("new")).unwrap();
            disk.storage().remove(gone).unwrap();
            assert!(matches!(trust.load(&ledger), Err(OtaError::Storage(_))), "{gone}");
        }
    }
}
