//! Reports to the backend, kept until it says that it has them. One small durable file per report: to put one in is one write.

use std::collections::BTreeMap;
use std::sync::Arc;

use pitstop_store::{Document, Storage, StoreError};
use serde_json::{Map, Value};

/// Longest report, in bytes of JSON.
pub const MAX_REPORT: usize = 128 * 1024;
/// Most reports and bytes kept. A vehicle that was offline for weeks has some dozens.
const MAX_ITEMS: usize = 500;
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// A request carries about this much, and at least one report. The backend takes a megabyte.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_ITEMS: usize = 100;
/// Numbers stay exact in every JSON reader below this, and leave room to count on.
const MAX_SEQUENCE: u64 = 1 << 53;
const FORMAT: u32 = 1;
const FOLDER: &str = "outbox/";

/// Reports waiting for acknowledgement, by sequence number.
pub struct Outbox {
    storage: Arc<dyn Storage>,
    acked: Document<u64>,
    last_acked: u64,
    items: BTreeMap<u64, Item>,
    bytes: usize,
    next: u64,
}

struct Item {
    report: Map<String, Value>,
    bytes: usize,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("a report is a JSON object without \"seq\"")]
    Form,
    #[error("the report has {0} bytes, at most {MAX_REPORT} are taken")]
    TooLarge(usize),
    #[error("storing a report")]
    Store(#[from] StoreError),
}

