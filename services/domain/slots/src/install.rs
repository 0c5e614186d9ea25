//! One installation into the slot that is not running, as a record and the table of what may follow what.
//!
//! Write before act: a verb changes the record, the record is stored, then [`SlotRecord::effect`] says what to do and
//! [`SlotRecord::done`] is called when that has happened. After a start, [`SlotRecord::started`] puts the slot that the
//! boot loader really took beside the record; effects may come twice and must be the same twice.

use std::fmt;

use pitstop_types::{Digest, ReleaseCounter, SlotName, SoftwareVersion, UpdateId};
use serde::{Deserialize, Serialize};

use crate::{BootVars, Health};

/// How far an installation is. The words are those of `SelfUpdate.GetSlots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The target slot is being marked bad, before its first byte changes.
    Marking,
    /// The image is being written and read back.
    Writing,
    /// Written, read back and right; the boot loader does not take it yet.
    Staged,
    /// The boot loader is being told to try it once.
    Activating,
    /// The next start tries it.
    Activated,
    /// It runs for the first time and nobody has vouched for it.
    Trial,
    /// It is being marked good.
    MarkingGood,
    /// Marked good; undo is still possible, and after each start it is marked good again.
    Bootable,
    /// It is the committed slot by the record; the boot loader is being told.
    Committing,
    /// Accepted for good.
    Committed,
    /// The boot loader is being told to go back to the old slot for good.
    RollingBack,
    /// The old slot is the only one that starts; if the target still runs, a reboot is due.
    RolledBack,
    /// The boot loader went back by itself; the target is being marked bad.
    FallingBack,
    /// The boot loader went back by itself and the target is marked bad.
    FellBack,
    /// The image could not be written or did not read back; the target is marked bad.
    Failed,
}

impl Phase {
    pub const ALL: [Self; 15] = [
        Self::Marking,
        Self::Writing,
        Self::Staged,
        Self::Activating,
        Self::Activated,
        Self::Trial,
        Self::MarkingGood,
        Self::Bootable,
        Self::Committing,
        Self::Committed,
        Self::RollingBack,
        Self::RolledBack,
        Self::FallingBack,
        Self::FellBack,
        Self::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Marking => "marking",
            Self::Writing => "writing",
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Activated => "activated",
            Self::Trial => "trial",
            Self::MarkingGood => "marking-good",
            Self::Bootable => "bootable",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::FallingBack => "falling-back",
            Self::FellBack => "fell-back",
            Self::Failed => "failed",
        }
    }

    /// The installation is over; the next may begin.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack | Self::FellBack | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller may ask of an installation that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Activate,
    MarkGood,
    Commit,
    RollBack,
}

/// Why a verb is refused. The phase says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhaseError {
    #[error("update {0} has no installation in a slot")]
    NoInstallation(UpdateId),
    #[error("{verb} is not possible while the installation is {phase}")]
    NotNow { verb: &'static str, phase: Phase },
    #[error("slot {target} is the one that runs; it is never written")]
    Booted { target: SlotName },
    #[error("slot {booted} runs, but {committed} is the committed one; nothing is installed until that is settled")]
    Unsettled { booted: SlotName, committed: SlotName },
}

/// What the target slot is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotImage {
    pub version: SoftwareVersion,
    pub counter: ReleaseCounter,
    /// Length of the file-system image in bytes; the rest of the slot is not looked at.
    pub length: u64,
    /// SHA-256 over those bytes.
    pub sha256: Digest,
}

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    pub update: UpdateId,
    pub target: SlotName,
    pub image: SlotImage,
    pub phase: Phase,
}

/// All that `self-update` has to remember about its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The slot whose software was last accepted for good; at first the one that ran when the record was made.
    pub committed: SlotName,
    pub installation: Option<Installation>,
}

/// What is to be done now. Each may be done again with the same result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    MarkBad(SlotName),
    /// Write the image into the slot, make it durable, read it back and compare. Skipped when the slot holds it already.
    Write(SlotName, SlotImage),
    TryOnce(SlotName),
    MarkGood(SlotName),
    /// Make this slot the only one that starts.
    SettleOn(SlotName),
}

/// What a start has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The record has changed and is to be stored before anything else.
    pub changed: bool,
    /// This slot is the running one and proven; it is marked good early in each start, or the next start would take the other.
    pub mark_good: Option<SlotName>,
}

