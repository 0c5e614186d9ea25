use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pitstop_types::BusName;
use serde::Deserialize;

use crate::{Database, DatabaseError, FrameId, Layout};

/// A mapping file larger than this is refused before it is parsed.
pub const MAX_MAP_BYTES: usize = 1 << 20;
/// A mapping may name this many signals.
pub const MAX_SIGNALS: usize = 1000;
/// Age beyond which a signal counts as missing, unless the mapping says otherwise: ten periods of the usual 100 ms.
const DEFAULT_MAX_AGE_MS: u32 = 1000;

/// A signal's name: a COVESA VSS path such as `Vehicle.Speed`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct SignalName(String);

/// Why a text is not a signal's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a signal's name is a VSS path: 2 to 200 bytes, words of letters and digits joined by dots")]
pub struct SignalNameError;

/// One signal: its name, where it comes from, what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalSpec {
    pub name: SignalName,
    pub bus: BusName,
    pub frame: FrameId,
    /// Length of the message in bytes; a frame of another length is not this message.
    pub length: usize,
    pub layout: Layout,
    pub kind: Kind,
    /// Empty when the DBC file gives none.
    pub unit: String,
    /// Older than this counts as missing.
    pub max_age: Duration,
}

/// What a signal's number stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Number,
    /// True at one of the first numbers, false at one of the second, invalid at any other.
    Bool {
        true_at: Vec<f64>,
        false_at: Vec<f64>,
    },
}

/// Which DBC signals are which VSS signals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SignalMap {
    signals: BTreeMap<SignalName, SignalSpec>,
}

/// Why a mapping cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("the signal mapping has {0} bytes, at most {MAX_MAP_BYTES} are read")]
    TooLarge(usize),
    #[error("the signal mapping cannot be read")]
    Syntax(#[from] toml::de::Error),
    #[error("the signal mapping names {0} signals, at most {MAX_SIGNALS} are possible")]
    TooMany(usize),
    #[error("the signal mapping names {0} twice")]
    Twice(SignalName),
    #[error("signal {name} cannot be taken from the DBC file")]
    Database { name: SignalName, source: DatabaseError },
    #[error("signal {0}: max_age_ms is from 1 to 60000")]
    Age(SignalName),
    #[error(
        "signal {0}: true_at and false_at are for kind \"bool\" only, neither may be empty, and they share no value"
    )]
    Bool(SignalName),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    signal: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: SignalName,
    bus: BusName,
    message: String,
    signal: String,
    #[serde(default)]
    kind: EntryKind,
    true_at: Option<Vec<i64>>,
    false_at: Option<Vec<i64>>,
    max_age_ms: Option<u32>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum EntryKind {
    #[default]
    Number,
    Bool,
}

impl SignalMap {
    /// Reads a mapping (TOML) against the database it refers to.
    pub fn parse(text: &str, database: &Database) -> Result<Self, MapError> {
        if text.len() > MAX_MAP_BYTES {
            return Err(MapError::TooLarge(text.len()));
        }
        let file: File = toml::from_str(text)?;
        if file.signal.len() > MAX_SIGNALS {
            return Err(MapError::TooMany(file.signal.len()));
        }
        let mut signals = BTreeMap::new();
        for entry in file.signal {
            let spec = entry.resolve(database)?;
            let name = spec.name.clone();
            if signals.insert(name.clone(), spec).is_some() {
                return Err(MapError::Twice(name));
            }
        }
        Ok(Self { signals })
    }

    pub fn get(&self, name: &SignalName) -> Option<&SignalSpec> {
        self.signals.get(name)
    }

    /// All signals, by name.
    pub fn iter(&self) -> impl Iterator<Item = &SignalSpec> {
        self.signals.values()
    }

    /// The frames that carry a mapped signal, so that a receiver can filter.
    pub fn frames(&self, bus: &BusName) -> std::collections::BTreeSet<FrameId> {
        self.signals.values().filter(|s| s.bus == *bus).map(|s| s.frame).collect()
    }
}

impl Entry {
    fn resolve(self, database: &Database) -> Result<SignalSpec, MapError> {
        let kind = self.kind()?;
        let name = self.name;
        let wrap = |source| MapError::Database { name: name.clone(), source };
        let message = database.message(&self.message).map_err(wrap)?;
        let layout = message.layout(&self.signal).map_err(wrap)?;
        let age = self.max_age_ms.unwrap_or(DEFAULT_MAX_AGE_MS);
        if !(1..=60_000).contains(&age) {
            return Err(MapError::Age(name));
        }
        Ok(SignalSpec {
            bus: self.bus,
            frame: message.id,
            length: message.length,
            layout,
            kind,
            unit: message.unit(&self.signal).to_owned(),
            max_age: Duration::from_millis(u64::from(age)),
            name,
        })
    }

    fn kind(&self) -> Result<Kind, MapError> {
        let numbers = |list: &Option<Vec<i64>>, default: i64| -> Vec<f64> {
            list.as_ref().map_or_else(|| vec![default as f64], |l| l.iter().map(|n| *n as f64).collect())
        };
        if self.kind == EntryKind::Number {
            let lists = self.true_at.is_some() || self.false_at.is_some();
            return if lists { Err(MapError::Bool(self.name.clone())) } else { Ok(Kind::Number) };
        }
        let (true_at, false_at) = (numbers(&self.true_at, 1), numbers(&self.false_at, 0));
        if true_at.is_empty() || false_at.is_empty() || true_at.iter().any(|n| false_at.contains(n)) {
            return Err(MapError::Bool(self.name.clone()));
        }
        Ok(Kind::Bool { true_at, false_at })
    }
}

impl SignalName {
    /// Longest accepted name, in bytes.
    pub const MAX_LEN: usize = 200;

    pub fn new(text: impl Into<String>) -> Result<Self, SignalNameError> {
        let text = text.into();
        let word = |w: &str| {
            w.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
                && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let legal = text.len() <= Self::MAX_LEN && text.contains('.') && text.split('.').all(word);
        if legal { Ok(Self(text)) } else { Err(SignalNameError) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SignalName {
    type Error = SignalNameError;
    fn try_from(text: String) -> Result<Self, SignalNameError> {
        Self::new(text)
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
