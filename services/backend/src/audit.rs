//! The chained log of what operators did, what the backend did by itself, and which devices got certificates.

use pitstop_types::{Digest, UnixSeconds};
use serde_json::{Value, json};

use crate::model::AuditEntry;

/// What the first entry follows.
const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl AuditEntry {
    /// The entry that follows `head`.
    pub fn after(head: Option<&Self>, at: UnixSeconds, actor: &str, action: &str, detail: Value) -> Self {
        let mut entry = Self {
            seq: head.map_or(1, |head| head.seq.saturating_add(1)),
            at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            detail,
            previous: head.map_or_else(|| START.to_owned(), |head| head.hash.clone()),
            hash: String::new(),
        };
        entry.hash = entry.expected_hash();
        entry
    }

    /// SHA-256 over a JSON array of all other fields: an array, so that no two entries share a text.
    fn expected_hash(&self) -> String {
        let text = json!([self.previous, self.seq, self.at, self.actor, self.action, self.detail]).to_string();
        Digest::of(text.as_bytes()).to_string()
    }

    /// Sequence number of the first entry that does not follow from the one before it.
    pub fn first_broken(entries: &[Self]) -> Option<u64> {
        let mut previous: Option<&Self> = None;
        for entry in entries {
            let follows = match previous {
                Some(before) => entry.previous == before.hash && entry.seq == before.seq.saturating_add(1),
                None => entry.seq != 1 || entry.previous == START,
            };
            if !follows || entry.hash != entry.expected_hash() {
                return Some(entry.seq);
            }
            previous = Some(entry);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_removed_or_reordered_entry_breaks_the_chain() {
        let mut log: Vec<AuditEntry> = Vec::new();
        for n in 0..5 {
            let entry = AuditEntry::after(log.last(), n, "operator", "publish", json!({ "release": n }));
            log.push(entry);
        }
        assert_eq!(AuditEntry::first_broken(&log), None);
        let mut edited = log.clone();
        edited[2].detail = json!({ "release": 99 });
        assert_eq!(AuditEntry::first_broken(&edited), Some(3));
        let mut removed = log.clone();
        removed.remove(1);
        assert_eq!(AuditEntry::first_broken(&removed), Some(3));
        let mut swapped = log;
        swapped.swap(3, 4);
        assert_eq!(AuditEntry::first_broken(&swapped), Some(5));
    }
}
