//! What is allowed, grouped by event. Everything that does not stand here is refused.

use crate::{EventKind, Phase};

/// One allowed transition. `when` says which data of the record choose it where an event can lead to several phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub from: Phase,
    pub to: Phase,
    pub when: &'static str,
}

/// All transitions one kind of event may cause.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub event: EventKind,
    pub rules: &'static [Rule],
}

/// `Event: From => To "when", ...;` for every event. `From` alone, after `stay`, means that the phase stays.
macro_rules! table {
    ($($event:ident: $($($from:ident)|+ => $to:ident $when:literal),+;)+) => {
        &[$(Rules {
            event: EventKind::$event,
            rules: &[$($(Rule { from: Phase::$from, to: Phase::$to, when: $when }),+),+],
        }),+]
    };
}

/// The table. A transition to the phase it comes from changes data (a step, an attempt), not the phase.
#[rustfmt::skip]
pub const TABLE: &[Rules] = table! {
    BundleAdmitted:
        Fetching => Fetching "others are missing",
        Fetching => Staging "all are admitted",
        Fetching => AwaitingConsent "all are admitted, only single banks change";
    BundleRefused:
        Fetching => Stopped "refused";
    StepStaged:
        Staging => Staging "others are being staged",
        Staging => AwaitingConsent "all are staged";
    AnsweredNow:
        AwaitingConsent | Deferred | Scheduled => AwaitingConditions "";
    AnsweredAt:
        AwaitingConsent | Deferred | AwaitingConditions => Scheduled "",
        Scheduled => Scheduled "another time";
    AnsweredLater:
        AwaitingConsent | Scheduled | AwaitingConditions => Deferred "",
        Deferred => Deferred "later still";
    AnsweredNo:
        AwaitingConsent | Deferred | Scheduled | AwaitingConditions => Stopped "declined";
    Due:
        Deferred => AwaitingConsent "ask again",
        Scheduled => AwaitingConditions "";
    Safe:
        AwaitingConditions => Activating "an ECU is first",
        AwaitingConditions => SwitchingSlot "only the TCU changes",
        AwaitingUndo => Undoing "something is to be rolled back",
        AwaitingUndo => Undone "nothing is left to roll back";
    StepActivated:
        Activating => Activating "another ECU is next",
        Activating => SwitchingSlot "the TCU is next",
        Activating => Bootable "the TCU does not change",
        SwitchingSlot => Rebooting "";
    MarkedGood:
        Trial => Bootable "";
    ReadBack:
        Bootable => Committing "all as planned",
        Bootable => AwaitingUndo "a version differs",
        Undone => Stopped "all old, or needs workshop";
    StepCommitted:
        Committing => Committing "";
    DutyDone:
        Committing => Committed "floors raised, all committed",
        Committing => Stopped "an ECU could not be committed",
        Committed => Committed "", Committed => Reported "in the outbox",
        Stopped => Stopped "", Stopped => Reported "in the outbox",
        Reported => Reported "", Reported => Ended "all done";
    StepFailed:
        Staging => Staging "try again", Staging => Stopped "too many failures",
        Activating => Activating "try again", Activating => AwaitingUndo "too many failures",
        SwitchingSlot => SwitchingSlot "try again", SwitchingSlot => AwaitingUndo "too many failures",
        Committing => Committing "try again, or give this one up",
        Undoing => Undoing "try again, or give this one up", Undoing => Undone "given up, none is left";
    TrialFailed:
        Trial => AwaitingUndo "unfit";
    StepRolledBack:
        Undoing => Undoing "another is next",
        Undoing => UndoRebooting "the TCU runs the new slot",
        Undoing => Undone "none is left";
    OtherSlotBad:
        FallenBack => AwaitingUndo "";
    Cancelled:
        Fetching | Staging | AwaitingConsent | Deferred | Scheduled | AwaitingConditions => Stopped "cancelled",
        Activating | SwitchingSlot | Rebooting | Trial | Bootable => AwaitingUndo "cancelled";
    Superseded:
        Fetching | Staging | AwaitingConsent | Deferred | Scheduled | AwaitingConditions => Stopped "superseded";
    Expired:
        Fetching | Staging | AwaitingConsent | Deferred | Scheduled | AwaitingConditions => Stopped "expired";
    DeadlinePassed:
        Activating | SwitchingSlot | Rebooting | Trial | Bootable => AwaitingUndo "too late";
    TooOften:
        Staging => Stopped "gives up",
        Activating | SwitchingSlot | Rebooting | Trial | Bootable => AwaitingUndo "gives up",
        Committing => Stopped "gives up",
        FallenBack | AwaitingUndo | Undoing | UndoRebooting => Undone "gives up",
        Undone => Stopped "gives up";
    Started:
        Fetching => Fetching "", Staging => Staging "", AwaitingConsent => AwaitingConsent "",
        Deferred => Deferred "", Scheduled => Scheduled "", AwaitingConditions => AwaitingConditions "",
        Fetching | Staging | AwaitingConsent | Deferred | Scheduled | AwaitingConditions => Stopped "another slot runs than planned for",
        Activating => Activating "", Activating => AwaitingUndo "another slot runs than planned for",
        SwitchingSlot => SwitchingSlot "old slot", SwitchingSlot => Trial "new slot",
        Rebooting => Rebooting "not restarted yet", Rebooting => Trial "new slot", Rebooting => FallenBack "old slot after a restart",
        Trial => Trial "new slot", Trial => FallenBack "old slot",
        Bootable => Bootable "new slot", Bootable => FallenBack "old slot",
        Committing => Committing "",
        FallenBack => FallenBack "old slot", FallenBack => AwaitingUndo "new slot",
        AwaitingUndo => AwaitingUndo "", Undoing => Undoing "",
        UndoRebooting => UndoRebooting "not restarted yet", UndoRebooting => Undoing "restarted",
        Undone => Undone "", Committed => Committed "", Stopped => Stopped "", Reported => Reported "", Ended => Ended "",
        Unknown => AwaitingUndo "a newer release's phase before its point of no return",
        Unknown => FallenBack "the same, and its slot did not start",
        Unknown => Stopped "a newer release's phase after its point of no return";
};

/// The rules for `event` in `phase`; empty if it is not allowed.
pub fn rules(phase: Phase, event: EventKind) -> impl Iterator<Item = &'static Rule> {
    TABLE
        .iter()
        .filter(move |group| group.event == event)
        .flat_map(|group| group.rules)
        .filter(move |rule| rule.from == phase)
}

/// Whether `event` is allowed in `phase` at all.
pub fn allows(phase: Phase, event: EventKind) -> bool {
    rules(phase, event).next().is_some()
}

/// Whether `event` may lead from `from` to `to`.
pub fn leads(from: Phase, event: EventKind, to: Phase) -> bool {
    rules(from, event).any(|rule| rule.to == to)
}
