use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pitstop_types::BusName;

use crate::{FrameId, Kind, SignalMap, SignalName, SignalSpec};

/// A decoded value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Number(f64),
    Bool(bool),
}

/// What is known of a signal at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// Younger than its maximum age.
    Fresh { value: Value, age: Duration },
    /// Not to be used; the reason says why.
    Unusable(Fault),
}

/// Why a signal cannot be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The vehicle's mapping has no such signal.
    Unmapped,
    /// Never received since the service started.
    NeverReceived,
    /// Received, but too long ago.
    Stale { value: Option<Value>, age: Duration, limit: Duration },
    /// The last frame carried a number that means nothing.
    Invalid { age: Duration },
}

/// The last value of every mapped signal.
#[derive(Debug, Clone)]
pub struct Signals {
    map: SignalMap,
    by_frame: BTreeMap<(BusName, FrameId), Vec<SignalName>>,
    last: BTreeMap<SignalName, Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// `None`: the frame came, the number means nothing.
    value: Option<Value>,
    at: Duration,
}

impl Signals {
    pub fn new(map: SignalMap) -> Self {
        let mut by_frame: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for spec in map.iter() {
            by_frame.entry((spec.bus.clone(), spec.frame)).or_default().push(spec.name.clone());
        }
        Self { map, by_frame, last: BTreeMap::new() }
    }

    pub fn map(&self) -> &SignalMap {
        &self.map
    }

    /// Takes a frame received at `now`. Returns whether it carried a mapped signal; a frame of the wrong length does
    /// not, so its signals go stale.
    pub fn on_frame(&mut self, bus: &BusName, frame: FrameId, data: &[u8], now: Duration) -> bool {
        let Some(names) = self.by_frame.get(&(bus.clone(), frame)) else { return false };
        let mut taken = false;
        for spec in names.iter().filter_map(|name| self.map.get(name)) {
            if data.len() == spec.length {
                self.last.insert(spec.name.clone(), Sample { value: spec.decode(data), at: now });
                taken = true;
            }
        }
        taken
    }

    /// What is known of `name` at `now`.
    pub fn read(&self, name: &SignalName, now: Duration) -> Reading {
        let Some(spec) = self.map.get(name) else { return Reading::Unusable(Fault::Unmapped) };
        let Some(sample) = self.last.get(name) else { return Reading::Unusable(Fault::NeverReceived) };
        let age = now.saturating_sub(sample.at);
        if age > spec.max_age {
            return Reading::Unusable(Fault::Stale { value: sample.value, age, limit: spec.max_age });
        }
        match sample.value {
            Some(value) => Reading::Fresh { value, age },
            None => Reading::Unusable(Fault::Invalid { age }),
        }
    }

    /// When `name` was received last, valid or not.
    pub fn received_at(&self, name: &SignalName) -> Option<Duration> {
        self.last.get(name).map(|sample| sample.at)
    }
}

impl SignalSpec {
    /// The value in a frame's bytes, `None` when the number means nothing.
    pub fn decode(&self, data: &[u8]) -> Option<Value> {
        let number = self.layout.decode(data).ok()?;
        match &self.kind {
            Kind::Number => Some(Value::Number(number)),
            Kind::Bool { true_at, .. } if true_at.contains(&number) => Some(Value::Bool(true)),
            Kind::Bool { false_at, .. } if false_at.contains(&number) => Some(Value::Bool(false)),
            Kind::Bool { .. } => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Factors such as 0.001 leave noise in the last digits; nobody needs more than six.
            Self::Number(n) => write!(f, "{}", (n * 1e6).round() / 1e6),
            Self::Bool(b) => write!(f, "{b}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmapped => f.write_str("is not a signal of this vehicle"),
            Self::NeverReceived => f.write_str("was never received"),
            Self::Stale { age, limit, .. } => {
                write!(f, "is {} ms old, at most {} ms are allowed", age.as_millis(), limit.as_millis())
            }
            Self::Invalid { .. } => f.write_str("is sent with a value that means nothing"),
        }
    }
}
