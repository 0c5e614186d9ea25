//! What the vehicle's words mean for its assignment, and when it has been silent for too long.

use pitstop_types::{UnixSeconds, UpdateId};

use crate::model::{Assignment, AssignmentState, Deadlines};

/// The state that a phase of the vehicle's record stands for; none for a phase that says nothing new, or that a newer
/// vehicle knows and we do not.
pub fn phase_state(phase: &str) -> Option<AssignmentState> {
    Some(match phase {
        "fetching" => AssignmentState::Downloading,
        // Inactive banks and the inactive slot are written while the vehicle is in use: nothing has changed yet.
        "staging" => AssignmentState::Downloaded,
        "deferred" => AssignmentState::Deferred,
        "awaiting-consent" | "scheduled" | "awaiting-conditions" => AssignmentState::Waiting,
        "activating" | "switching-slot" | "fallen-back" | "awaiting-undo" | "undoing" => AssignmentState::Installing,
        "rebooting" | "trial" | "undo-rebooting" => AssignmentState::Rebooting,
        "bootable" | "committing" | "committed" | "undone" => AssignmentState::Verifying,
        _ => return None,
    })
}

/// Longest stay in `state`, in seconds; none for a state in which nobody waits for the vehicle.
pub fn limit_secs(state: AssignmentState, deadlines: &Deadlines) -> Option<u64> {
    use AssignmentState as S;
    match state {
        S::Planned => Some(deadlines.offer_secs),
        S::Offered | S::Accepted | S::Downloading => Some(deadlines.download_secs),
        S::Downloaded | S::Waiting | S::Deferred => Some(deadlines.wait_secs),
        S::Installing | S::Rebooting | S::Verifying => Some(deadlines.install_secs),
        _ => None,
    }
}

/// The moment before which an assignment must have entered `state` to count as timed out at `now`.
pub fn overdue_before(state: AssignmentState, deadlines: &Deadlines, now: UnixSeconds) -> Option<UnixSeconds> {
    let limit = i64::try_from(limit_secs(state, deadlines)?).unwrap_or(i64::MAX);
    Some(now.saturating_sub(limit))
}

/// The other update of the vehicle that has last kept `planned` from being offered, and until when; now, while it is under way.
pub fn held_up_by<'a>(
    planned: &Assignment,
    of_vehicle: &'a [Assignment],
    now: UnixSeconds,
) -> Option<(&'a UpdateId, UnixSeconds)> {
    let others = of_vehicle.iter().filter(|other| other.id != planned.id && other.offered_at.is_some());
    let until = |other: &Assignment| if other.state.is_under_way() { now } else { other.since };
    others.map(|other| (&other.id, until(other))).max_by_key(|(_, until)| *until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assignment(id: &str, state: AssignmentState, since: i64, offered_at: Option<i64>) -> Assignment {
        serde_json::from_value(
            json!({ "id": id, "campaign": "c-1", "vin": "WP0ZZZ99ZTS392124", "stage": 0, "state": state,
            "reason": "", "since": since, "offered_at": offered_at, "install_by": null, "claimed": null }),
        )
        .unwrap()
    }

    #[test]
    fn only_another_update_that_was_offered_holds_one_up_and_until_its_end() {
        use AssignmentState as S;
        let planned = assignment("u-1", S::Planned, 5, None);
        let by = |others: &[Assignment]| held_up_by(&planned, others, 100).map(|(id, until)| (id.to_string(), until));
        let never = [planned.clone(), assignment("u-2", S::Planned, 7, None), assignment("u-3", S::Cancelled, 8, None)];
        assert_eq!(by(&never), None);
        let ended = assignment("u-4", S::Declined, 60, Some(10));
        assert_eq!(by(&[ended.clone(), assignment("u-5", S::Succeeded, 50, Some(9))]), Some(("u-4".into(), 60)));
        assert_eq!(by(&[assignment("u-6", S::Deferred, 20, Some(11)), ended]), Some(("u-6".into(), 100)));
    }

    #[test]
    fn only_open_states_time_out_and_only_after_their_limit() {
        let deadlines = Deadlines { offer_secs: 10, download_secs: 20, wait_secs: 30, install_secs: 40 };
        for state in AssignmentState::ALL {
            let may = !state.is_end() && state != AssignmentState::Excluded;
            assert_eq!(overdue_before(state, &deadlines, 1000).is_some(), may, "{state}");
        }
        assert_eq!(overdue_before(AssignmentState::Planned, &deadlines, 110), Some(100));
        assert_eq!(overdue_before(AssignmentState::Installing, &deadlines, 110), Some(70));
        // A clock that was set back times nobody out.
        assert_eq!(overdue_before(AssignmentState::Planned, &deadlines, i64::MIN), Some(i64::MIN));
    }

    #[test]
    fn every_phase_of_a_running_update_is_known() {
        use pitstop_lifecycle::Phase;
        for phase in Phase::ALL {
            let ending = matches!(phase, Phase::Stopped | Phase::Reported | Phase::Ended);
            assert_eq!(phase_state(phase.as_str()).is_none(), ending, "{phase}");
        }
    }

    #[test]
    fn no_phase_means_an_end() {
        for phase in ["succeeded", "all-new", "failed", "", "x"] {
            assert_eq!(phase_state(phase), None);
        }
    }
}
