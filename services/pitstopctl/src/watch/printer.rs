use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pitstop_dbus::StepStatus;

use super::model::Event;
use crate::view::percent;

/// How events are shown.
pub enum Printer {
    /// One JSON value per line.
    Json,
    /// Plain lines for logs and pipes; progress in tenths. The last line of each ECU, so that none is repeated.
    Lines(BTreeMap<String, String>),
    /// One live bar per ECU on standard error.
    Bars { all: MultiProgress, bars: BTreeMap<String, ProgressBar> },
}

/// A bar's length where the real total is not known.
const FULL: u64 = 100;

impl Printer {
    pub fn json() -> Self {
        Self::Json
    }

    pub fn lines() -> Self {
        Self::Lines(BTreeMap::new())
    }

    pub fn bars() -> Self {
        Self::Bars { all: MultiProgress::new(), bars: BTreeMap::new() }
    }

    pub fn print(&mut self, event: &Event) {
        match self {
            Self::Json => {
                if let Ok(line) = serde_json::to_string(event) {
                    println!("{line}");
                }
            }
            Self::Lines(last) => {
                if let Some(line) = new_line(event, last) {
                    println!("{line}");
                }
            }
            Self::Bars { all, bars } => match event {
                Event::Step(step) => {
                    let bar = bars.entry(step.ecu.clone()).or_insert_with(|| all.add(new_bar(&step.ecu)));
                    bar.set_position(position(step));
                    bar.set_message(doing(step));
                }
                other => {
                    // A bar that cannot be drawn is no reason to stop.
                    let _ = all.println(words(other));
                }
            },
        }
    }
}

fn new_bar(ecu: &str) -> ProgressBar {
    let bar = ProgressBar::new(FULL).with_prefix(ecu.to_owned());
    match ProgressStyle::with_template("{prefix:>10} [{bar:30}] {percent:>3} % {msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Per cent; a step that reached its aim is full.
fn position(step: &StepStatus) -> u64 {
    match step.state.as_str() {
        "staged" | "activated" | "committed" | "rolled-back" => FULL,
        _ => percent(step).unwrap_or(0),
    }
}

fn doing(step: &StepStatus) -> String {
    let phase =
        if step.phase.is_empty() || step.phase == step.state { String::new() } else { format!(", {}", step.phase) };
    format!("{} -> {}: {}{phase}", step.before, step.after, step.state)
}

/// The line for an event; `None` when it would repeat the ECU's last one.
fn new_line(event: &Event, last: &mut BTreeMap<String, String>) -> Option<String> {
    let line = words(event);
    let Event::Step(step) = event else { return Some(line) };
    (last.insert(step.ecu.clone(), line.clone()).as_ref() != Some(&line)).then_some(line)
}

fn words(event: &Event) -> String {
    match event {
        Event::Waiting => "No update is running; waiting for the next.".to_owned(),
        Event::Away => "The services do not answer; waiting for them (does the TCU restart?).".to_owned(),
        Event::Phase { update, phase } => format!("{update}: {phase}"),
        Event::Blocked { reasons } => format!("  blocked: {}", reasons.join("; ")),
        Event::Step(step) => {
            let tenths = percent(step).map_or_else(String::new, |percent| format!(" {} %", percent / 10 * 10));
            format!("  {}: {}{tenths}", step.ecu, doing(step))
        }
        Event::Ended { update, end, text } if text.is_empty() => format!("{update}: ended {end}"),
        Event::Ended { update, end, text } => format!("{update}: ended {end}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::step;

    #[test]
    fn lines_tell_each_tenth_once() {
        let mut last = BTreeMap::new();
        let mut text = String::new();
        let mut events = vec![Event::Waiting, Event::Phase { update: "u-1".into(), phase: "staging".into() }];
        events
            .extend([0, 5, 9, 10, 55, 59].map(|done| Event::Step(step("adas", "staging", "transferring", done, 100))));
        events.push(Event::Step(step("adas", "staged", "", 0, 0)));
        events.push(Event::Away);
        events.push(Event::Blocked { reasons: vec!["Vehicle.Speed was never received".into()] });
        events.push(Event::Ended { update: "u-1".into(), end: "all-old".into(), text: "bcm: the check failed".into() });
        for event in &events {
            if let Some(line) = new_line(event, &mut last) {
                text += &(line + "\n");
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_bar_is_full_when_its_step_is_done_and_never_more() {
        assert_eq!(position(&step("a", "activating", "", 30, 60)), 50);
        assert_eq!(position(&step("a", "activating", "", 90, 60)), 100);
        assert_eq!(position(&step("a", "waiting", "", 0, 0)), 0);
        assert_eq!(position(&step("a", "committed", "", 0, 0)), 100);
    }

    #[test]
    fn json_lines_name_their_event() {
        let line = |event: &Event| serde_json::to_string(event).unwrap();
        assert_eq!(line(&Event::Away), r#"{"event":"away"}"#);
        assert!(line(&Event::Step(step("adas", "staged", "", 0, 0))).starts_with(r#"{"event":"step","ecu":"adas""#));
    }
}
