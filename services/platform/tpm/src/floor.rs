//! The rollback floor: the lowest release counter that this TCU may still be updated to. A record on the data partition is not enough: an old
//! copy of that partition, put back, brings the old value with it. The TPM's counter goes up only.
//!
//! [`Floor`] is what users see; [`FloorCounter`] keeps it in the TPM, [`MemoryFloor`] is for tests and for a laboratory without a TPM.

#[cfg(feature = "tpm")]
mod counter;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "tpm")]
pub use counter::FloorCounter;

use crate::{KeyError, KeySettings, KeyStore};

/// Most steps of one raise. A TPM's counter endures a limited number of writes and takes some ten milliseconds for each; a release is a few
/// steps above the one before, so a longer way is a mistake in the release or its counter, and must not wear the TPM out.
pub const MAX_STEPS: u64 = 1000;

/// Keeps the floor. Both calls block: a raise in a TPM for some ten milliseconds a step.
pub trait Floor: Send + Sync {
    fn floor(&self) -> Result<u64, FloorError>;

    /// Raises it to `floor`; a lower or equal one changes nothing. After an error it stands anywhere between, and the same call goes on.
    fn raise(&self, floor: u64) -> Result<(), FloorError>;
}

/// The floor in the same TPM as the keys, made at its first use; `None` where keys are files and there is no TPM.
pub fn open(settings: &KeySettings) -> Result<Option<Arc<dyn Floor>>, FloorError> {
    match settings.store {
        KeyStore::File => Ok(None),
        KeyStore::Tpm => in_tpm(settings).map(Some),
    }
}

#[cfg(feature = "tpm")]
fn in_tpm(settings: &KeySettings) -> Result<Arc<dyn Floor>, FloorError> {
    let tcti = settings.tcti.as_deref().ok_or(FloorError::Tpm(KeyError::Missing("tcti")))?;
    Ok(Arc::new(FloorCounter::open(tcti)?))
}

#[cfg(not(feature = "tpm"))]
fn in_tpm(_: &KeySettings) -> Result<Arc<dyn Floor>, FloorError> {
    Err(FloorError::Tpm(KeyError::NoTpmSupport))
}

/// Why the floor is not known or not raised.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// Try again later: absent, busy, locked, or without room for the two indices.
    #[error("the TPM did not answer for the rollback floor")]
    Tpm(#[source] KeyError),
    #[error("the TPM holds the rollback floor's baseline, but no counter to it: somebody deleted it")]
    CounterMissing,
    #[error("the TPM holds the rollback floor's counter, but no baseline to it: somebody deleted it")]
    BaselineMissing,
    #[error("the rollback floor's baseline {baseline} is above its counter {counter}")]
    BaselineAboveCounter { baseline: u64, counter: u64 },
    #[error("TPM index {0:#x} is not the one that the rollback floor defines there")]
    Foreign(u32),
    #[error("raising the rollback floor from {from} to {to} takes more than {MAX_STEPS} steps")]
    TooManySteps { from: u64, to: u64 },
}

/// How many steps lead from `from` up to `to`.
fn steps(from: u64, to: u64) -> Result<u64, FloorError> {
    let steps = to.saturating_sub(from);
    if steps > MAX_STEPS {
        return Err(FloorError::TooManySteps { from, to });
    }
    Ok(steps)
}

/// A floor that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryFloor(AtomicU64);

impl MemoryFloor {
    pub fn new(floor: u64) -> Self {
        Self(AtomicU64::new(floor))
    }
}

impl Floor for MemoryFloor {
    fn floor(&self) -> Result<u64, FloorError> {
        Ok(self.0.load(Ordering::SeqCst))
    }

    fn raise(&self, floor: u64) -> Result<(), FloorError> {
        steps(self.floor()?, floor)?;
        self.0.fetch_max(floor, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_in_memory_goes_up_only_and_refuses_as_the_tpms_does() {
        let floor = MemoryFloor::new(2);
        floor.raise(5).unwrap();
        floor.raise(4).unwrap();
        assert_eq!(floor.floor().unwrap(), 5);
        floor.raise(5 + MAX_STEPS).unwrap();
        let refused = floor.raise(6 + 2 * MAX_STEPS);
        assert!(matches!(refused, Err(FloorError::TooManySteps { from: 1005, to: 2006 })));
        assert_eq!(floor.floor().unwrap(), 5 + MAX_STEPS);
    }
}
