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

/// Below this rate a fetch does not get on, whatever its connections bring. Under the stall limit's default of 1000 bytes per second, because making
/// connections takes time too; above one piece of 16 KiB in each of that limit's windows of 30 seconds.
pub const LEAST_BYTES_PER_SEC: u64 = 800;
/// A connection that brought so much was worth its handshake, which costs some kilobytes and the radio.
const WORTHWHILE_BYTES: u64 = 64 << 10;

/// Says when a fetch gets on at all, over all its connections: a few bytes now and then keep no fetch alive.
#[derive(Debug, Clone)]
pub struct Patience {
    period: Duration,
    since: Instant,
    /// Bytes of connections since then, none of which was worthwhile by itself.
    bytes: u64,
}

/// What one connection's end means for the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It gets on: the next connection may follow soon.
    GetsOn,
    /// Too few bytes so far: the next connection has to wait longer.
    Waiting,
    /// No byte came in a whole period.
    Silent,
    /// Bytes came in a whole period, but too few.
    TooSlow,
}

impl Patience {
    /// The first period of this length begins at `now`.
    pub fn new(now: Instant, period: Duration) -> Self {
        Self { period, since: now, bytes: 0 }
    }

    /// What a period must bring.
    pub fn least_bytes(&self) -> u64 {
        LEAST_BYTES_PER_SEC.saturating_mul(self.period.as_secs().max(1))
    }

    /// A connection ended after `bytes`.
    pub fn ended(&mut self, now: Instant, bytes: u64) -> Pace {
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes >= WORTHWHILE_BYTES || self.bytes >= self.least_bytes() {
            (self.since, self.bytes) = (now, 0);
            return Pace::GetsOn;
        }
        match (now.saturating_duration_since(self.since) >= self.period, self.bytes) {
            (false, _) => Pace::Waiting,
            (true, 0) => Pace::Silent,
            (true, _) => Pace::TooSlow,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn single_bytes_do_not_prolong_a_fetch_and_one_good_connection_does() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut patience = Patience::new(start, minute * 15);
        assert_eq!(patience.ended(start + minute * 14, 1), Pace::Waiting);
        assert_eq!(patience.ended(start + minute * 15, 0), Pace::TooSlow);
        assert_eq!(patience.ended(start + minute * 15, WORTHWHILE_BYTES), Pace::GetsOn);
        assert_eq!(patience.ended(start + minute * 29, 0), Pace::Waiting);
        assert_eq!(patience.ended(start + minute * 30, 0), Pace::Silent);
    }

    proptest! {
        #[test]
        fn a_fetch_ends_exactly_when_a_period_brings_too_little(rate in 1u64..20_000, seconds in 1u64..60) {
            let start = Instant::now();
            let mut patience = Patience::new(start, Duration::from_secs(900));
            let connections = (1..=3600 / seconds).map(|n| patience.ended(start + Duration::from_secs(n * seconds), rate * seconds));
            let ended = connections.filter(|pace| matches!(pace, Pace::Silent | Pace::TooSlow)).count() > 0;
            // In between lies what one connection more or less in a period makes of it.
            if rate >= LEAST_BYTES_PER_SEC * 11 / 10 || rate * seconds >= WORTHWHILE_BYTES {
                prop_assert!(!ended);
            } else if rate < LEAST_BYTES_PER_SEC * 9 / 10 {
                prop_assert!(ended);
            }
        }
    }
}
