use std::fmt;

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use pitstop_types::UnixSeconds;

const MINUTES_A_DAY: u32 = 24 * 60;
/// Monday first.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A time of day, in a place: `window("22:00-06:00", "Europe/Berlin")`, with a third text for the days
/// (`"Mon-Fri"`, `"Sat,Sun"`). The start belongs to it, the end does not; one that ends before it starts goes over
/// midnight and belongs to the day it starts on. Local clock time decides, so a change to summer time shortens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Minutes since local midnight.
    from: u32,
    to: u32,
    zone: TimeZone,
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
        let zone = TimeZone::get(zone).map_err(|_| WindowError::Zone)?;
        Ok(Self { from, to, zone, days: days.map_or(Ok([true; 7]), parse_days)? })
    }

    /// Whether `now` lies in it, and the local time for the reason. `None`: no such time.
    pub fn contains(&self, now: UnixSeconds) -> Option<(bool, String)> {
        let local = Timestamp::from_second(now).ok()?.to_zoned(self.zone.clone());
        let (hour, minute) = (u32::from(local.hour().unsigned_abs()), u32::from(local.minute().unsigned_abs()));
        let minutes = hour * 60 + minute;
        let today = local.weekday();
        let inside = if self.from < self.to {
            self.on(today) && (self.from..self.to).contains(&minutes)
        } else {
            (self.on(today) && minutes >= self.from) || (self.on(today.previous()) && minutes < self.to)
        };
        Some((inside, format!("{} {hour:02}:{minute:02} in {}", name(today), self.zone())))
    }

    fn on(&self, day: Weekday) -> bool {
        self.days.get(usize::from(day.to_monday_zero_offset().unsigned_abs())).copied().unwrap_or(false)
    }

    fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or_default()
    }
}

fn name(day: Weekday) -> &'static str {
    DAYS.get(usize::from(day.to_monday_zero_offset().unsigned_abs())).copied().unwrap_or_default()
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
    let day = |text: &str| DAYS.iter().position(|name| *name == text).ok_or(WindowError::Days);
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
        write!(f, "window(\"{}-{}\", \"{}\"", clock(self.from), clock(self.to), self.zone())?;
        if self.days != [true; 7] {
            let on: Vec<_> = DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(n, _)| *n).collect();
            write!(f, ", \"{}\"", on.join(","))?;
        }
        f.write_str(")")
    }
}
