use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an update is. The words are those of the status line, the bus and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Bundles, targets and fallbacks, are fetched and admitted.
    Fetching,
    /// Inactive banks and the inactive slot are written while the vehicle is in use.
    Staging,
    /// The prompt is shown.
    AwaitingConsent,
    /// The driver said later; asked again at [`crate::Record::due`].
    Deferred,
    /// The driver named a time; begins at [`crate::Record::due`].
    Scheduled,
    /// Consent is there; window, conditions and drive inhibit are not all there yet.
    AwaitingConditions,
    /// ECUs are switched and flashed, one after the other. From here on something has changed.
    Activating,
    /// The TCU's other slot is being chosen for the next start.
    SwitchingSlot,
    /// The TCU restarts into the new slot.
    Rebooting,
    /// The new slot runs for the first time and checks itself.
    Trial,
    /// Everything runs the new software; versions are read back. The last phase that can be undone.
    Bootable,
    /// Point of no return: ECUs, slot and floors are committed, repeated until done.
    Committing,
    /// Everything is committed.
    Committed,
    /// The boot loader returned to the old slot by itself; the other one is being marked bad.
    FallenBack,
    /// To be undone as soon as the conditions for it hold.
    AwaitingUndo,
    /// Steps are rolled back in reverse order.
    Undoing,
    /// The TCU restarts into the old slot.
    UndoRebooting,
    /// Everything that could be rolled back is; versions are read back.
    Undone,
    /// Ended without the new software; [`crate::Record::end`] says how.
    Stopped,
    /// The end is in the outbox; the driver is told and caches are released.
    Reported,
    /// Nothing is left to do.
    Ended,
    /// A phase of a newer release, read by an older one. See [`Direction`] for what is done then.
    #[serde(other)]
    Unknown,
}

/// Which way an update goes, whatever its phase is called. An older release that reads a phase it does not know
/// goes by this: before the point of no return it undoes, after it it keeps its hands off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Towards the new software, nothing changed yet: may be dropped.
    Prepare,
    /// Towards the new software, things have changed: may be undone.
    Forward,
    /// Back to the old software.
    Back,
    /// Past the point of no return, or ended.
    Final,
}

impl Phase {
    /// Every phase this release knows, in the order of a good update, then the way back, then the end.
    pub const ALL: [Self; 21] = [
        Self::Fetching,
        Self::Staging,
        Self::AwaitingConsent,
        Self::Deferred,
        Self::Scheduled,
        Self::AwaitingConditions,
        Self::Activating,
        Self::SwitchingSlot,
        Self::Rebooting,
        Self::Trial,
        Self::Bootable,
        Self::Committing,
        Self::Committed,
        Self::FallenBack,
        Self::AwaitingUndo,
        Self::Undoing,
        Self::UndoRebooting,
        Self::Undone,
        Self::Stopped,
        Self::Reported,
        Self::Ended,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Staging => "staging",
            Self::AwaitingConsent => "awaiting-consent",
            Self::Deferred => "deferred",
            Self::Scheduled => "scheduled",
            Self::AwaitingConditions => "awaiting-conditions",
            Self::Activating => "activating",
            Self::SwitchingSlot => "switching-slot",
            Self::Rebooting => "rebooting",
            Self::Trial => "trial",
            Self::Bootable => "bootable",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::FallenBack => "fallen-back",
            Self::AwaitingUndo => "awaiting-undo",
            Self::Undoing => "undoing",
            Self::UndoRebooting => "undo-rebooting",
            Self::Undone => "undone",
            Self::Stopped => "stopped",
            Self::Reported => "reported",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }

    pub fn direction(self) -> Direction {
        match self {
            Self::Fetching
            | Self::Staging
            | Self::AwaitingConsent
            | Self::Deferred
            | Self::Scheduled
            | Self::AwaitingConditions => Direction::Prepare,
            Self::Activating | Self::SwitchingSlot | Self::Rebooting | Self::Trial | Self::Bootable => {
                Direction::Forward
            }
            Self::FallenBack | Self::AwaitingUndo | Self::Undoing | Self::UndoRebooting | Self::Undone => {
                Direction::Back
            }
            Self::Committing | Self::Committed | Self::Stopped | Self::Reported | Self::Ended | Self::Unknown => {
                Direction::Final
            }
        }
    }

    /// How often a phase may be entered (a start in the middle of it counts) before the update gives up.
    /// `None`: no limit, because waiting there costs nothing and restarts nothing.
    ///
    /// 12 for what acts on ECUs or slots: far more than a vehicle sees in one update, and few enough that a TCU
    /// that crashes in a phase stops within minutes. The way back gets twice as many: giving up there means a workshop.
    pub fn entry_limit(self) -> Option<u32> {
        match self {
            Self::Staging | Self::Activating | Self::SwitchingSlot | Self::Rebooting | Self::Trial | Self::Bootable => {
                Some(12)
            }
            Self::Committing
            | Self::FallenBack
            | Self::AwaitingUndo
            | Self::Undoing
            | Self::UndoRebooting
            | Self::Undone => Some(24),
            Self::Fetching
            | Self::AwaitingConsent
            | Self::Deferred
            | Self::Scheduled
            | Self::AwaitingConditions
            | Self::Committed
            | Self::Stopped
            | Self::Reported
            | Self::Ended
            | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
