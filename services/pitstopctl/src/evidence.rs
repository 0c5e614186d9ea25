//! The history as evidence: fetched as it is stored, checked here, so that the vehicle need not be believed.

use pitstop_dbus::ManagerProxy;
use pitstop_types::Digest;
use serde::Deserialize;

use crate::error::CtlError;
use crate::view::Chain;

/// Entries fetched in one call.
const PAGE: u32 = 500;
/// A vehicle has some updates a year; beyond this many entries something is wrong, and memory is kept.
const MAX_ENTRIES: usize = 100_000;

/// Every entry, oldest first.
pub async fn fetch(manager: &ManagerProxy<'_>) -> Result<Vec<String>, CtlError> {
    let mut lines: Vec<String> = Vec::new();
    loop {
        let page = manager.export_history(lines.len() as u64, PAGE).await.map_err(CtlError::of_call("Manager"))?;
        if page.is_empty() || lines.len() > MAX_ENTRIES {
            return Ok(lines);
        }
        lines.extend(page);
    }
}

#[derive(Deserialize)]
struct Entry {
    previous: Digest,
    data: String,
    hash: Digest,
}

/// Recomputes every hash: SHA-256 over the hash before, in hexadecimal, followed by the data.
pub fn check(lines: &[String]) -> Result<Chain, CtlError> {
    let mut head = Digest::of(b"");
    for (number, line) in (0u64..).zip(lines) {
        let whole = serde_json::from_str(line).ok().filter(|entry: &Entry| {
            entry.previous == head && Digest::of(format!("{}{}", entry.previous, entry.data).as_bytes()) == entry.hash
        });
        head = whole.ok_or(CtlError::BrokenHistory(number))?.hash;
    }
    Ok(Chain { whole: true, entries: lines.len() as u64, head: head.to_string() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pitstop_store::cut::Disk;
    use pitstop_store::{ChainedLog, Storage};

    use super::*;

    /// As the manager stores it.
    fn stored() -> Vec<String> {
        let disk: Arc<dyn Storage> = Arc::new(Disk::new().storage());
        let log = ChainedLog::new(disk.clone(), "history");
        for entry in ["one", "two \"quoted\"", "three"] {
            log.append(&entry).unwrap();
        }
        let bytes = disk.read("history").unwrap().unwrap();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_the_manager_stores_is_whole() {
        let lines = stored();
        let chain = check(&lines).unwrap();
        assert_eq!((chain.whole, chain.entries), (true, 3));
        assert!(lines[2].contains(&chain.head));
        assert_eq!(check(&[]).unwrap().entries, 0);
    }

    #[test]
    fn one_changed_removed_or_swapped_entry_shows_and_is_named() {
        let good = stored();
        let broken = |lines: &[String]| match check(lines) {
            Err(CtlError::BrokenHistory(after)) => after,
            other => panic!("{other:?}"),
        };
        let mut changed = good.clone();
        changed[1] = changed[1].replace("two", "2");
        assert_eq!(broken(&changed), 1);
        assert_eq!(broken(&good[1..]), 0);
        assert_eq!(broken(&[good[0].clone(), good[2].clone()]), 1);
        assert_eq!(broken(&[good[0].clone(), "nonsense".to_owned()]), 1);
    }
}
