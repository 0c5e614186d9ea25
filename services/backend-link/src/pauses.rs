//! How often the broker, and whoever speaks through it, may make this vehicle do something: pure, with the time given.

use std::time::Duration;

use pitstop_runtime::Backoff;
use tokio::time::Instant;

/// A session that stood so long was a success. One that ended sooner costs as much as a failure: a TLS handshake signed by the TPM, and the radio.
const STEADY: Duration = Duration::from_secs(60);
/// Full jitter may choose zero; a broker that drops us at once must still not be asked in a tight loop.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The pause after the first hint: hints closer together than this become one.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// The longest pause between two hints. Each makes the vehicle ask both repositories, so a flooding broker gets two checks a minute, and a true hint in
/// the flood is late by half a minute at most.
const LAST_GAP: Duration = Duration::from_secs(30);
/// After so long without a hint the flood is over: longer than the longest pause, or it would never grow that long.
const QUIET: Duration = Duration::from_secs(60);
/// A poll so young answers for a session that begins, up to this moment; what changed since is found at its end.
const CONNECT_POLL_GAP: Duration = Duration::from_secs(10);

/// Pauses between sessions with the broker.
#[derive(Debug, Clone)]
pub struct Reconnect {
    backoff: Backoff,
    joined: Option<Instant>,
}

impl Reconnect {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, joined: None }
    }

    /// A session begins.
    pub fn joined(&mut self, now: Instant) {
        self.joined = Some(now);
    }

    /// A session or a try ended; returns the pause before the next try. `refused` says that the broker does not want this device.
    pub fn lost(&mut self, now: Instant, refused: bool, random: u32) -> Duration {
        if self.joined.take().is_some_and(|joined| now.saturating_duration_since(joined) >= STEADY) {
            self.backoff.reset();
        }
        if refused {
            // Credentials do not become right by asking again soon.
            self.backoff.escalate();
        }
        self.backoff.next(random).max(MIN_PAUSE)
    }
}

/// Which hint is said when.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    waiting: Option<(&'static str, Instant)>,
    /// When the last hint was said, and how long the next one waits after it.
    last: Option<(Instant, Duration)>,
}

impl Hints {
    /// A hint came. After quiet it is due at once; in a flood at the end of the pause, and the newest of those that wait is said.
    pub fn came(&mut self, now: Instant, kind: &'static str) {
        let free = self.last.map_or(now, |(said, gap)| said + gap).max(now);
        let due = self.waiting.map_or(free, |(_, due)| due);
        self.waiting = Some((kind, due));
    }

    /// When a hint is to be said.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.map(|(_, due)| due)
    }

    /// The hint to say now, if one waits.
    pub fn say(&mut self, now: Instant) -> Option<&'static str> {
        let (kind, _) = self.waiting.take()?;
        let flood = self.last.filter(|(said, _)| now.saturating_duration_since(*said) < QUIET);
        let gap = flood.map_or(FIRST_GAP, |(_, gap)| gap.saturating_mul(2).min(LAST_GAP));
        self.last = Some((now, gap));
        Some(kind)
    }
}

/// When to ask the backend after a session has begun: at once, or if it was asked just before, a little later.
pub fn poll_after_connect(now: Instant, last_poll: Option<Instant>, random: u32) -> Instant {
    last_poll.map_or(now, |last| (last + pitstop_runtime::spread(CONNECT_POLL_GAP, random)).max(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reconnect() -> Reconnect {
        Reconnect::new(Backoff::new(SECOND, SECOND * 600))
    }

    #[test]
    fn a_broker_that_drops_us_after_its_welcome_is_asked_less_and_less() {
        let (mut reconnect, mut now) = (reconnect(), Instant::now());
        let pauses = (0..12).map(|_| {
            reconnect.joined(now);
            now += SECOND;
            reconnect.lost(now, false, u32::MAX).as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn a_session_that_stood_for_a_minute_makes_the_next_try_soon() {
        let (mut reconnect, now) = (reconnect(), Instant::now());
        for _ in 0..10 {
            reconnect.lost(now, true, u32::MAX);
        }
        assert_eq!(reconnect.lost(now, true, u32::MAX), SECOND * 600);
        reconnect.joined(now);
        assert_eq!(reconnect.lost(now + SECOND * 59, false, u32::MAX), SECOND * 600);
        reconnect.joined(now);
        assert_eq!(reconnect.lost(now + SECOND * 60, false, u32::MAX), SECOND);
        // The same session does not count twice.
        assert_eq!(reconnect.lost(now + SECOND * 300, false, u32::MAX), SECOND * 2);
        assert_eq!(reconnect.lost(now, false, 0), MIN_PAUSE);
    }

    #[test]
    fn a_hint_after_quiet_is_due_at_once() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        assert_eq!((hints.due(), hints.say(now)), (None, None));
        for minute in [0, 1, 2, 5] {
            let now = now + SECOND * 60 * minute;
            hints.came(now, "offer");
            assert_eq!(hints.due(), Some(now));
            assert_eq!(hints.say(now), Some("offer"));
        }
        // And the next one soon after it, for quiet ends a flood.
        let now = now + SECOND * 300;
        hints.came(now, "cancel");
        assert_eq!(hints.due(), Some(now + FIRST_GAP));
    }

    #[test]
    fn under_a_flood_the_pause_grows_and_the_last_hint_is_not_lost() {
        let (mut hints, start) = (Hints::default(), Instant::now());
        let mut said = Vec::new();
        for tenth in 0..1500u32 {
            let now = start + SECOND / 10 * tenth;
            hints.came(now, if tenth == 1499 { "cancel" } else { "offer" });
            if hints.due().is_some_and(|due| due <= now) {
                hints.say(now);
                said.push((now - start).as_secs());
            }
        }
        assert_eq!(said, [0, 1, 3, 7, 15, 31, 61, 91, 121]);
        assert_eq!(hints.due(), Some(start + SECOND * 151));
        assert_eq!(hints.say(start + SECOND * 151), Some("cancel"));
    }

    #[test]
    fn a_session_that_begins_asks_unless_it_was_asked_just_before() {
        let now = Instant::now();
        assert_eq!(poll_after_connect(now, None, 0), now);
        assert_eq!(poll_after_connect(now + SECOND * 60, Some(now), u32::MAX), now + SECOND * 60);
        let soon = poll_after_connect(now + SECOND, Some(now), u32::MAX / 2);
        assert!(soon > now + SECOND * 9 && soon < now + SECOND * 11);
    }

    proptest! {
        #[test]
        fn every_hint_is_said_and_never_later_than_the_longest_pause(waits in prop::collection::vec(0u64..90_000, 1..60)) {
            let (mut hints, mut now) = (Hints::default(), Instant::now());
            for wait in waits {
                let next = now + Duration::from_millis(wait);
                if let Some(due) = hints.due().filter(|due| *due <= next) {
                    prop_assert!(hints.say(due).is_some());
                }
                now = next;
                hints.came(now, "offer");
                prop_assert!(hints.due().is_some_and(|due| due >= now && due <= now + LAST_GAP));
            }
        }
    }
}
