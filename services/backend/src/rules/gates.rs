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
///
/// Vehicles that could not have the update, or whose driver or operator did not want it, say nothing about it: they are neither waited
/// for nor counted.
pub fn may_open_next(gate: &Gate, counts: &Counts) -> bool {
    let successes = counts.of(AssignmentState::Succeeded);
    let eligible = counts.sum(AssignmentState::tells_of_the_update);
    let finished = successes.saturating_add(counts.failures());
    let enough = successes >= gate.min_successes.min(eligible);
    // A share of nothing is no share: somebody must have finished.
    let sample = gate.min_success_percent == 0 || finished >= gate.min_successes.max(1).min(eligible);
    let good = successes.saturating_mul(100) >= finished.saturating_mul(u64::from(gate.min_success_percent));
    enough && sample && good
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
    fn a_vehicle_that_did_not_want_it_keeps_no_gate_closed() {
        let gate = Gate { min_successes: 3, min_success_percent: 90 };
        for unwilling in [Declined, Cancelled, Superseded] {
            assert!(may_open_next(&gate, &counts(&[(Succeeded, 2), (unwilling, 1)])), "{unwilling}");
            assert!(!may_open_next(&gate, &counts(&[(Succeeded, 1), (unwilling, 1), (Planned, 1)])), "{unwilling}");
            assert!(!may_open_next(&gate, &counts(&[(Succeeded, 2), (unwilling, 1), (Failed, 1)])), "{unwilling}");
        }
    }
}
