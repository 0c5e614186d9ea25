//! When the emulated TCU loses its power: instants from a seed, over the whole of an update.

#![expect(clippy::indexing_slicing, reason = "a key of a JSON object that is absent is made")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An update takes about three minutes; the first cut falls anywhere into it.
const FIRST: Duration = Duration::from_secs(210);
/// Later ones after the power came back: some into the start, some into the work.
const LATER: Duration = Duration::from_secs(120);
/// After so many the update may end.
const MOST: u32 = 4;

/// The cuts of one update.
#[derive(Debug)]
pub struct Cuts {
    random: u64,
    left: u32,
    next: Option<Instant>,
    /// The only cut comes so long after the TCU has restarted by itself for the n-th time.
    in_start: Option<(u32, Duration)>,
    began: Instant,
    /// Whether the control units lose their power together with the TCU.
    pub ecus: bool,
    /// Those that were made.
    pub made: Vec<Cut>,
}

/// One cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The update's phase in the record on the disk, and the slot that starts next; or what is wrong with the disk.
    pub left: Result<(String, String), String>,
    /// Whether the TCU was starting.
    pub starting: bool,
    /// After the begin of the update.
    pub secs: u64,
}

impl Cut {
    pub fn report(&self) -> Value {
        let mut report = json!({ "starting": self.starting, "after_s": self.secs });
        match &self.left {
            Ok((phase, slot)) => (report["phase"], report["starts"]) = (phase.as_str().into(), slot.as_str().into()),
            Err(trouble) => report["trouble"] = trouble.as_str().into(),
        }
        report
    }
}

impl Cuts {
    pub fn new(seed: u64, ecus: bool) -> Self {
        let (began, made) = (Instant::now(), Vec::new());
        let mut cuts = Self { random: seed, left: 0, next: None, in_start: None, began, ecus, made };
        cuts.left = 1 + (cuts.number() % u64::from(MOST)) as u32;
        cuts
    }

    /// One cut alone, `later` after the TCU has restarted by itself for the `count`-th time.
    pub fn in_start(count: u32, later: Duration) -> Self {
        Self { left: 0, in_start: Some((count, later)), ..Self::new(0, false) }
    }

    /// The TCU restarts by itself, for the `count`-th time.
    pub fn restarted(&mut self, count: u32) {
        if let Some((_, later)) = self.in_start.take_if(|(at, _)| *at == count) {
            self.next = Some(Instant::now() + later);
        }
    }

    /// The update begins.
    pub fn begin(&mut self) {
        self.began = Instant::now();
        self.plan(FIRST);
    }

    /// When the next is due; `None`: never again.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// One was made, and the power is back.
    pub fn make(&mut self, left: Result<(String, String), String>, starting: bool) {
        self.made.push(Cut { left, starting, secs: self.began.elapsed().as_secs() });
        self.plan(LATER);
    }

    /// No more of them.
    pub fn end(&mut self) {
        (self.left, self.next) = (0, None);
    }

    fn plan(&mut self, within: Duration) {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            let millis = self.number() % (within.as_millis() as u64);
            self.next = Some(Instant::now() + Duration::from_millis(millis));
        }
    }

    /// SplitMix64: the same instants for the same seed, and no dependency for it.
    fn number(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_cut_comes_after_the_restart_it_is_meant_for() {
        let mut cuts = Cuts::in_start(2, Duration::from_secs(5));
        cuts.begin();
        cuts.restarted(1);
        assert!(cuts.due().is_none());
        cuts.restarted(2);
        assert!(cuts.due().is_some());
        cuts.make(Ok(("trial".to_owned(), "A".to_owned())), true);
        cuts.restarted(2);
        assert!(cuts.due().is_none());
    }

    #[test]
    fn cuts_come_to_an_end_and_a_seed_gives_the_same_ones() {
        let mut counts = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let (mut one, mut other) = (Cuts::new(seed, false), Cuts::new(seed, true));
            one.begin();
            other.begin();
            while let Some(due) = one.due() {
                assert!(due <= Instant::now() + FIRST);
                assert!(other.due().is_some());
                one.make(Ok(("staging".to_owned(), "A".to_owned())), false);
                other.make(Err("torn".to_owned()), true);
            }
            assert!(other.due().is_none() && (1..=MOST as usize).contains(&one.made.len()));
            assert_eq!(one.made.len(), other.made.len());
            counts.insert(one.made.len());
        }
        assert_eq!(counts.len(), MOST as usize);
    }
}