impl Outbox {
    /// Reads what is still waiting. A damaged report is dropped and logged: it cannot be sent, and must not hold up the others.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self, OutboxError> {
        let acked = Document::<u64>::new(Arc::clone(&storage), "outbox-acked", FORMAT);
        let last_acked = match acked.load() {
            Ok(value) => value.unwrap_or(0),
            Err(StoreError::Damaged { name, reason }) => {
                log::error!("{name} is damaged ({reason}); the backend's acknowledgement will tell");
                0
            }
            Err(error) => return Err(error.into()),
        };
        let mut this = Self { storage, acked, last_acked, items: BTreeMap::new(), bytes: 0, next: last_acked + 1 };
        for name in this.storage.list(FOLDER)? {
            let Some(seq) = name.strip_prefix(FOLDER).and_then(|n| n.parse::<u64>().ok()) else { continue };
            match this.document(seq).load() {
                Ok(Some(report)) if seq > last_acked => this.insert(seq, report),
                Ok(_) => this.storage.remove(&name)?,
                Err(error) => {
                    log::error!("dropping report {seq}: {error}");
                    this.storage.remove(&name)?;
                }
            }
            this.next = this.next.max(seq.saturating_add(1));
        }
        Ok(this)
    }

    /// Puts `report` in, durably, and returns its number. When the box is full the oldest report that is no update's end is dropped.
    pub fn put(&mut self, report: &str) -> Result<u64, OutboxError> {
        if report.len() > MAX_REPORT {
            return Err(OutboxError::TooLarge(report.len()));
        }
        let report: Map<String, Value> = serde_json::from_str(report).map_err(|_| OutboxError::Form)?;
        if report.contains_key("seq") {
            return Err(OutboxError::Form);
        }
        self.make_room()?;
        let seq = self.next;
        self.document(seq).store(&report)?;
        self.next = seq + 1;
        self.insert(seq, report);
        Ok(seq)
    }

    /// Reports waiting.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next reports to send, oldest first, each with its `seq`; `limit` bounds their number.
    pub fn batch(&self, limit: usize) -> Vec<Value> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        for (seq, item) in self.items.iter().take(limit.min(BATCH_ITEMS)) {
            bytes += item.bytes;
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            let mut report = item.report.clone();
            report.insert("seq".into(), (*seq).into());
            batch.push(Value::Object(report));
        }
        batch
    }

    /// The backend has everything up to `seq`. True if reports are done with by it.
    ///
    /// One that acknowledges more than was ever sent remembers an earlier life of this box (a factory reset): what waits here was
    /// ignored by it, and gets numbers above. One that acknowledges less than before has lost its memory: what is acknowledged here stays so, because
    /// those reports are gone.
    pub fn acknowledge(&mut self, seq: u64) -> Result<bool, OutboxError> {
        if seq >= self.next {
            self.renumber_above(seq)?;
            return Ok(false);
        }
        if seq <= self.last_acked {
            return Ok(false);
        }
        self.store_acked(seq)?;
        let kept = self.items.split_off(&(seq + 1));
        let progress = !self.items.is_empty();
        for (gone, item) in std::mem::replace(&mut self.items, kept) {
            self.bytes = self.bytes.saturating_sub(item.bytes);
            self.storage.remove(&name(gone))?;
        }
        Ok(progress)
    }

    fn store_acked(&mut self, seq: u64) -> Result<(), OutboxError> {
        self.acked.store(&seq)?;
        self.last_acked = seq;
        Ok(())
    }

    /// Drops the oldest report: the backend will never take it, and it must not block the others.
    pub fn drop_first(&mut self) -> Result<(), OutboxError> {
        let Some(seq) = self.items.keys().next().copied() else { return Ok(()) };
        self.remove(seq)
    }

    fn renumber_above(&mut self, seq: u64) -> Result<(), OutboxError> {
        if seq >= MAX_SEQUENCE {
            log::error!("the backend acknowledges report {seq}, which no vehicle ever reaches: ignored");
            return Ok(());
        }
        log::warn!("the backend acknowledges report {seq}, the last one here was {}: numbering anew", self.next - 1);
        let waiting: Vec<(u64, Item)> = std::mem::take(&mut self.items).into_iter().collect();
        self.bytes = 0;
        self.next = seq + 1;
        // New numbers first: a power cut between leaves a report twice, never none.
        for (_, item) in &waiting {
            let number = self.next;
            self.document(number).store(&item.report)?;
            self.next = number + 1;
            self.insert(number, item.report.clone());
        }
        for (old, _) in &waiting {
            self.storage.remove(&name(*old))?;
        }
        self.store_acked(seq)
    }

    fn make_room(&mut self) -> Result<(), OutboxError> {
        while self.items.len() >= MAX_ITEMS || self.bytes > MAX_BYTES {
            let minor = self.items.iter().find(|(_, item)| !item.report.contains_key("result")).map(|(seq, _)| *seq);
            let Some(seq) = minor.or_else(|| self.items.keys().next().copied()) else { return Ok(()) };
            log::warn!("the outbox is full: dropping report {seq}");
            self.remove(seq)?;
        }
        Ok(())
    }

    fn remove(&mut self, seq: u64) -> Result<(), OutboxError> {
        if let Some(item) = self.items.remove(&seq) {
            self.bytes = self.bytes.saturating_sub(item.bytes);
        }
        Ok(self.storage.remove(&name(seq))?)
    }

    fn insert(&mut self, seq: u64, report: Map<String, Value>) {
        let bytes = serde_json::to_string(&report).map_or(0, |t| t.len());
        self.bytes += bytes;
        self.items.insert(seq, Item { report, bytes });
    }

    fn document(&self, seq: u64) -> Document<Map<String, Value>> {
        Document::new(Arc::clone(&self.storage), name(seq), FORMAT)
    }
}

