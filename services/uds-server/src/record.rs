//! What is remembered of a workshop's update, and what follows from it: a record, and a table without any I/O.
//!
//! `self-update` remembers what is in the slots. This record says only where it is to go: kept, or left again. So whatever is lost
//! in between, record and slots together always say what to do next.

use serde::{Deserialize, Serialize};

/// Where it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Admitted, and not known to be in a slot. What the slots say of its id is of an earlier try with the same package.
    New,
    /// In a slot; the tester decides: restart, roll back.
    Try,
    /// The new slot has been found well: mark it good and commit it.
    Keep,
    /// Leave the new slot.
    Undo,
    /// It is over, the new software stays.
    Kept,
    /// It is over, the old software stays.
    Left,
}

/// The record. Stored before what it announces is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub update: String,
    pub version: String,
    /// Of staging: a failed one is repeated under the next number.
    pub attempt: u32,
    pub wish: Wish,
    /// Why it is left, or what failed last: the error's name and text.
    #[serde(default)]
    pub error: String,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing before the tester, or a restart, does something.
    Wait,
    /// Look whether the new slot is well, and store the verdict.
    Judge,
    /// Mark the slot good and commit it.
    Keep,
    /// Mark the old slot as the only good one; restart if the new one runs.
    RollBack,
    /// Tell the validator that it is over, and store that.
    Finish { kept: bool },
}

impl Record {
    /// What record and slots together ask for. `phase`: of this update in the slots, `None` if they hold another or none.
    pub fn act(&self, phase: Option<&str>) -> Act {
        match (self.wish, phase) {
            (Wish::New | Wish::Kept | Wish::Left, _) => Act::Wait,
            (_, Some("committed")) => Act::Finish { kept: true },
            // On its way there: nothing can be undone any more.
            (_, Some("committing")) => Act::Keep,
            (_, Some("fell-back" | "falling-back")) => Act::Finish { kept: false },
            (Wish::Try, Some("trial" | "marking-good" | "bootable")) => Act::Judge,
            (Wish::Keep, Some("trial" | "marking-good" | "bootable")) => Act::Keep,
            // Also where it was rolled back already: the answer says whether a restart is still due.
            (_, Some("rolling-back" | "rolled-back")) => Act::RollBack,
            // The slots were given to another meanwhile.
            (Wish::Try, None) => Act::Finish { kept: false },
            (Wish::Undo, Some("failed") | None) | (Wish::Keep, Some("failed")) => Act::Finish { kept: false },
            // Committed, and the slots were given to another before we noted it. The validator looks what runs.
            (Wish::Keep, None) => Act::Finish { kept: true },
            (Wish::Undo, Some(_)) => Act::RollBack,
            // Staged or activated: the tester's turn.
            (Wish::Try | Wish::Keep, _) => Act::Wait,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.wish, Wish::Kept | Wish::Left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every wish and every phase of the slots' own table, as it is reviewed.
    #[test]
    fn the_table_is_as_reviewed() {
        let mut table = String::new();
        for wish in [Wish::New, Wish::Try, Wish::Keep, Wish::Undo, Wish::Kept, Wish::Left] {
            let record = Record { update: "w-1".into(), version: "2".into(), attempt: 1, wish, error: String::new() };
            let phases = pitstop_slots::Phase::ALL.map(|phase| Some(phase.as_str()));
            for phase in phases.into_iter().chain([None]) {
                table += &format!("{wish:?} {} => {:?}\n", phase.unwrap_or("-"), record.act(phase));
            }
        }
        insta::assert_snapshot!(table);
    }
}
