//! The trusted metadata: one generation of both repositories' files, replaced whole.

use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, MAX_DOCUMENT_BYTES, Storage};
use pitstop_uptane::Generation;

use crate::ledger::Ledger;
use crate::refusal;

// A generation that could be stored and not be read again would end all updates. In JSON a quotation mark, a backslash and a line
// break take two bytes, and nothing else that JSON itself may contain takes more; names and header are a few kilobytes.
const _: () = assert!(2 * Generation::MAX_BYTES as u64 + 64 * 1024 < MAX_DOCUMENT_BYTES);

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
    use std::collections::BTreeMap;

    use super::*;
    use pitstop_store::cut::{Cut, Disk};
    use pitstop_uptane::metadata::MAX_DELEGATED_ROLES;
    use pitstop_uptane::{MAX_DELEGATED, MAX_IMAGE_TARGETS, MAX_SMALL};

    fn generation(text: &str) -> Generation {
        Generation::initial(text.to_owned(), text.to_owned())
    }

    fn trust(disk: &Disk) -> (Trust, Ledger) {
        (Trust::new(Arc::new(disk.storage()), generation("factory")), Ledger::new(Arc::new(disk.storage()), None))
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
    fn the_largest_generation_full_of_what_json_must_escape_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(pitstop_store::FileStorage::open(folder.path()).unwrap());
        let (trust, ledger) = (Trust::new(storage.clone(), generation("factory")), Ledger::new(storage.clone(), None));
        let text = |length: usize| "\"\\\n".chars().cycle().take(length).collect::<String>();
        let small = text(MAX_SMALL);
        let roles = ["root", "timestamp", "snapshot", "targets", "offline-snapshot"];
        let director = BTreeMap::from(roles.map(|role| (format!("{role}.json"), small.clone())));
        let mut image = director.clone();
        image.remove("offline-snapshot.json");
        image.insert("targets.json".into(), text(MAX_IMAGE_TARGETS));
        for role in 0..MAX_DELEGATED_ROLES {
            image.insert(format!("{role:064}.json"), text(MAX_DELEGATED / MAX_DELEGATED_ROLES));
        }
        let files = serde_json::json!({ "director": director, "image": image });
        let largest: Generation = serde_json::from_value(files).unwrap();
        trust.store(&ledger, &largest).unwrap();
        assert!(storage.read("metadata").unwrap().unwrap().len() > 2 * Generation::MAX_BYTES);
        assert!(trust.load(&ledger).unwrap() == largest);
    }

    #[test]
    fn a_generation_that_is_too_large_after_all_is_refused_and_the_one_before_stays() {
        let (trust, ledger) = trust(&Disk::new());
        trust.store(&ledger, &generation("old")).unwrap();
        let huge = generation(&"\"".repeat(usize::try_from(MAX_DOCUMENT_BYTES / 4).unwrap()));
        assert!(matches!(trust.store(&ledger, &huge), Err(OtaError::Storage(_))));
        assert_eq!(trust.load(&ledger).unwrap(), generation("old"));
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
