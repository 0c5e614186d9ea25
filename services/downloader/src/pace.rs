//! How fast bytes may come, and how slowly: pure, with the time given.

use std::time::{Duration, Instant};

/// A rate limit: after each piece, how long to wait before the next is read.
#[derive(Debug, Clone)]
pub struct RateLimit {
    bytes_per_sec: Option<u64>,
    /// Until when the bytes read so far last at the allowed rate.
    until: Option<Instant>,
}

impl RateLimit {
    /// No limit with `None`.
    pub fn new(bytes_per_sec: Option<u64>) -> Self {
        Self { bytes_per_sec, until: None }
    }

    /// `bytes` were read; returns the pause that keeps to the rate. Time in which nothing came is not saved up.
    pub fn took(&mut self, now: Instant, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_sec.filter(|r| *r > 0) else { return Duration::ZERO };
        let start = self.until.map_or(now, |until| until.max(now));
        let until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.until = Some(until);
        until.saturating_duration_since(now)
    }
}

/// Says when data comes more slowly than allowed: fewer than `min_bytes` in a window.
#[derive(Debug, Clone)]
pub struct StallGuard {
    window: Duration,
    min_bytes: u64,
    started: Instant,
    bytes: u64,
}

impl StallGuard {
    /// The first window begins at `now`.
    pub fn new(now: Instant, window: Duration, min_bytes: u64) -> Self {
        Self { window, min_bytes, started: now, bytes: 0 }
    }

    /// `bytes` came in.
    pub fn took(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When to look next.
    pub fn deadline(&self) -> Instant {
        self.started + self.window
    }

    /// True if the window that ended by `now` held too little. Begins the next window.
    pub fn is_slow(&mut self, now: Instant) -> bool {
        if now < self.deadline() {
            return false;
        }
        let slow = self.bytes < self.min_bytes;
        (self.started, self.bytes) = (now, 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_many_pieces_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut limit = RateLimit::new(Some(1000));
        assert_eq!(limit.took(start, 500), Duration::from_millis(500));
        assert_eq!(limit.took(start, 500), Duration::from_millis(1000));
        assert_eq!(limit.took(start + Duration::from_secs(60), 100), Duration::from_millis(100));
        assert_eq!(RateLimit::new(None).took(start, 1 << 30), Duration::ZERO);
    }

    #[test]
    fn a_trickle_is_slow_and_a_stream_is_not() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut guard = StallGuard::new(start, second * 10, 100);
        guard.took(99);
        assert!(!guard.is_slow(start + second * 9));
        assert!(guard.is_slow(start + second * 10));
        guard.took(100);
        assert!(!guard.is_slow(start + second * 20));
    }
}