/// Twenty digits, so that names sort as numbers do.
fn name(seq: u64) -> String {
    format!("{FOLDER}{seq:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_store::cut::{Cut, Disk};

    fn open(disk: &Disk) -> Outbox {
        Outbox::open(Arc::new(disk.storage())).unwrap()
    }

    fn numbers(outbox: &Outbox) -> Vec<u64> {
        outbox.batch(1000).iter().map(|r| r["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn reports_keep_their_numbers_over_restarts_until_acknowledged() {
        let disk = Disk::new();
        let mut outbox = open(&disk);
        for n in 1..=3 {
            assert_eq!(outbox.put(&format!("{{\"phase\":\"p{n}\"}}")).unwrap(), n);
        }
        let mut outbox = open(&disk);
        assert_eq!(numbers(&outbox), [1, 2, 3]);
        assert_eq!(outbox.batch(1)[0], serde_json::json!({ "phase": "p1", "seq": 1 }));
        outbox.acknowledge(2).unwrap();
        outbox.acknowledge(1).unwrap();
        assert_eq!(numbers(&open(&disk)), [3]);
        outbox.acknowledge(3).unwrap();
        // A number is never used twice, also after all were acknowledged.
        assert_eq!(open(&disk).put("{}").unwrap(), 4);
    }

    #[test]
    fn a_power_cut_loses_no_report_that_was_taken_and_reuses_no_number() {
        for at in 0..12 {
            for cut in [Cut::Before(at), Cut::After(at), Cut::Torn(at)] {
                let disk = Disk::new();
                let mut outbox = open(&disk);
                outbox.put("{\"a\":0}").unwrap();
                disk.plan(Some(cut));
                let mut taken = vec![1];
                let mut acked = 0;
                for n in 0..4 {
                    if let Ok(seq) = outbox.put("{\"a\":1}") {
                        taken.push(seq);
                    }
                    if n == 2 && outbox.acknowledge(2).is_ok() {
                        acked = 2;
                    }
                }
                disk.power_on();
                let mut after = open(&disk);
                let waiting = numbers(&after);
                for seq in taken.iter().filter(|s| **s > 2 || (acked == 0 && after.acked.load().unwrap().is_none())) {
                    assert!(waiting.contains(seq), "{cut:?}: report {seq} of {taken:?} is lost, waiting {waiting:?}");
                }
                let fresh = after.put("{}").unwrap();
                assert!(taken.iter().all(|s| *s < fresh), "{cut:?}");
            }
        }
    }

    #[test]
    fn a_full_box_drops_progress_before_ends() {
        let mut outbox = open(&Disk::new());
        outbox.put("{\"result\":\"all-new\"}").unwrap();
        for _ in 0..MAX_ITEMS + 5 {
            outbox.put("{\"phase\":\"x\"}").unwrap();
        }
        assert_eq!(outbox.len(), MAX_ITEMS);
        assert_eq!(outbox.batch(1)[0]["result"], "all-new");
    }

    #[test]
    fn a_backend_with_a_longer_memory_makes_the_box_number_anew() {
        let disk = Disk::new();
        let mut outbox = open(&disk);
        outbox.put("{\"phase\":\"a\"}").unwrap();
        outbox.put("{\"phase\":\"b\"}").unwrap();
        outbox.acknowledge(100).unwrap();
        assert_eq!(numbers(&outbox), [101, 102]);
        assert_eq!(numbers(&open(&disk)), [101, 102]);
        outbox.acknowledge(102).unwrap();
        assert!(open(&disk).is_empty());
        assert_eq!(outbox.put("{}").unwrap(), 103);
    }

    #[test]
    fn an_acknowledgement_without_progress_writes_nothing_and_never_goes_back() {
        let disk = Disk::new();
        let mut outbox = open(&disk);
        for _ in 0..3 {
            outbox.put("{}").unwrap();
        }
        assert!(outbox.acknowledge(2).unwrap());
        let files = disk.files();
        for below in [2, 1, 0] {
            assert!(!outbox.acknowledge(below).unwrap(), "{below}");
        }
        assert_eq!(disk.files(), files);
        assert!(!outbox.acknowledge(u64::MAX).unwrap());
        assert!(!outbox.acknowledge(50).unwrap(), "numbered anew, and still waiting");
        assert_eq!(numbers(&outbox), [51]);
        assert!(outbox.acknowledge(51).unwrap());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let mut outbox = open(&Disk::new());
        for bad in ["", "[]", "1", "{\"seq\":1}", "{"] {
            assert!(matches!(outbox.put(bad), Err(OutboxError::Form)), "{bad}");
        }
        assert!(matches!(outbox.put(&" ".repeat(MAX_REPORT + 1)), Err(OutboxError::TooLarge(_))));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_batch_stays_small_and_is_never_empty() {
        let mut outbox = open(&Disk::new());
        let large = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
        for _ in 0..5 {
            outbox.put(&large).unwrap();
        }
        assert_eq!(outbox.batch(1000).len(), 2);
        assert_eq!(outbox.batch(1).len(), 1);
    }
}
