use std::collections::BTreeSet;

use crate::table::{TABLE, rules};
use crate::{EventKind, Phase, drawing, full_table};

#[test]
fn every_phase_and_event_as_reviewed() {
    insta::assert_snapshot!(full_table());
}

#[test]
fn the_drawing_as_reviewed() {
    insta::assert_snapshot!(drawing());
}

#[test]
fn the_table_holds_every_event_once() {
    let kinds: Vec<EventKind> = TABLE.iter().map(|group| group.event).collect();
    let unique: BTreeSet<EventKind> = kinds.iter().copied().collect();
    assert_eq!(kinds.len(), unique.len());
    assert_eq!(unique, EventKind::ALL.into_iter().collect());
}

#[test]
fn every_phase_can_be_reached_and_left() {
    for phase in Phase::ALL {
        let reached = TABLE.iter().flat_map(|g| g.rules).any(|rule| rule.to == phase && rule.from != phase);
        assert!(reached || phase == Phase::Fetching, "{phase} is never reached");
        let left = TABLE.iter().flat_map(|g| g.rules).any(|rule| rule.from == phase && rule.to != phase);
        assert!(left || phase == Phase::Ended, "{phase} is never left");
    }
}

#[test]
fn nothing_leads_back_from_the_point_of_no_return() {
    let mut seen = BTreeSet::from([Phase::Committing]);
    loop {
        let next: BTreeSet<Phase> = seen
            .iter()
            .flat_map(|phase| EventKind::ALL.into_iter().flat_map(|event| rules(*phase, event).map(|rule| rule.to)))
            .collect();
        let before = seen.len();
        seen.extend(next);
        if seen.len() == before {
            break;
        }
    }
    let allowed = [Phase::Committing, Phase::Committed, Phase::Stopped, Phase::Reported, Phase::Ended];
    assert_eq!(seen, BTreeSet::from(allowed));
}

#[test]
fn success_has_only_one_way() {
    let ways: Vec<Phase> = TABLE
        .iter()
        .flat_map(|g| g.rules)
        .filter(|r| r.to == Phase::Committed && r.from != r.to)
        .map(|r| r.from)
        .collect();
    assert_eq!(ways, [Phase::Committing]);
}
