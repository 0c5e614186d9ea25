use std::time::{SystemTime, UNIX_EPOCH};

use pitstop_types::UnixSeconds;

/// 2026-01-01T00:00:00Z. This software did not exist before, so a clock that shows an earlier time was never set.
const EARLIEST: UnixSeconds = 1_767_225_600;

/// The wall clock, `None` while it was not set since power came: unknown time refuses, it does not skip.
pub fn wall_clock() -> Option<UnixSeconds> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    UnixSeconds::try_from(since.as_secs()).ok().filter(|now| *now >= EARLIEST)
}
