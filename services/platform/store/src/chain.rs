use std::sync::Arc;

use pitstop_types::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Storage, StoreError};

/// An append-only log in which each entry carries the hash of the one before, so that a changed, removed or inserted entry shows.
///
/// One line an entry: `{"previous":…,"data":…,"hash":…}`, hash = SHA-256 over `previous` and the data's JSON. A last line that a
/// power cut left without its end is not an entry: nobody was told of it, and the next append replaces it.
pub struct ChainedLog {
    storage: Arc<dyn Storage>,
    name: String,
}

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEntry<T> {
    pub data: T,
    pub hash: Digest,
}

/// Whether the chain is whole, and its newest hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainState {
    pub whole: bool,
    pub entries: u64,
    /// Hash of the newest good entry; of nothing: that of the empty text.
    pub head: Digest,
}

#[derive(Serialize, Deserialize)]
struct Line {
    previous: Digest,
    data: String,
    hash: Digest,
}

impl Line {
    fn new(previous: Digest, data: String) -> Self {
        let hash = Self::hash_of(previous, &data);
        Self { previous, data, hash }
    }

    fn hash_of(previous: Digest, data: &str) -> Digest {
        let mut bytes = previous.to_string().into_bytes();
        bytes.extend_from_slice(data.as_bytes());
        Digest::of(&bytes)
    }
}

impl ChainedLog {
    pub fn new(storage: Arc<dyn Storage>, name: impl Into<String>) -> Self {
        Self { storage, name: name.into() }
    }

    /// Appends `data` durably and returns its hash. A damaged chain is continued from its newest good entry and stays visibly damaged.
    pub fn append<T: Serialize>(&self, data: &T) -> Result<Digest, StoreError> {
        let data =
            serde_json::to_string(data).map_err(|source| StoreError::Encode { name: self.name.clone(), source })?;
        let bytes = self.storage.read(&self.name)?.unwrap_or_default();
        let whole_lines = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let (lines, _) = self.lines(&bytes);
        let previous = lines.last().map_or_else(|| Digest::of(b""), |l| l.hash);
        let line = Line::new(previous, data);
        let hash = line.hash;
        let mut text =
            serde_json::to_vec(&line).map_err(|source| StoreError::Encode { name: self.name.clone(), source })?;
        text.push(b'\n');
        if whole_lines == bytes.len() {
            self.storage.append(&self.name, &text)?;
        } else {
            let mut all = bytes.get(..whole_lines).unwrap_or_default().to_vec();
            all.extend_from_slice(&text);
            self.storage.replace(&self.name, &all)?;
        }
        Ok(hash)
    }

    /// All entries that can be read, oldest first. Entries of a type this release does not know are left out.
    pub fn entries<T: DeserializeOwned>(&self) -> Result<Vec<ChainEntry<T>>, StoreError> {
        let bytes = self.storage.read(&self.name)?.unwrap_or_default();
        let (lines, _) = self.lines(&bytes);
        let typed = |l: Line| serde_json::from_str(&l.data).ok().map(|data| ChainEntry { data, hash: l.hash });
        Ok(lines.into_iter().filter_map(typed).collect())
    }

    /// The whole lines as they are stored, oldest first, for somebody else to recompute.
    pub fn stored_lines(&self) -> Result<Vec<String>, StoreError> {
        let bytes = self.storage.read(&self.name)?.unwrap_or_default();
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default());
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Recomputes every hash.
    pub fn verify(&self) -> Result<ChainState, StoreError> {
        let bytes = self.storage.read(&self.name)?.unwrap_or_default();
        let (lines, mut whole) = self.lines(&bytes);
        let mut head = Digest::of(b"");
        let mut entries = 0;
        for line in &lines {
            if line.previous != head || line.hash != Line::hash_of(line.previous, &line.data) {
                whole = false;
                break;
            }
            head = line.hash;
            entries += 1;
        }
        Ok(ChainState { whole, entries, head })
    }

    /// The lines that parse, and whether all whole lines did.
    fn lines(&self, bytes: &[u8]) -> (Vec<Line>, bool) {
        let mut lines = Vec::new();
        let mut all = true;
        let mut parts: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
        // What follows the last line end is empty or was cut.
        parts.pop();
        for part in parts {
            match serde_json::from_slice(part) {
                Ok(line) => lines.push(line),
                Err(_) => all = false,
            }
        }
        (lines, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::Disk;

    #[test]
    fn a_changed_removed_or_swapped_entry_shows() {
        let disk: Arc<dyn Storage> = Arc::new(Disk::new().storage());
        let log = ChainedLog::new(disk.clone(), "history");
        for n in 0..4_u32 {
            log.append(&n).unwrap();
        }
        assert_eq!(log.verify().unwrap().entries, 4);
        assert!(log.verify().unwrap().whole);
        let good = disk.read("history").unwrap().unwrap();
        let lines: Vec<&[u8]> = good.split_inclusive(|&b| b == b'\n').collect();
        for bad in [
            [lines[0], lines[2], lines[3]].concat(),
            [lines[1], lines[0], lines[2], lines[3]].concat(),
            good.iter().map(|&b| if b == b'2' { b'3' } else { b }).collect(),
        ] {
            disk.replace("history", &bad).unwrap();
            assert!(!log.verify().unwrap().whole);
        }
    }

    #[test]
    fn a_line_cut_in_the_middle_is_no_entry_and_the_next_append_mends_it() {
        let disk: Arc<dyn Storage> = Arc::new(Disk::new().storage());
        let log = ChainedLog::new(disk.clone(), "history");
        log.append(&1_u32).unwrap();
        disk.append("history", b"{\"previous\":\"ab").unwrap();
        assert!(log.verify().unwrap().whole);
        log.append(&2_u32).unwrap();
        let state = log.verify().unwrap();
        assert!(state.whole);
        assert_eq!(state.entries, 2);
        let data: Vec<u32> = log.entries().unwrap().into_iter().map(|e| e.data).collect();
        assert_eq!(data, [1, 2]);
    }
}
