use std::marker::PhantomData;
use std::sync::Arc;

use pitstop_types::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Storage, StoreError};

/// Longest stored file in bytes, read and written alike: what could not be read back is never written. Ours are some kilobytes;
/// trusted metadata may reach 10 MiB.
pub const MAX_DOCUMENT_BYTES: u64 = 16 * 1024 * 1024;

/// One value in one file: a line `pitstop FORMAT SHA256`, then the value as JSON.
///
/// A value of a newer format is refused; one of an older format is read as it is, so new fields need a default. Unknown fields
/// are the type's business: what an older release must read after a fall-back should not deny them.
pub struct Document<T> {
    storage: Arc<dyn Storage>,
    name: String,
    format: u32,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Document<T> {
    pub fn new(storage: Arc<dyn Storage>, name: impl Into<String>, format: u32) -> Self {
        Self { storage, name: name.into(), format, value: PhantomData }
    }

    /// The stored value; `None` if there never was one. A damaged file is an error, never `None`.
    pub fn load(&self) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.storage.read(&self.name)? else { return Ok(None) };
        let end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| self.damaged("no header"))?;
        let (header, body) = bytes.split_at(end);
        let body = body.get(1..).unwrap_or_default();
        let header = std::str::from_utf8(header).map_err(|_| self.damaged("no header"))?;
        let mut words = header.split(' ');
        let (Some("pitstop"), Some(format), Some(sum), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(self.damaged("no header"));
        };
        let format: u32 = format.parse().map_err(|_| self.damaged("no format number"))?;
        if Digest::of(body).to_string() != sum {
            return Err(self.damaged("wrong checksum"));
        }
        if format > self.format {
            return Err(StoreError::Format { name: self.name.clone(), found: format, known: self.format });
        }
        serde_json::from_slice(body).map(Some).map_err(|e| self.damaged(&e.to_string()))
    }

    /// Stores `value` durably in the place of what was there.
    pub fn store(&self, value: &T) -> Result<(), StoreError> {
        let body =
            serde_json::to_vec(value).map_err(|source| StoreError::Encode { name: self.name.clone(), source })?;
        let mut bytes = format!("pitstop {} {}\n", self.format, Digest::of(&body)).into_bytes();
        bytes.extend_from_slice(&body);
        self.storage.replace(&self.name, &bytes)
    }

    /// Takes the value away.
    pub fn remove(&self) -> Result<(), StoreError> {
        self.storage.remove(&self.name)
    }

    /// Copies what is stored to `NAME.damaged`, for who looks for the reason, before something else takes its place.
    pub fn keep_damaged(&self) -> Result<(), StoreError> {
        match self.storage.read(&self.name)? {
            Some(bytes) => self.storage.replace(&format!("{}.damaged", self.name), &bytes),
            None => Ok(()),
        }
    }

    fn damaged(&self, reason: &str) -> StoreError {
        StoreError::Damaged { name: self.name.clone(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::Disk;
    use proptest::prelude::*;

    #[test]
    fn damage_is_an_error_and_never_an_absent_value() {
        let disk: Arc<dyn Storage> = Arc::new(Disk::new().storage());
        let document = Document::<Vec<u32>>::new(disk.clone(), "d", 2);
        assert_eq!(document.load().unwrap(), None);
        document.store(&vec![1, 2]).unwrap();
        assert_eq!(document.load().unwrap(), Some(vec![1, 2]));
        let good = disk.read("d").unwrap().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            disk.replace("d", &bad).unwrap();
            assert!(document.load().is_err(), "byte {at}");
        }
        disk.replace("d", b"").unwrap();
        assert!(document.load().is_err());
        disk.replace("d", &good).unwrap();
        let older = Document::<Vec<u32>>::new(disk, "d", 1);
        assert!(matches!(older.load(), Err(StoreError::Format { found: 2, known: 1, .. })));
    }

    #[test]
    fn a_value_that_could_not_be_read_back_is_refused_before_it_takes_the_old_ones_place() {
        let document = Document::<String>::new(Arc::new(Disk::new().storage()), "d", 1);
        document.store(&"old".to_owned()).unwrap();
        // Each of these characters takes two bytes in the file.
        let long = "\"".repeat(usize::try_from(MAX_DOCUMENT_BYTES / 2).unwrap());
        assert!(matches!(document.store(&long), Err(StoreError::TooLarge { limit: MAX_DOCUMENT_BYTES, .. })));
        assert_eq!(document.load().unwrap().unwrap(), "old");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let disk: Arc<dyn Storage> = Arc::new(Disk::new().storage());
            disk.replace("d", &bytes).unwrap();
            prop_assert!(Document::<Vec<u32>>::new(disk, "d", 1).load().is_err());
        }
    }
}