impl SlotRecord {
    /// The record of a unit that has never been updated and runs `booted`.
    pub fn new(booted: SlotName) -> Self {
        Self { committed: booted, installation: None }
    }

    /// Begins an installation, or says that this one is already under way or staged (`Ok(false)`).
    pub fn stage(
        &mut self,
        update: UpdateId,
        target: SlotName,
        image: SlotImage,
        booted: &SlotName,
    ) -> Result<bool, PhaseError> {
        if target == *booted {
            return Err(PhaseError::Booted { target });
        }
        if let Some(now) = &self.installation {
            let same = now.update == update && now.target == target && now.image == image;
            match now.phase {
                Phase::Marking | Phase::Writing | Phase::Staged if same => return Ok(false),
                Phase::Marking | Phase::Writing | Phase::Staged => {}
                phase if phase.is_end() => {}
                phase => return Err(PhaseError::NotNow { verb: "staging", phase }),
            }
        }
        if *booted != self.committed {
            return Err(PhaseError::Unsettled { booted: booted.clone(), committed: self.committed.clone() });
        }
        self.installation = Some(Installation { update, target, image, phase: Phase::Marking });
        Ok(true)
    }

    /// Takes the slot that runs for the committed one. Refused (`false`) while an installation is under way, or has left the running slot
    /// and waits for the restart, and where there is nothing to change. The boot loader is to be settled on the slot then.
    pub fn adopt(&mut self, booted: &SlotName) -> bool {
        let over = self.installation.as_ref().is_none_or(|now| now.phase.is_end());
        let due = *booted != self.committed && over && !self.reboot_due(booted);
        if due {
            self.committed = booted.clone();
        }
        due
    }

    /// Tries the staged slot at the next start. `Ok(false)`: it is already so.
    pub fn activate(&mut self, update: &UpdateId) -> Result<bool, PhaseError> {
        self.apply(update, Verb::Activate)
    }

    /// Vouches for the slot that is on trial. `Ok(false)`: it is already so.
    pub fn mark_good(&mut self, update: &UpdateId) -> Result<bool, PhaseError> {
        self.apply(update, Verb::MarkGood)
    }

    /// Accepts the bootable slot for good. `Ok(false)`: it is already so.
    pub fn commit(&mut self, update: &UpdateId) -> Result<bool, PhaseError> {
        self.apply(update, Verb::Commit)
    }

    /// Goes back to the old slot. `Ok(false)`: it is already so, or this update has nothing in a slot.
    pub fn roll_back(&mut self, update: &UpdateId) -> Result<bool, PhaseError> {
        match self.apply(update, Verb::RollBack) {
            Err(PhaseError::NoInstallation(_)) => Ok(false),
            other => other,
        }
    }

    fn apply(&mut self, update: &UpdateId, verb: Verb) -> Result<bool, PhaseError> {
        let Some(now) = self.installation.as_mut().filter(|now| now.update == *update) else {
            return Err(PhaseError::NoInstallation(update.clone()));
        };
        let Some(phase) = next(now.phase, verb)? else { return Ok(false) };
        now.phase = phase;
        if phase == Phase::Committing {
            // One write of the record is the commit; telling the boot loader follows from it.
            self.committed = now.target.clone();
        }
        Ok(true)
    }

    /// What the record asks for, `None` when it waits for a caller or for a start.
    pub fn effect(&self) -> Option<Effect> {
        let now = self.installation.as_ref()?;
        let target = now.target.clone();
        match now.phase {
            Phase::Marking | Phase::FallingBack => Some(Effect::MarkBad(target)),
            Phase::Writing => Some(Effect::Write(target, now.image.clone())),
            Phase::Activating => Some(Effect::TryOnce(target)),
            Phase::MarkingGood => Some(Effect::MarkGood(target)),
            Phase::Committing | Phase::RollingBack => Some(Effect::SettleOn(self.committed.clone())),
            _ => None,
        }
    }

