//! Pauses between tries: exponential with full jitter, so that a fleet which lost its backend does not come back all at once.

use std::time::Duration;

/// The next pause of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Pauses from zero up to `first`, doubling, up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempt: 0 }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The pause after one more failure; `random` is uniform over all `u32`.
    pub fn next(&mut self, random: u32) -> Duration {
        let ceiling =
            self.first.saturating_mul(1u32.checked_shl(self.attempt.min(31)).unwrap_or(u32::MAX)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// After a refusal that will not go away soon (credentials): straight to the longest pauses.
    pub fn escalate(&mut self) {
        self.attempt = 31;
    }
}

/// A pause around `interval`, twenty percent to either side.
pub fn spread(interval: Duration, random: u32) -> Duration {
    interval.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_starts_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));
        let ceilings: Vec<u64> = (0..12).map(|_| backoff.next(u32::MAX).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX).as_secs(), 1);
        backoff.escalate();
        assert_eq!(backoff.next(u32::MAX).as_secs(), 600);
    }

    proptest! {
        #[test]
        fn no_pause_is_above_the_cap(first in 1u64..100_000, cap in 1u64..100_000, randoms in prop::collection::vec(any::<u32>(), 1..80)) {
            let cap = Duration::from_millis(cap);
            let mut backoff = Backoff::new(Duration::from_millis(first), cap);
            for random in randoms {
                prop_assert!(backoff.next(random) <= cap);
                let spread = spread(cap, random);
                prop_assert!(spread >= cap.mul_f64(0.79) && spread <= cap.mul_f64(1.21));
            }
        }
    }
}
