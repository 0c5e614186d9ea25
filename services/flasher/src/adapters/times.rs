//! What time it is, and what is known of it while the clock is not set.

use std::sync::Arc;

use pitstop_store::{Document, Storage};
use pitstop_types::UnixSeconds;

/// Format of the stored time.
const FORMAT: u32 = 1;
/// How much later than the stored time it may be before it is stored again: a flash memory endures only so many writes.
const STALE_SECS: i64 = 3600;

/// The clock, and the latest time that it has shown to this service.
///
/// A TCU whose clock has no battery does not know the time after a restart, and a garage may have no reception. An update that has
/// begun must come to its end there all the same: that it is now no earlier than a time which this service itself has seen is enough for
/// what had been true by then. It is never enough for anything later.
pub struct Times {
    latest: Document<UnixSeconds>,
    clock: fn() -> Option<UnixSeconds>,
}

impl Times {
    /// `clock`: the wall clock in Unix seconds, `None` while it is not set.
    pub fn new(storage: Arc<dyn Storage>, clock: fn() -> Option<UnixSeconds>) -> Self {
        Self { latest: Document::new(storage, "latest-time", FORMAT), clock }
    }

    /// The time now. While the clock is not set: the latest time seen, if that is no earlier than `needed`; otherwise `None`.
    pub fn now(&self, needed: UnixSeconds) -> Option<UnixSeconds> {
        let latest = self.latest.load().unwrap_or_else(|error| {
            log::warn!("the latest time is lost: {error}");
            None
        });
        let Some(now) = (self.clock)() else { return latest.filter(|latest| *latest >= needed) };
        let stands = |latest: UnixSeconds| {
            (now.saturating_sub(STALE_SECS)..=now).contains(&latest) && (latest >= needed || now < needed)
        };
        // One in the future was a clock's mistake.
        if !latest.is_some_and(stands)
            && let Err(error) = self.latest.store(&now)
        {
            log::warn!("the time is not remembered: {error}");
        }
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use pitstop_store::cut::Disk;

    use super::*;

    const SEEN: UnixSeconds = 1_800_000_000;

    fn times(disk: &Disk, clock: fn() -> Option<UnixSeconds>) -> Times {
        Times::new(Arc::new(disk.storage()), clock)
    }

    #[test]
    fn without_a_clock_what_was_seen_counts_and_nothing_later() {
        let disk = Disk::new();
        let lost = times(&disk, || None);
        assert_eq!(lost.now(0), None, "nothing was ever seen");
        assert_eq!(times(&disk, || Some(SEEN)).now(SEEN - 5), Some(SEEN));
        assert_eq!(lost.now(SEEN), Some(SEEN));
        assert_eq!(lost.now(SEEN + 1), None);
    }

    #[test]
    fn the_time_is_stored_once_an_hour_when_it_is_needed_and_when_the_clock_was_put_right() {
        let disk = Disk::new();
        let lost = times(&disk, || None);
        times(&disk, || Some(SEEN)).now(0);
        times(&disk, || Some(SEEN + 60)).now(SEEN);
        assert_eq!(lost.now(0), Some(SEEN), "a minute later is not worth a write");
        times(&disk, || Some(SEEN + 60)).now(SEEN + 30);
        assert_eq!(lost.now(0), Some(SEEN + 60), "somebody depends on it");
        times(&disk, || Some(SEEN + 4000)).now(0);
        assert_eq!(lost.now(0), Some(SEEN + 4000));
        times(&disk, || Some(SEEN)).now(SEEN + 9);
        assert_eq!(lost.now(0), Some(SEEN), "the clock had been wrong");
    }

    #[test]
    fn a_damaged_time_is_none_and_is_written_anew() {
        let disk = Disk::new();
        disk.storage().replace("latest-time", b"pitstop 1 nonsense\n7").unwrap();
        assert_eq!(times(&disk, || None).now(0), None);
        times(&disk, || Some(SEEN)).now(0);
        assert_eq!(times(&disk, || None).now(0), Some(SEEN));
    }
}
