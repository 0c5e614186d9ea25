use std::time::Duration;

use pitstop_conditions::{Reading, SignalName, Signals};

/// How long after the last call the buses are still listened to. Whoever waits for a condition asks more often than that.
const LINGER: Duration = Duration::from_secs(10);
/// How long a call waits for signals after a rest: the slowest cycle of 200 ms and the time to open the bus.
pub(crate) const SETTLE: Duration = Duration::from_millis(400);

/// Whether anybody needs the signals. While nobody does, the buses are left alone, so that frames do not wake the computer.
#[derive(Debug)]
pub(crate) struct Attention {
    until: Duration,
    /// While resting: the signals that were fresh when the rest began, so that a call waits for those and for no others.
    resting: Option<Vec<SignalName>>,
}

impl Attention {
    pub(crate) fn new(now: Duration) -> Self {
        Self { until: now + LINGER, resting: None }
    }

    /// A call came: the signals to wait for before it is answered, `None` if they were listened to all along.
    pub(crate) fn call(&mut self, now: Duration) -> Option<Vec<SignalName>> {
        self.until = now + LINGER;
        self.resting.take()
    }

    /// Whether a rest begins now. Not while `held` by the drive inhibit.
    pub(crate) fn rest(&mut self, held: bool, signals: &Signals, now: Duration) -> bool {
        if held || self.resting.is_some() || now < self.until {
            return false;
        }
        let fresh = |name: &SignalName| matches!(signals.read(name, now), Reading::Fresh { .. });
        self.resting = Some(signals.map().iter().map(|spec| spec.name.clone()).filter(fresh).collect());
        true
    }

    /// When to look whether a rest begins.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.resting.is_none().then_some(self.until)
    }
}
