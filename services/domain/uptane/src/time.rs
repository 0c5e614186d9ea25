//! Points in time as metadata writes them.

use std::fmt;

use chrono::{DateTime, NaiveDateTime};
use pitstop_types::UnixSeconds;
use serde::{Deserialize, Serialize};

const FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";

/// A UTC time, written `YYYY-MM-DDTHH:MM:SSZ` and no other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(UnixSeconds);

/// Why a text or number is not such a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written YYYY-MM-DDTHH:MM:SSZ, between 1970 and 9999")]
pub struct TimeError;

/// The first second of the year 10000, which the format can no longer write.
const END: UnixSeconds = 253_402_300_800;

impl Time {
    /// Seconds since 1970, 0 to the end of 9999.
    pub fn from_unix(seconds: UnixSeconds) -> Result<Self, TimeError> {
        if (0..END).contains(&seconds) { Ok(Self(seconds)) } else { Err(TimeError) }
    }

    pub fn unix(self) -> UnixSeconds {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, TimeError> {
        // chrono alone would also take one-digit months and years of five digits.
        if text.len() != 20 {
            return Err(TimeError);
        }
        let seconds = NaiveDateTime::parse_from_str(text, FORMAT).map_err(|_| TimeError)?.and_utc().timestamp();
        let time = Self::from_unix(seconds)?;
        if time.to_string() == text { Ok(time) } else { Err(TimeError) }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp(self.0, 0) {
            Some(at) => write!(f, "{}", at.format(FORMAT)),
            None => write!(f, "@{}", self.0),
        }
    }
}
impl TryFrom<String> for Time {
    type Error = TimeError;
    fn try_from(text: String) -> Result<Self, TimeError> {
        Self::parse(&text)
    }
}
impl From<Time> for String {
    fn from(time: Time) -> String {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        assert_eq!(Time::parse("2026-11-22T10:30:00Z").unwrap().unix(), 1_795_343_400);
        for bad in [
            "2026-11-22T10:30:00+00:00",
            "2026-11-22 10:30:00Z",
            "2026-13-22T10:30:00Z",
            "2026-11-22T10:30:60Z",
            "+026-11-22T10:30:00Z",
            "1969-12-31T23:59:59Z",
            "",
        ] {
            assert!(Time::parse(bad).is_err(), "{bad}");
        }
        assert!(Time::from_unix(-1).is_err());
        assert!(Time::from_unix(END).is_err());
        assert_eq!(Time::from_unix(END - 1).unwrap().to_string(), "9999-12-31T23:59:59Z");
    }
}
