use pitstop_types::{EcuId, UnixSeconds};

use crate::{Direction, Duty, Event, Phase, Record, Role, StepState};

/// What is to be done now. Follows from the record alone; everything here must bear being done again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Fetch one bundle and have it admitted. Answer: `BundleAdmitted` or `BundleRefused`.
    Admit { ecu: EcuId, role: Role },
    /// Write the other bank or slot. Answer: `StepStaged` or `StepFailed`.
    Stage { ecu: EcuId, attempt: u32 },
    /// Show the prompt. Answer: `Answered`.
    Ask { times: u32 },
    /// Wait for window and conditions, then for the drive inhibit's acknowledgement. Answer: `Safe`.
    MakeSafe { undo: bool },
    /// Judge the conditions again, then switch or flash one ECU, or choose the TCU's slot. Answer: `StepActivated` or `StepFailed`.
    Activate { ecu: EcuId, attempt: u32 },
    /// Restart the TCU. Answer: `Started`, in another life.
    Reboot,
    /// Check the trial slot and mark it good. Answer: `MarkedGood` or `TrialFailed`.
    MarkGood,
    /// Ask every planned ECU for its version. Answer: `ReadBack`.
    ReadBack,
    /// Answer: `StepCommitted` or `StepFailed`.
    Commit { ecu: EcuId, attempt: u32 },
    /// Mark the slot that did not start as bad. Answer: `OtherSlotBad`.
    MarkOtherBad,
    /// Judge the conditions again, then bring one ECU or slot back. Answer: `StepRolledBack` or `StepFailed`.
    RollBack { ecu: EcuId, attempt: u32 },
    /// Answer: `DutyDone`.
    Do(Duty),
}

/// What `record` asks for now. Effects of one answer do not depend on each other and may run side by side.
pub fn effects(record: &Record) -> Vec<Effect> {
    match record.phase {
        Phase::Fetching => missing_bundles(record),
        Phase::Staging => record
            .steps
            .iter()
            .filter(|step| step.is_staged_ahead() && step.state == StepState::Waiting)
            .map(|step| Effect::Stage { ecu: step.ecu.clone(), attempt: step.attempt })
            .collect(),
        Phase::AwaitingConsent => {
            vec![Effect::Ask { times: record.entered.get(&Phase::AwaitingConsent).copied().unwrap_or(1) }]
        }
        Phase::AwaitingConditions => vec![Effect::MakeSafe { undo: false }],
        Phase::AwaitingUndo => vec![Effect::MakeSafe { undo: true }],
        // Nothing is activated without a stored yes, whatever a damaged record says.
        Phase::Activating | Phase::SwitchingSlot if record.consent.is_some() => record
            .next_to_activate()
            .map(|step| Effect::Activate { ecu: step.ecu.clone(), attempt: step.attempt })
            .into_iter()
            .collect(),
        Phase::Rebooting | Phase::UndoRebooting => vec![Effect::Reboot],
        Phase::Trial => vec![Effect::MarkGood],
        Phase::Bootable | Phase::Undone => vec![Effect::ReadBack],
        Phase::Committing => match record.next_to_commit() {
            Some(step) => vec![Effect::Commit { ecu: step.ecu.clone(), attempt: step.attempt }],
            None => vec![Effect::Do(Duty::Floors)],
        },
        Phase::FallenBack => vec![Effect::MarkOtherBad],
        Phase::Undoing => record
            .next_to_roll_back()
            .map(|step| Effect::RollBack { ecu: step.ecu.clone(), attempt: step.attempt })
            .into_iter()
            .collect(),
        Phase::Committed | Phase::Stopped | Phase::Reported => duties(record.phase)
            .iter()
            .filter(|duty| !record.done.contains(duty))
            .map(|duty| Effect::Do(*duty))
            .collect(),
        Phase::Activating
        | Phase::SwitchingSlot
        | Phase::Deferred
        | Phase::Scheduled
        | Phase::Ended
        | Phase::Unknown => Vec::new(),
    }
}

/// What must be done before the phase is left.
pub(crate) fn duties(phase: Phase) -> &'static [Duty] {
    match phase {
        Phase::Committed | Phase::Stopped => &[Duty::Inhibit, Duty::Report],
        Phase::Reported => &[Duty::History, Duty::Notice, Duty::Release],
        _ => &[],
    }
}

fn missing_bundles(record: &Record) -> Vec<Effect> {
    let wanted = |step: &crate::Step| {
        let ecu = step.ecu.clone();
        let missing: Vec<Role> =
            [Role::Target, Role::Fallback].into_iter().filter(|role| !step.admitted.contains(role)).collect();
        missing.into_iter().map(move |role| Effect::Admit { ecu: ecu.clone(), role })
    };
    record.steps.iter().flat_map(wanted).collect()
}

/// The next moment at which [`timer_event`] has something to say, if there is one.
pub fn next_timer(record: &Record) -> Option<UnixSeconds> {
    match record.direction {
        Direction::Prepare => {
            let due = if matches!(record.phase, Phase::Deferred | Phase::Scheduled) { record.due } else { None };
            let expiry = record.decision.install_by;
            Some(due.map_or(expiry, |due| due.min(expiry)))
        }
        Direction::Forward => record.deadline,
        Direction::Back | Direction::Final => None,
    }
}

/// What the clock says: `install_by` before anything changed, the update's own limit after it.
pub fn timer_event(record: &Record, now: UnixSeconds) -> Option<Event> {
    match record.direction {
        Direction::Prepare if now >= record.decision.install_by => Some(Event::Expired),
        Direction::Prepare => {
            let waits = matches!(record.phase, Phase::Deferred | Phase::Scheduled);
            (waits && record.due.is_none_or(|due| now >= due)).then_some(Event::Due)
        }
        Direction::Forward => record.deadline.is_some_and(|deadline| now >= deadline).then_some(Event::DeadlinePassed),
        Direction::Back | Direction::Final => None,
    }
}
