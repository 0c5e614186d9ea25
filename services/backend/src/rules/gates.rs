//! When a campaign stops by itself and when its next stage opens.

use std::collections::BTreeMap;

use crate::model::{AssignmentState, Campaign, Gate, StopRule};

/// How many assignments are in each state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts(pub BTreeMap<AssignmentState, u64>);

impl Counts {
    fn sum(&self, of: impl Fn(AssignmentState) -> bool) -> u64 {
        self.0.iter().filter(|(state, _)| of(**state)).map(|(_, count)| count).sum()
    }

    pub fn of(&self, state: AssignmentState) -> u64 {
        self.0.get(&state).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Ended in any way but by the operator.
    pub fn finished(&self) -> u64 {
        self.sum(|s| s.is_end() && !matches!(s, AssignmentState::Cancelled | AssignmentState::Superseded))
    }

    pub fn failures(&self) -> u64 {
        self.sum(AssignmentState::is_failure)
    }

    /// What an abort ends.
    pub fn recallable(&self) -> u64 {
        self.sum(AssignmentState::may_be_recalled)
    }

    /// Neither ended nor excluded.
    pub fn open(&self) -> u64 {
        self.sum(|state| !state.is_end() && state != AssignmentState::Excluded)
    }
}

/// Why the campaign is to be paused now, if it is.
pub fn stop_reason(rule: &StopRule, campaign: &Campaign, counts: &Counts) -> Option<String> {
    let failures = counts.failures().saturating_sub(campaign.acknowledged_failures);
    let finished = counts.finished().saturating_sub(campaign.acknowledged_finished);
    if failures == 0 {
        return None;
    }
    if failures >= rule.max_failures {
        return Some(format!("stop rule: {failures} failures, limit {}", rule.max_failures));
    }
    let over = failures.saturating_mul(100) > finished.saturating_mul(u64::from(rule.max_failure_percent));
    (finished >= rule.min_finished && over).then(|| {
        format!("stop rule: {failures} failures among {finished} finished, limit {} %", rule.max_failure_percent)
    })
}

/// May the stage after the one with these counts open?
pub fn may_open_next(gate: &Gate, counts: &Counts) -> bool {
    shut_reason(gate, counts).is_none()
}

/// Why the stage after the one with these counts stays shut, if it does.
///
/// Vehicles that could not have the update, or whose driver or operator did not want it, say nothing about it: they are neither waited
/// for nor counted. Where nobody else is left, nothing has shown that the update is good, and a gate that asks for that stays shut.
pub fn shut_reason(gate: &Gate, counts: &Counts) -> Option<String> {
    let asks = gate.min_successes > 0 || gate.min_success_percent > 0;
    if !asks || counts.total() == 0 {
        return None;
    }
    let eligible = counts.sum(AssignmentState::tells_of_the_update);
    if eligible == 0 {
        let states: Vec<String> = counts.0.iter().map(|(state, count)| format!("{count} {state}")).collect();
        return Some(format!("gate: nobody is left who could show that the update is good: {}", states.join(", ")));
    }
    let successes = counts.of(AssignmentState::Succeeded);
    // A share alone asks for one too: a share of nothing is no share.
    let needed = gate.min_successes.min(eligible).max(1);
    if successes < needed {
        return Some(format!("gate: {successes} successes, {needed} needed, {} vehicles to come", counts.open()));
    }
    let finished = successes.saturating_add(counts.failures());
    let bad = successes.saturating_mul(100) < finished.saturating_mul(u64::from(gate.min_success_percent));
    let percent = gate.min_success_percent;
    bad.then(|| format!("gate: {successes} successes among {finished} finished, {percent} % needed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use AssignmentState::{
        Cancelled, Declined, Excluded, Failed, Installing, Planned, RolledBack, Succeeded, Superseded, TimedOut,
    };

    fn counts(of: &[(AssignmentState, u64)]) -> Counts {
        Counts(of.iter().copied().collect())
    }
    fn campaign(seen: (u64, u64)) -> Campaign {
        let id = pitstop_types::CampaignId::new("c").unwrap();
        let spec = serde_json::from_str(r#"{"name":"x","release":"r"}"#).unwrap();
        Campaign {
            id,
            spec,
            state: crate::model::CampaignState::Running,
            reason: String::new(),
            created_at: 0,
            started_at: None,
            ended_at: None,
            open_stages: 1,
            acknowledged_failures: seen.0,
            acknowledged_finished: seen.1,
            resumed_at: None,
        }
    }
    const RULE: StopRule = StopRule { max_failure_percent: 5, min_finished: 20, max_failures: 8 };

    #[test]
    fn the_rate_is_over_the_finished_not_over_all() {
        let early = counts(&[(Succeeded, 17), (Failed, 2), (Planned, 20_000)]);
        assert_eq!(stop_reason(&RULE, &campaign((0, 0)), &early), None, "sample too small");
        let enough = counts(&[(Succeeded, 18), (Failed, 1), (TimedOut, 1), (Planned, 20_000)]);
        assert!(stop_reason(&RULE, &campaign((0, 0)), &enough).is_some());
        let fine = counts(&[(Succeeded, 95), (RolledBack, 5)]);
        assert_eq!(stop_reason(&RULE, &campaign((0, 0)), &fine), None, "exactly the limit is not over it");
    }

    #[test]
    fn the_absolute_cap_needs_no_sample_and_a_decline_is_no_failure() {
        let capped = counts(&[(Failed, 8)]);
        assert!(stop_reason(&StopRule { min_finished: 1000, ..RULE }, &campaign((0, 0)), &capped).is_some());
        let declined = counts(&[(Declined, 500), (Cancelled, 9)]);
        assert_eq!(stop_reason(&RULE, &campaign((0, 0)), &declined), None);
    }

    #[test]
    fn a_resumed_campaign_counts_from_what_the_operator_had_seen() {
        let seen = counts(&[(Failed, 8), (Succeeded, 20)]);
        assert_eq!(stop_reason(&RULE, &campaign((8, 28)), &seen), None);
        let more = counts(&[(Failed, 16), (Succeeded, 20)]);
        assert!(stop_reason(&RULE, &campaign((8, 28)), &more).is_some());
    }

    #[test]
    fn a_gate_waits_for_proven_success_and_a_small_stage_needs_all_of_its_vehicles() {
        let gate = Gate { min_successes: 10, min_success_percent: 90 };
        assert!(!may_open_next(&gate, &counts(&[(Succeeded, 9), (Installing, 3)])));
        assert!(may_open_next(&gate, &counts(&[(Succeeded, 10), (Installing, 3)])));
        assert!(!may_open_next(&gate, &counts(&[(Succeeded, 10), (Failed, 3)])));
        assert!(may_open_next(&gate, &counts(&[(Succeeded, 2), (Excluded, 3)])));
        assert!(!may_open_next(&gate, &counts(&[(Succeeded, 1), (Planned, 1)])));
        assert!(may_open_next(&gate, &counts(&[])));
    }

    #[test]
    fn a_share_of_successes_needs_somebody_who_has_finished() {
        let gate = Gate { min_successes: 0, min_success_percent: 95 };
        assert!(!may_open_next(&gate, &counts(&[(Planned, 10)])));
        assert!(!may_open_next(&gate, &counts(&[(Installing, 9), (Declined, 1)])));
        assert!(may_open_next(&gate, &counts(&[(Installing, 9), (Succeeded, 1)])));
        assert!(!may_open_next(&gate, &counts(&[(Installing, 8), (Succeeded, 1), (TimedOut, 1)])));
        assert!(may_open_next(&gate, &counts(&[])), "nobody to wait for");
    }

    #[test]
    fn a_stage_in_which_nobody_tells_of_the_update_opens_only_a_gate_that_asks_for_nothing() {
        for gate in [
            Gate { min_successes: 3, min_success_percent: 95 },
            Gate { min_successes: 1, min_success_percent: 0 },
            Gate { min_successes: 0, min_success_percent: 95 },
        ] {
            for left_out in [Declined, Cancelled, Superseded, Excluded] {
                let reason = shut_reason(&gate, &counts(&[(left_out, 4)])).unwrap();
                assert!(reason.contains(&format!("4 {left_out}")), "{reason}");
                assert!(may_open_next(&gate, &counts(&[(left_out, 4), (Succeeded, 1)])), "{left_out}");
            }
            assert_eq!(shut_reason(&gate, &counts(&[])), None, "no vehicle of the campaign is in the stage");
        }
        assert!(may_open_next(&Gate::default(), &counts(&[(Declined, 4)])));
    }

    #[test]
    fn a_shut_gate_says_what_it_waits_for() {
        let gate = Gate { min_successes: 2, min_success_percent: 90 };
        let reason = |of: &[_]| shut_reason(&gate, &counts(of)).unwrap();
        assert_eq!(
            reason(&[(Succeeded, 1), (Installing, 2), (Failed, 1)]),
            "gate: 1 successes, 2 needed, 2 vehicles to come"
        );
        assert_eq!(reason(&[(Succeeded, 2), (Failed, 1)]), "gate: 2 successes among 3 finished, 90 % needed");
    }

    #[test]
    fn a_vehicle_that_did_not_want_it_keeps_no_gate_closed() {
        let gate = Gate { min_successes: 3, min_success_percent: 90 };
        for unwilling in [Declined, Cancelled, Superseded] {
            assert!(may_open_next(&gate, &counts(&[(Succeeded, 2), (unwilling, 1)])), "{unwilling}");
            assert!(!may_open_next(&gate, &counts(&[(Succeeded, 1), (unwilling, 1), (Planned, 1)])), "{unwilling}");
            assert!(!may_open_next(&gate, &counts(&[(Succeeded, 2), (unwilling, 1), (Failed, 1)])), "{unwilling}");
        }
    }
}
