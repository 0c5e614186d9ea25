//! A disk for tests, from which the power can be taken at any write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Storage, StoreError, check_length, check_name};

/// When the power goes, counted in durable writes from the start of the disk's present life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// The n-th write (from 0) does not happen.
    Before(u64),
    /// The n-th write happens, but its caller never hears of it.
    After(u64),
    /// Of the n-th write only half reaches the disk, if it is an append; a replace is atomic and is lost whole.
    Torn(u64),
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    writes: u64,
    cut: Option<Cut>,
    off: bool,
}

/// What survives the power cut. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a service sees it.
    pub fn storage(&self) -> CutStorage {
        CutStorage(self.clone())
    }

    /// Plans the next cut, or none, and counts writes from 0 again.
    pub fn plan(&self, cut: Option<Cut>) {
        let mut state = self.lock();
        state.cut = cut;
        state.writes = 0;
    }

    /// Takes the power away now: every call fails until [`Disk::power_on`].
    pub fn power_off(&self) {
        self.lock().off = true;
    }

    pub fn power_on(&self) {
        let mut state = self.lock();
        state.off = false;
        state.cut = None;
        state.writes = 0;
    }

    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Durable writes since the last plan or power-on.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// What is on the disk, for comparison.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().files.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &str, act: impl Fn(&mut BTreeMap<String, Vec<u8>>, bool)) -> Result<(), StoreError> {
        check_name(name)?;
        let mut state = self.lock();
        if state.off {
            return Err(StoreError::PowerCut);
        }
        let number = state.writes;
        state.writes += 1;
        let (happens, torn, cut) = match state.cut {
            Some(Cut::Before(n)) if n == number => (false, false, true),
            Some(Cut::After(n)) if n == number => (true, false, true),
            Some(Cut::Torn(n)) if n == number => (true, true, true),
            _ => (true, false, false),
        };
        if happens {
            act(&mut state.files, torn);
        }
        if cut {
            state.off = true;
            return Err(StoreError::PowerCut);
        }
        Ok(())
    }
}

/// [`Storage`] on a [`Disk`].
#[derive(Debug, Clone)]
pub struct CutStorage(Disk);

impl Storage for CutStorage {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_name(name)?;
        let state = self.0.lock();
        if state.off { Err(StoreError::PowerCut) } else { Ok(state.files.get(name).cloned()) }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_length(name, bytes.len() as u64)?;
        self.0.write(name, |files, torn| {
            if !torn {
                files.insert(name.to_owned(), bytes.to_vec());
            }
        })
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let before = self.0.lock().files.get(name).map_or(0, Vec::len);
        check_length(name, before.saturating_add(bytes.len()) as u64)?;
        self.0.write(name, |files, torn| {
            let kept = if torn { bytes.get(..bytes.len() / 2).unwrap_or_default() } else { bytes };
            files.entry(name.to_owned()).or_default().extend_from_slice(kept);
        })
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.0.write(name, |files, torn| {
            if !torn {
                files.remove(name);
            }
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let state = self.0.lock();
        if state.off {
            return Err(StoreError::PowerCut);
        }
        Ok(state.files.keys().filter(|n| n.starts_with(prefix)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_cut_nothing_answers_until_the_power_is_back() {
        let disk = Disk::new();
        let store = disk.storage();
        disk.plan(Some(Cut::After(1)));
        store.replace("a", b"1").unwrap();
        assert!(matches!(store.replace("a", b"2"), Err(StoreError::PowerCut)));
        assert!(matches!(store.read("a"), Err(StoreError::PowerCut)));
        disk.power_on();
        assert_eq!(store.read("a").unwrap().unwrap(), b"2");
        disk.plan(Some(Cut::Torn(0)));
        assert!(store.append("a", b"xy").is_err());
        disk.power_on();
        assert_eq!(store.read("a").unwrap().unwrap(), b"2x");
    }
}
