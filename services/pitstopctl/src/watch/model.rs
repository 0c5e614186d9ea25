use std::collections::BTreeMap;

use pitstop_dbus::{StepStatus, UpdateStatus};
use serde::Serialize;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// No update runs; waiting for one.
    Waiting,
    /// The services do not answer: the TCU restarts, or they were stopped.
    Away,
    Phase {
        update: String,
        phase: String,
    },
    Blocked {
        reasons: Vec<String>,
    },
    Step(StepStatus),
    Ended {
        update: String,
        end: String,
        text: String,
    },
}

/// What was told already.
#[derive(Debug, Default)]
pub struct Model {
    /// The update that is followed.
    followed: Option<String>,
    /// Whether it was seen running.
    seen: bool,
    quiet: Quiet,
    phase: String,
    blocked: Vec<String>,
    steps: BTreeMap<String, StepStatus>,
}

/// Why there is nothing to tell.
#[derive(Debug, Default, PartialEq, Eq)]
enum Quiet {
    #[default]
    No,
    Waiting,
    Away,
}

impl Model {
    pub fn new(followed: Option<String>) -> Self {
        // One that was named is known to have begun.
        Self { seen: followed.is_some(), followed, ..Self::default() }
    }

    /// The services do not answer.
    pub fn away(&mut self) -> Vec<Event> {
        self.fall_quiet(Quiet::Away, Event::Away)
    }

    /// What is new in a picture.
    pub fn apply(&mut self, status: &UpdateStatus, steps: &[StepStatus]) -> Vec<Event> {
        let over = !self.seen && !status.end.is_empty();
        if status.update.is_empty() || over || self.followed.as_ref().is_some_and(|id| *id != status.update) {
            return if self.seen { Vec::new() } else { self.fall_quiet(Quiet::Waiting, Event::Waiting) };
        }
        (self.seen, self.quiet) = (true, Quiet::No);
        self.followed = Some(status.update.clone());
        let mut events = Vec::new();
        if self.phase != status.phase {
            self.phase.clone_from(&status.phase);
            events.push(Event::Phase { update: status.update.clone(), phase: status.phase.clone() });
        }
        if self.blocked != status.blocked {
            self.blocked.clone_from(&status.blocked);
            if !self.blocked.is_empty() {
                events.push(Event::Blocked { reasons: self.blocked.clone() });
            }
        }
        for step in steps {
            if self.steps.insert(step.ecu.clone(), step.clone()).as_ref() != Some(step) {
                events.push(Event::Step(step.clone()));
            }
        }
        if !status.end.is_empty() {
            let text = status.error_text.clone();
            events.push(Event::Ended { update: status.update.clone(), end: status.end.clone(), text });
        }
        events
    }

    /// The followed update, if the picture shows that it does not run any more.
    pub fn gone(&self, status: &UpdateStatus) -> Option<String> {
        self.followed.clone().filter(|id| self.seen && status.update != *id)
    }

    fn fall_quiet(&mut self, quiet: Quiet, event: Event) -> Vec<Event> {
        if self.quiet == quiet {
            return Vec::new();
        }
        self.quiet = quiet;
        vec![event]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::step;

    fn status(update: &str, phase: &str, end: &str) -> UpdateStatus {
        UpdateStatus { update: update.into(), phase: phase.into(), end: end.into(), ..UpdateStatus::default() }
    }

    fn phase(text: &str) -> Event {
        Event::Phase { update: "u-1".into(), phase: text.into() }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut model = Model::new(None);
        assert_eq!(model.apply(&status("", "idle", ""), &[]), [Event::Waiting]);
        assert_eq!(model.apply(&status("", "idle", ""), &[]), []);
        let steps = [step("bcm", "waiting", "", 0, 0)];
        assert_eq!(
            model.apply(&status("u-1", "fetching", ""), &steps),
            [phase("fetching"), Event::Step(steps[0].clone())]
        );
        assert_eq!(model.apply(&status("u-1", "fetching", ""), &steps), []);
        assert_eq!(model.away(), [Event::Away]);
        assert_eq!(model.away(), []);
        let steps = [step("bcm", "activating", "erasing", 1, 2)];
        assert_eq!(
            model.apply(&status("u-1", "activating", ""), &steps),
            [phase("activating"), Event::Step(steps[0].clone())]
        );
        assert_eq!(model.away(), [Event::Away]);
    }

    #[test]
    fn a_block_is_told_when_it_begins_or_changes() {
        let mut model = Model::new(None);
        let blocked = |reasons: &[&str]| UpdateStatus {
            blocked: reasons.iter().map(|r| (*r).to_owned()).collect(),
            ..status("u-1", "awaiting-conditions", "")
        };
        assert_eq!(
            model.apply(&blocked(&["a"]), &[]),
            [phase("awaiting-conditions"), Event::Blocked { reasons: vec!["a".into()] }]
        );
        assert_eq!(model.apply(&blocked(&["a"]), &[]), []);
        assert_eq!(model.apply(&blocked(&[]), &[]), []);
    }

    #[test]
    fn the_end_is_told_and_one_of_before_is_not() {
        let mut model = Model::new(None);
        assert_eq!(model.apply(&status("u-0", "ended", "all-new"), &[]), [Event::Waiting]);
        assert_eq!(model.gone(&status("u-0", "ended", "all-new")), None);
        model.apply(&status("u-1", "trial", ""), &[]);
        assert_eq!(model.gone(&status("u-1", "trial", "")), None);
        assert_eq!(model.gone(&status("", "idle", "")), Some("u-1".into()));
        let end = Event::Ended { update: "u-1".into(), end: "all-old".into(), text: String::new() };
        assert_eq!(model.apply(&status("u-1", "ended", "all-old"), &[]), [phase("ended"), end]);
    }

    #[test]
    fn a_named_update_that_ended_before_the_first_look_is_gone() {
        let mut model = Model::new(Some("u-1".into()));
        assert_eq!(model.apply(&status("u-2", "fetching", ""), &[]), []);
        assert_eq!(model.gone(&status("u-2", "fetching", "")), Some("u-1".into()));
    }
}