    /// The effect has happened.
    pub fn done(&mut self) {
        let Some(now) = self.installation.as_mut() else { return };
        now.phase = match now.phase {
            Phase::Marking => Phase::Writing,
            Phase::Writing => Phase::Staged,
            Phase::Activating => Phase::Activated,
            Phase::MarkingGood => Phase::Bootable,
            Phase::Committing => Phase::Committed,
            Phase::RollingBack => Phase::RolledBack,
            Phase::FallingBack => Phase::FellBack,
            waiting => waiting,
        };
    }

    /// The image could not be written, or read back differently. The target stays marked bad.
    pub fn write_failed(&mut self) {
        if let Some(now) = self.installation.as_mut().filter(|now| now.phase == Phase::Writing) {
            now.phase = Phase::Failed;
        }
    }

    /// Puts what really runs beside the record. Called at every start of the service, which need not be a start of the TCU.
    pub fn started(&mut self, booted: &SlotName, vars: &BootVars) -> Started {
        let before = self.installation.as_ref().map(|now| now.phase);
        if let Some(now) = self.installation.as_mut() {
            now.phase = if *booted == now.target { runs(now.phase) } else { runs_not(now, vars) };
        }
        let phase = self.installation.as_ref().map(|now| now.phase);
        let proven = matches!(phase, Some(Phase::MarkingGood | Phase::Bootable)) && self.target() == Some(booted);
        // After a roll-back the committed slot is the only one that starts already; while it is being told so it is marked anyway.
        let mark_good = (proven || *booted == self.committed).then(|| booted.clone());
        Started { changed: phase != before, mark_good }
    }

    fn target(&self) -> Option<&SlotName> {
        self.installation.as_ref().map(|now| &now.target)
    }

    /// The running slot is not the one that an undo or a fall-back has left as the only good one.
    pub fn reboot_due(&self, booted: &SlotName) -> bool {
        let rolled =
            matches!(self.installation.as_ref().map(|now| now.phase), Some(Phase::RolledBack | Phase::RollingBack));
        let activated = matches!(self.installation.as_ref().map(|now| now.phase), Some(Phase::Activated));
        (rolled && *booted != self.committed) || (activated && *booted == self.committed)
    }
}

/// `None`: it is already so.
fn next(phase: Phase, verb: Verb) -> Result<Option<Phase>, PhaseError> {
    use Phase::*;
    let (name, to) = match verb {
        Verb::Activate => (
            "activating",
            match phase {
                Staged => Some(Some(Activating)),
                Activating | Activated | Trial | MarkingGood | Bootable | Committing | Committed => Some(None),
                Marking | Writing | RollingBack | RolledBack | FallingBack | FellBack | Failed => None,
            },
        ),
        Verb::MarkGood => (
            "marking good",
            match phase {
                Trial => Some(Some(MarkingGood)),
                MarkingGood | Bootable | Committing | Committed => Some(None),
                _ => None,
            },
        ),
        Verb::Commit => (
            "committing",
            match phase {
                Bootable => Some(Some(Committing)),
                Committing | Committed => Some(None),
                _ => None,
            },
        ),
        Verb::RollBack => (
            "rolling back",
            match phase {
                Marking | Writing | Staged | Activating | Activated | Trial | MarkingGood | Bootable => {
                    Some(Some(RollingBack))
                }
                RollingBack | RolledBack | FallingBack | FellBack | Failed => Some(None),
                Committing | Committed => None,
            },
        ),
    };
    to.ok_or(PhaseError::NotNow { verb: name, phase })
}

/// The target is what runs.
fn runs(phase: Phase) -> Phase {
    match phase {
        // The record was written before the boot loader was told, so the try may have come out of `Activating` too.
        Phase::Activating | Phase::Activated | Phase::Trial => Phase::Trial,
        // Somebody started a slot that is not fit to be started; what it holds is not known to be right.
        Phase::Marking | Phase::Writing | Phase::Staged => Phase::Failed,
        other => other,
    }
}

/// The old slot is what runs.
fn runs_not(now: &Installation, vars: &BootVars) -> Phase {
    match now.phase {
        Phase::Activating if vars.was_tried(&now.target) => Phase::FallingBack,
        // It was made good to be tried; if it is not good any more, the boot loader has used the try.
        Phase::Activated if vars.health(&now.target) == Health::Bad => Phase::FallingBack,
        Phase::Trial | Phase::MarkingGood | Phase::Bootable => Phase::FallingBack,
        other => other,
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
