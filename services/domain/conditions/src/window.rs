use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Timelike, Weekday};
use chrono_tz::Tz;
use pitstop_types::UnixSeconds;

const MINUTES_A_DAY: u32 = 24 * 60;

/// A time of day, in a place: `window("22:00-06:00", "Europe/Berlin")`, with a third text for the days
/// (`"Mon-Fri"`, `"Sat,Sun"`). The start belongs to it, the end does not; one that ends before it starts goes over
/// midnight and belongs to the day it starts on. Local clock time decides, so a change to summer time shortens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Minutes since local midnight.
    from: u32,
    to: u32,
    zone: Tz,
    /// Monday first.
    days: [bool; 7],
}

/// Why a text is not a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("a window's times are \"HH:MM-HH:MM\", from 00:00 to 23:59, start and end not the same")]
    Times,
    #[error("a window's zone is an IANA name such as Europe/Berlin")]
    Zone,
    #[error("a window's days are such as Mon-Fri or Sat,Sun")]
    Days,
}

impl Window {
    pub fn parse(times: &str, zone: &str, days: Option<&str>) -> Result<Self, WindowError> {
        let (from, to) = times.split_once('-').ok_or(WindowError::Times)?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == to {
            return Err(WindowError::Times);
        }
        let zone = Tz::from_str(zone).map_err(|_| WindowError::Zone)?;
        Ok(Self { from, to, zone, days: days.map_or(Ok([true; 7]), parse_days)? })
    }

    /// Whether `now` lies in it, and the local time for the reason. `None`: no such time.
    pub fn contains(&self, now: UnixSeconds) -> Option<(bool, String)> {
        let local = DateTime::from_timestamp(now, 0)?.with_timezone(&self.zone);
        let minute = local.hour() * 60 + local.minute();
        let today = local.weekday();
        let inside = if self.from < self.to {
            self.on(today) && (self.from..self.to).contains(&minute)
        } else {
            (self.on(today) && minute >= self.from) || (self.on(today.pred()) && minute < self.to)
        };
        Some((inside, format!("{} {:02}:{:02} in {}", today, local.hour(), local.minute(), self.zone.name())))
    }

    fn on(&self, day: Weekday) -> bool {
        self.days.get(day.num_days_from_monday() as usize).copied().unwrap_or(false)
    }
}

/// `HH:MM` as minutes since midnight.
fn minutes(text: &str) -> Result<u32, WindowError> {
    let two = |t: &str| -> Result<u32, WindowError> {
        let digits = t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
        if digits { t.parse().map_err(|_| WindowError::Times) } else { Err(WindowError::Times) }
    };
    let (hours, minutes) = text.split_once(':').ok_or(WindowError::Times)?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let total = hours * 60 + minutes;
    if minutes < 60 && total < MINUTES_A_DAY { Ok(total) } else { Err(WindowError::Times) }
}

fn parse_days(text: &str) -> Result<[bool; 7], WindowError> {
    let day = |t: &str| match t {
        "Mon" => Ok(0),
        "Tue" => Ok(1),
        "Wed" => Ok(2),
        "Thu" => Ok(3),
        "Fri" => Ok(4),
        "Sat" => Ok(5),
        "Sun" => Ok(6),
        _ => Err(WindowError::Days),
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Sat-Mon goes over the end of the week.
        for offset in 0..=(last + 7 - first) % 7 {
            if let Some(slot) = days.get_mut((first + offset) % 7) {
                *slot = true;
            }
        }
    }
    Ok(days)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |m: u32| format!("{:02}:{:02}", m / 60, m % 60);
        write!(f, "window(\"{}-{}\", \"{}\"", clock(self.from), clock(self.to), self.zone.name())?;
        if self.days != [true; 7] {
            let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
            let on: Vec<_> = names.iter().zip(self.days).filter(|(_, on)| *on).map(|(n, _)| *n).collect();
            write!(f, ", \"{}\"", on.join(","))?;
        }
        f.write_str(")")
    }
}
