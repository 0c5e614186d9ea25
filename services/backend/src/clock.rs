//! The wall clock as a value, so that tests move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pitstop_types::UnixSeconds;

/// Tells the time in Unix seconds.
#[derive(Debug, Clone)]
pub enum Clock {
    System,
    /// Stands still until somebody moves it.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn now(&self) -> UnixSeconds {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            }
            Self::Manual(at) => at.load(Ordering::Relaxed),
        }
    }
}

/// `now` and a duration later, without overflow.
pub fn later(now: UnixSeconds, secs: u64) -> UnixSeconds {
    now.saturating_add(i64::try_from(secs).unwrap_or(i64::MAX))
}
