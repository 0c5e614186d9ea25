use std::ops::Range;

/// Most runs kept of one segment; further ones are sent like data.
const MAX_RUNS: usize = 4096;

/// Finds the runs of a segment that read like erased flash, while its bytes pass through once.
#[derive(Debug, Clone)]
pub struct BlankFinder {
    blank: u8,
    shortest: u64,
    position: u64,
    run_start: Option<u64>,
    runs: Vec<Range<u64>>,
}

impl BlankFinder {
    /// Runs of `blank` shorter than `shortest` bytes are not worth leaving out.
    pub fn new(blank: u8, shortest: u64) -> Self {
        Self { blank, shortest, position: 0, run_start: None, runs: Vec::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == self.blank {
                self.run_start.get_or_insert(self.position);
            } else {
                self.end_run();
            }
            self.position += 1;
        }
    }

    /// The runs in ascending order, as offsets from the first byte fed.
    pub fn finish(mut self) -> Vec<Range<u64>> {
        self.end_run();
        self.runs
    }

    fn end_run(&mut self) {
        if let Some(start) = self.run_start.take()
            && self.position - start >= self.shortest
            && self.runs.len() < MAX_RUNS
        {
            self.runs.push(start..self.position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_blank_long_enough_and_complete(bytes in prop::collection::vec(prop_oneof![Just(0xFF), Just(0)], 0..200), cut in 0usize..200) {
            let mut finder = BlankFinder::new(0xFF, 3);
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            finder.feed(head);
            finder.feed(tail);
            let runs = finder.finish();
            for run in &runs {
                let (start, end) = (run.start as usize, run.end as usize);
                prop_assert!(end - start >= 3);
                prop_assert!(bytes[start..end].iter().all(|b| *b == 0xFF));
                prop_assert!(start == 0 || bytes[start - 1] == 0);
                prop_assert!(end == bytes.len() || bytes[end] == 0);
            }
            let inside = |at: usize| runs.iter().any(|run| run.contains(&(at as u64)));
            for at in 0..bytes.len().saturating_sub(2) {
                if bytes[at..at + 3] == [0xFF; 3] {
                    prop_assert!(inside(at));
                }
            }
        }
    }
}
