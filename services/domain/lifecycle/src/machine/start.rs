//! The first event of every life: what runs is held against what was meant to run.

use pitstop_types::{EcuId, SlotName, UpdateEnd};

use crate::{Boot, Direction, Failure, Phase, Record, StepState};

impl Record {
    /// What runs is compared with what was meant to run. See the table for what may come of it.
    pub(super) fn on_started(&mut self, boot: Boot) -> Phase {
        let restarted = self.boot().is_none_or(|last| last.boot_id != boot.boot_id);
        let phase = self.phase;
        let Some(slots) = self.slots.clone() else {
            self.remember(boot);
            return if phase == Phase::Unknown { self.adopt(false) } else { phase };
        };
        let new = boot.slot == slots.new;
        let (found, reason) = (boot.slot.clone(), boot.reason.clone());
        self.remember(boot);
        match phase {
            Phase::Unknown => self.adopt(!new),
            _ if phase.direction() == Direction::Prepare && new => {
                self.stop(UpdateEnd::Refused, Some(Failure::new("UnexpectedSoftware", format!("slot {found} runs"))))
            }
            Phase::Activating if new => self.undo(Failure::new("UnexpectedSoftware", format!("slot {found} runs"))),
            Phase::SwitchingSlot if new => {
                // Cut between the choice and the record of it.
                if let Some(tcu) = self.tcu_mut() {
                    tcu.state = StepState::Activated;
                }
                Phase::Trial
            }
            Phase::SwitchingSlot => {
                // The boot loader may have used up the try: a choice of an earlier boot counts for nothing.
                if restarted && let Some(tcu) = self.tcu_mut() {
                    tcu.attempt = tcu.attempt.saturating_add(1);
                }
                phase
            }
            Phase::Rebooting | Phase::Trial if new => Phase::Trial,
            Phase::Rebooting if !restarted => phase,
            Phase::Rebooting | Phase::Trial | Phase::Bootable if !new => self.fell_back(&slots.new, &reason),
            Phase::Committing if !new => self.lost_after_commit(&slots.new),
            Phase::FallenBack if new => Phase::AwaitingUndo,
            Phase::UndoRebooting if !restarted => phase,
            Phase::AwaitingUndo | Phase::Undoing | Phase::UndoRebooting => self.on_started_undoing(new),
            _ => phase,
        }
    }

    fn on_started_undoing(&mut self, new: bool) -> Phase {
        // Rolled back, and yet it runs: once more, until the phase was entered too often.
        if new
            && let Some(tcu) = self.tcu_mut()
            && tcu.state == StepState::RolledBack
        {
            tcu.state = StepState::Activated;
        }
        match self.phase {
            Phase::UndoRebooting => Phase::Undoing,
            Phase::Undoing => {
                self.order_roll_back();
                Phase::Undoing
            }
            phase => phase,
        }
    }

    /// A phase this release does not know, written by the newer one that did not start.
    fn adopt(&mut self, old_slot: bool) -> Phase {
        match self.direction {
            Direction::Final => {
                let text = "a newer release's record past its point of no return";
                self.stop(UpdateEnd::NeedsWorkshop, Some(Failure::new("FellBack", text)))
            }
            Direction::Forward if old_slot => {
                self.blame(Failure::new("FellBack", "a newer release did not finish what it began"));
                Phase::FallenBack
            }
            Direction::Prepare | Direction::Forward | Direction::Back => {
                self.undo(Failure::new("FellBack", "a newer release's record"))
            }
        }
    }

    fn fell_back(&mut self, slot: &SlotName, reason: &str) -> Phase {
        let text = if reason.is_empty() {
            format!("slot {slot} did not start, or did not come to vouch for itself")
        } else {
            format!("slot {slot} was left: {reason}")
        };
        self.blame(Failure::new("FellBack", text).of(&EcuId::tcu()));
        Phase::FallenBack
    }

    /// Past the point of no return nothing is undone; the TCU alone is left behind, and named.
    fn lost_after_commit(&mut self, slot: &SlotName) -> Phase {
        let failure = Failure::new("FellBack", format!("slot {slot} stopped starting after the commit began"));
        self.blame(failure.of(&EcuId::tcu()));
        if let Some(tcu) = self.tcu_mut() {
            tcu.state = StepState::Stuck;
        }
        Phase::Committing
    }
}
