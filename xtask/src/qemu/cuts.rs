//! When the emulated TCU loses its power: instants from a seed, as many in the short parts of an update as in the long ones.

#![expect(clippy::indexing_slicing, reason = "a key of a JSON object that is absent is made")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Cuts of one update at most; then it may end.
const MOST: u64 = 4;
/// Cuts after the first come within so many starts after the power came back: some in the start, some in the work.
const LATER: f32 = 2.5;

/// A part of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From the campaign on: fetch, admission, staging.
    Begin,
    /// The control units are flashed and the slot is activated.
    Activation,
    /// The TCU restarts by itself.
    Restart,
    /// The TCU is up again: health check and commit.
    Trial,
}

impl Part {
    const ALL: [Self; 4] = [Self::Begin, Self::Activation, Self::Restart, Self::Trial];

    /// How long it takes, in starts of the TCU: so a slow machine has its cuts in the same places as a quick one.
    fn starts(self) -> f32 {
        match self {
            Self::Begin => 1.8,
            Self::Activation => 1.2,
            Self::Restart => 1.3,
            Self::Trial => 0.1,
        }
    }
}

/// The cuts of one update.
#[derive(Debug)]
pub struct Cuts {
    random: u64,
    left: u64,
    next: Option<Instant>,
    /// The first cut comes in this part.
    first: Option<Part>,
    /// The only cut comes so long after the TCU has restarted by itself for the n-th time.
    in_start: Option<(u32, Duration)>,
    /// How long a start takes on this machine.
    start: Duration,
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
        let mut cuts = Self {
            random: seed,
            left: 0,
            next: None,
            first: None,
            in_start: None,
            start: Duration::ZERO,
            began,
            ecus,
            made,
        };
        cuts.left = 1 + cuts.number() % MOST;
        cuts.first = Part::ALL.into_iter().nth((cuts.number() % Part::ALL.len() as u64) as usize);
        cuts
    }

    /// One cut alone, `later` after the TCU has restarted by itself for the `count`-th time.
    pub fn in_start(count: u32, later: Duration) -> Self {
        Self { left: 0, first: None, in_start: Some((count, later)), ..Self::new(0, false) }
    }

    /// The update begins; the TCU's start took so long.
    pub fn begin(&mut self, start: Duration) {
        (self.began, self.start) = (Instant::now(), start);
        self.enters(Part::Begin);
    }

    /// A part of the update begins.
    pub fn enters(&mut self, part: Part) {
        if self.first.take_if(|first| *first == part).is_some() {
            self.plan(part.starts());
        }
    }

    /// The TCU restarts by itself, for the `count`-th time.
    pub fn restarted(&mut self, count: u32) {
        if let Some((_, later)) = self.in_start.take_if(|(at, _)| *at == count) {
            self.next = Some(Instant::now() + later);
        }
        self.enters(Part::Restart);
    }

    /// Time to the next one; zero: now; `None`: none is planned.
    pub fn due_in(&self) -> Option<Duration> {
        self.next.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// One was made, and the power is back.
    pub fn make(&mut self, left: Result<(String, String), String>, starting: bool) {
        self.made.push(Cut { left, starting, secs: self.began.elapsed().as_secs() });
        self.plan(LATER);
    }

    /// No more of them.
    pub fn end(&mut self) {
        (self.left, self.next, self.first) = (0, None, None);
    }

    fn plan(&mut self, starts: f32) {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            // 24 bits are what such a number holds exactly.
            let share = (self.number() >> 40) as f32 / (1 << 24) as f32;
            self.next = Some(Instant::now() + self.start.mul_f32(starts * share));
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

    const START: Duration = Duration::from_secs(40);

    #[test]
    fn the_only_cut_comes_after_the_restart_it_is_meant_for() {
        let mut cuts = Cuts::in_start(2, Duration::from_secs(5));
        cuts.begin(START);
        cuts.enters(Part::Activation);
        cuts.restarted(1);
        assert!(cuts.due_in().is_none());
        cuts.restarted(2);
        assert!(cuts.due_in().is_some());
        cuts.make(Ok(("trial".to_owned(), "A".to_owned())), true);
        cuts.restarted(2);
        assert!(cuts.due_in().is_none());
    }

    /// The part with the first cut, and how long after the begin of it, in starts.
    fn first(cuts: &mut Cuts) -> (Part, f32) {
        cuts.begin(START);
        for part in Part::ALL {
            if part == Part::Restart {
                cuts.restarted(1)
            } else {
                cuts.enters(part)
            }
            if let Some(left) = cuts.due_in() {
                return (part, left.as_secs_f32() / START.as_secs_f32());
            }
        }
        panic!("no part has a cut: {cuts:?}");
    }

    #[test]
    fn every_part_has_its_cuts_and_a_seed_gives_the_same_ones() {
        let (mut counts, mut parts) = (std::collections::BTreeSet::new(), [0; 4]);
        for seed in 0..80 {
            let (mut one, mut other) = (Cuts::new(seed, false), Cuts::new(seed, true));
            let ((part, when), (same, again)) = (first(&mut one), first(&mut other));
            assert_eq!(part, same);
            assert!((when - again).abs() < 0.1 && when <= part.starts());
            parts[Part::ALL.iter().position(|known| *known == part).unwrap()] += 1;
            while one.due_in().is_some() {
                assert!(other.due_in().is_some());
                one.make(Ok(("staging".to_owned(), "A".to_owned())), false);
                other.make(Err("torn".to_owned()), true);
                // A part that is entered again changes nothing.
                one.enters(part);
                other.enters(part);
            }
            assert!(other.due_in().is_none() && (1..=MOST as usize).contains(&one.made.len()));
            assert_eq!(one.made.len(), other.made.len());
            counts.insert(one.made.len());
        }
        assert!(counts.len() == MOST as usize && parts.iter().all(|count| *count > 5), "{counts:?} {parts:?}");
    }

    #[test]
    fn an_update_that_ended_is_not_cut() {
        let mut cuts = Cuts::new(1, false);
        cuts.begin(START);
        cuts.end();
        for part in Part::ALL {
            cuts.enters(part);
        }
        assert!(cuts.due_in().is_none());
    }
}
