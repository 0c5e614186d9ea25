//! Keeps progress signals to a few a second; what is not mere progress always passes.

use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_dbus::StepStatus;
use tokio::time::Instant;

/// The interface's contract: at most four times a second.
const INTERVAL: Duration = Duration::from_millis(250);

/// What was sent last, by ECU.
#[derive(Default)]
pub struct Pace(BTreeMap<String, (Instant, StepStatus)>);

impl Pace {
    /// Whether `step` is to be sent now. Another state or phase always is; the same again never.
    pub fn admits(&mut self, step: &StepStatus) -> bool {
        let now = Instant::now();
        let admitted = match self.0.get(&step.ecu) {
            None => true,
            Some((_, last)) if last == step => false,
            Some((_, last)) if last.state != step.state || last.phase != step.phase => true,
            Some((at, _)) => now.duration_since(*at) >= INTERVAL,
        };
        if admitted {
            self.0.insert(step.ecu.clone(), (now, step.clone()));
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_is_thinned_out_and_a_change_of_state_never() {
        let mut pace = Pace::default();
        let step =
            |state: &str, done| StepStatus { ecu: "bcm".into(), state: state.into(), done, ..Default::default() };
        assert!(pace.admits(&step("activating", 1)));
        assert!(!pace.admits(&step("activating", 1)));
        assert!(!pace.admits(&step("activating", 2)));
        assert!(pace.admits(&step("activated", 2)));
        tokio::time::advance(INTERVAL).await;
        assert!(pace.admits(&step("activated", 3)));
    }
}
