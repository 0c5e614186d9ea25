//! How an assignment moves: every step through one function, with its reason as a row.

use std::collections::BTreeMap;

use pitstop_types::{EcuId, UnixSeconds, UpdateEnd};
use serde_json::json;

use crate::model::{Assignment, AssignmentState, Bundle, Ecu, Event, PlanPart, Transition};
use crate::store::Change;

/// Moves `assignment` to `to` if that is allowed, and writes down why. The caller stores what is in `changes`.
pub fn step(
    assignment: &mut Assignment,
    to: AssignmentState,
    reason: impl Into<String>,
    now: UnixSeconds,
    changes: &mut Vec<Change>,
) -> bool {
    let from = assignment.state;
    if !from.may_become(to) {
        return false;
    }
    let reason = reason.into();
    log::info!("vehicle {} update {}: {from} -> {to}: {reason}", assignment.vin, assignment.id);
    let failed_at = if from.is_failure() { assignment.failed_at.unwrap_or(assignment.since) } else { now };
    assignment.failed_at = to.is_failure().then_some(failed_at);
    assignment.state = to;
    assignment.reason.clone_from(&reason);
    assignment.since = now;
    changes.push(Change::AddTransition(Transition {
        at: now,
        assignment: assignment.id.to_string(),
        campaign: assignment.campaign.to_string(),
        vin: assignment.vin.clone(),
        from,
        to,
        reason: reason.clone(),
    }));
    changes.push(Change::AddEvent(Event {
        at: now,
        vin: assignment.vin.clone(),
        kind: "transition".to_owned(),
        text: format!("{from} -> {to}: {reason}"),
        data: json!({ "update": assignment.id, "campaign": assignment.campaign, "from": from, "to": to }),
    }));
    changes.push(Change::PutAssignment(assignment.clone()));
    true
}

/// Where an assignment stands after what the vehicle proved (signed) and claimed (unsigned). `counter` is that of the last
/// manifest taken, `ecus` what it says.
pub fn settle(
    assignment: &Assignment,
    ecus: &[Ecu],
    bundles: &BTreeMap<String, Bundle>,
    counter: u64,
) -> Option<(AssignmentState, String)> {
    if assignment.plan.is_empty() {
        return None;
    }
    let proof = counter > assignment.offered_counter;
    if proof && all_run(&assignment.plan, ecus, bundles, |part| &part.target) {
        return Some((AssignmentState::Succeeded, format!("signed manifest {counter} equals the assignment")));
    }
    let claimed = assignment.claimed.as_ref()?;
    let why = [claimed.error.as_deref(), claimed.text.as_deref()];
    let why = why.into_iter().flatten().map(str::to_owned).chain(ecu_errors(&assignment.ecus));
    let why = why.collect::<Vec<_>>().join(": ");
    let state = match claimed.end {
        UpdateEnd::AllOld if proof && all_run(&assignment.plan, ecus, bundles, |part| &part.fallback) => {
            AssignmentState::RolledBack
        }
        // Neither claim is believed before a signed manifest says the same.
        UpdateEnd::AllNew | UpdateEnd::AllOld => AssignmentState::Verifying,
        UpdateEnd::NeedsWorkshop => AssignmentState::Failed,
        UpdateEnd::Declined => AssignmentState::Declined,
        UpdateEnd::Refused => AssignmentState::Refused,
        UpdateEnd::Superseded => AssignmentState::Superseded,
        UpdateEnd::Cancelled => AssignmentState::Cancelled,
        UpdateEnd::Expired => AssignmentState::TimedOut,
    };
    let words = match state {
        AssignmentState::Verifying => format!("the vehicle says {}; not proven yet", claimed.end),
        _ => format!("the vehicle says {}", claimed.end),
    };
    Some((state, if why.is_empty() { words } else { format!("{words}: {why}") }))
}

/// `bcm CheckFailed` for every ECU that names an error.
fn ecu_errors(ecus: &[serde_json::Value]) -> impl Iterator<Item = String> + '_ {
    let text = |ecu: &serde_json::Value, name: &str| ecu.get(name)?.as_str().map(str::to_owned);
    ecus.iter().filter_map(move |ecu| Some(format!("{} {}", text(ecu, "ecu")?, text(ecu, "error")?)))
}

fn all_run(
    plan: &[PlanPart],
    ecus: &[Ecu],
    bundles: &BTreeMap<String, Bundle>,
    which: impl Fn(&PlanPart) -> &String,
) -> bool {
    let find = |id: &EcuId| ecus.iter().find(|ecu| ecu.ecu == *id);
    plan.iter().all(|part| {
        let bundle = bundles.get(which(part));
        find(&part.ecu).zip(bundle).is_some_and(|(ecu, bundle)| ecu.runs(bundle))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_from_its_first_state_until_it_is_none() {
        let mut assignment: Assignment = serde_json::from_value(json!({ "id": "u-1", "campaign": "c-1", "vin": "WP0ZZZ99ZTS392124",
            "stage": 0, "state": "offered", "reason": "", "since": 1, "offered_at": 1, "install_by": null, "claimed": null }))
        .unwrap();
        let mut at = |to, now| {
            assert!(step(&mut assignment, to, "", now, &mut Vec::new()));
            assignment.failed_at
        };
        assert_eq!(at(AssignmentState::Installing, 5), None);
        assert_eq!(at(AssignmentState::TimedOut, 10), Some(10));
        assert_eq!(at(AssignmentState::Failed, 20), Some(10));
        assert_eq!(at(AssignmentState::Succeeded, 30), None);
    }
}
