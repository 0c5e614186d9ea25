use jiff::civil::Time;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _};

/// Unix seconds of what the user wrote: RFC 3339, a span from now (`+90m`, `+8h`, `+2d`), or the next `HH:MM` in `zone`.
pub fn parse(text: &str, zone: Option<&str>, now: i64) -> Result<i64, String> {
    if let Some(span) = text.strip_prefix('+') {
        return parse_span(span).and_then(|secs| now.checked_add(secs)).ok_or_else(|| wrong(text));
    }
    if let Ok(time) = Time::strptime("%H:%M", text) {
        let zone = zone.ok_or_else(|| format!("{text} in which zone? Add --zone Europe/Berlin, or write +8h"))?;
        // TZ may begin with a colon.
        let zone = TimeZone::get(zone.trim_start_matches(':')).map_err(|_| format!("{zone} is not an IANA zone"))?;
        return next(time, zone, now).ok_or_else(|| wrong(text));
    }
    text.parse::<Timestamp>().map(Timestamp::as_second).map_err(|_| wrong(text))
}

fn wrong(text: &str) -> String {
    format!("{text} is not a time; write 2026-12-01T22:30:00+01:00, 22:30 or +8h")
}

fn parse_span(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u32>().ok().map(|number| i64::from(number) * unit)
}

/// The first instant after `now` at which clocks in `zone` show `time`; a time that summer time skips is looked for on the day after.
fn next(time: Time, zone: TimeZone, now: i64) -> Option<i64> {
    let today = zone.to_datetime(Timestamp::from_second(now).ok()?).date();
    (0..3).filter_map(|days| today.checked_add(days.days()).ok()).find_map(|day| {
        let clock = zone.to_ambiguous_timestamp(day.to_datetime(time));
        if matches!(clock.offset(), AmbiguousOffset::Gap { .. }) {
            return None;
        }
        let at = clock.earlier().ok()?.as_second();
        (at > now).then_some(at)
    })
}

/// How an instant is shown.
pub fn show(unix_secs: i64) -> String {
    if unix_secs == 0 {
        return "-".to_owned();
    }
    Timestamp::from_second(unix_secs)
        .map_or_else(|_| unix_secs.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// How a span is shown.
pub fn show_span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs.div_ceil(60)),
        _ => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-07-15T20:00:00Z, 22:00 in Berlin.
    const NOW: i64 = 1_784_145_600;

    #[test]
    fn the_three_ways_to_write_a_time_are_read() {
        assert_eq!(parse("+90m", None, NOW), Ok(NOW + 5400));
        assert_eq!(parse("+2d", None, NOW), Ok(NOW + 172_800));
        assert_eq!(parse("22:30", Some("Europe/Berlin"), NOW), Ok(NOW + 1800));
        assert_eq!(parse("22:00", Some(":Europe/Berlin"), NOW), Ok(NOW + 86_400));
        assert_eq!(parse("2026-07-15T22:00:01+02:00", None, NOW), Ok(NOW + 1));
    }

    #[test]
    fn a_time_that_summer_time_skips_is_the_next_days() {
        // 2027-03-28 in Berlin: 02:00 to 03:00 does not exist. 2027-03-27T23:00:00Z is midnight there.
        assert_eq!(parse("02:30", Some("Europe/Berlin"), 1_806_188_400), Ok(1_806_188_400 + 23 * 3600 + 9000));
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "+", "+h", "+5", "+5y", "-1h", "tomorrow", "+99999999999999d"] {
            assert!(parse(text, None, NOW).unwrap_err().contains("22:30"), "{text}");
        }
        assert!(parse("22:30", None, NOW).unwrap_err().contains("--zone"));
        assert!(parse("22:30", Some("Mars"), NOW).unwrap_err().contains("IANA"));
    }

    #[test]
    fn times_are_shown_for_people() {
        assert_eq!(show(NOW), "2026-07-15 20:00:00 UTC");
        assert_eq!(show(0), "-");
        assert_eq!([show_span(45), show_span(600), show_span(7260)], ["45 s", "10 min", "2 h 1 min"]);
    }
}
