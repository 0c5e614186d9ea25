//! RAUC's protocol for GRUB: `ORDER`, and per slot `X_OK` and `X_TRY`.

use pitstop_types::SlotName;

use crate::vars::{order_text, order_with_first, parse_order};
use crate::{Boot, GrubEnv, GrubEnvError, SlotPair, Why};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flags {
    /// `X_OK` is `1`: the slot was marked good, or is to be tried.
    ok: bool,
    /// `X_TRY` is not `0`: the boot script has started it since.
    tried: bool,
}

/// `ORDER`, `A_OK`, `A_TRY`, `B_OK`, `B_TRY`. A missing variable reads as the boot script's default: both in order, all flags 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubVars {
    slots: SlotPair,
    order: Vec<SlotName>,
    /// In the order of the pair.
    flags: [Flags; 2],
}

impl GrubVars {
    pub fn read(env: &GrubEnv, slots: &SlotPair) -> Self {
        let flags = slots.names().map(|slot| Flags {
            ok: env.text(&format!("{slot}_OK")) == Some("1"),
            tried: env.get(&format!("{slot}_TRY")).is_some_and(|value| value != b"0"),
        });
        Self { slots: slots.clone(), order: parse_order(env.text("ORDER"), slots), flags }
    }

    /// The variables of a unit that has run only `slot`: it alone is good.
    pub fn fresh(slot: &SlotName, slots: &SlotPair) -> Self {
        let flags = slots.names().map(|name| Flags { ok: name == slot, tried: false });
        Self { slots: slots.clone(), order: order_with_first(slot, slots), flags }
    }

    /// Puts the five variables into `env` and leaves the others alone.
    pub fn write(&self, env: &mut GrubEnv) -> Result<(), GrubEnvError> {
        env.set("ORDER", &order_text(&self.order))?;
        let bit = |set: bool| if set { "1" } else { "0" };
        for (slot, flags) in self.slots.names().into_iter().zip(self.flags) {
            env.set(&format!("{slot}_OK"), bit(flags.ok))?;
            env.set(&format!("{slot}_TRY"), bit(flags.tried))?;
        }
        Ok(())
    }

    pub fn slots(&self) -> &SlotPair {
        &self.slots
    }

    pub fn order(&self) -> &[SlotName] {
        &self.order
    }

    fn flags(&self, slot: &SlotName) -> Flags {
        let all = self.slots.names().into_iter().zip(self.flags);
        all.filter(|(name, _)| *name == slot).map(|(_, flags)| flags).next().unwrap_or_default()
    }

    fn set(&mut self, slot: &SlotName, flags: Flags) {
        for (name, old) in self.slots.names().into_iter().zip(&mut self.flags) {
            if name == slot {
                *old = flags;
            }
        }
    }

    pub(crate) fn is_good(&self, slot: &SlotName) -> bool {
        self.order.contains(slot) && self.flags(slot) == Flags { ok: true, tried: false }
    }

    pub(crate) fn was_tried(&self, slot: &SlotName) -> bool {
        self.flags(slot) == Flags { ok: true, tried: true }
    }

    pub(crate) fn set_primary(&mut self, slot: &SlotName) {
        self.order = order_with_first(slot, &self.slots);
        self.set(slot, Flags { ok: true, tried: false });
    }

    pub(crate) fn mark_good(&mut self, slot: &SlotName) {
        self.set(slot, Flags { ok: true, tried: false });
    }

    pub(crate) fn mark_bad(&mut self, slot: &SlotName) {
        self.set(slot, Flags::default());
    }

    /// Line for line what the boot script does: every slot it looks at counts as tried, the first that was marked good
    /// and not tried is taken. If there is none, tries are given back and the last resort entry takes the first marked good,
    /// which counts as tried again: if nobody vouches for it this time either, the next start is another good slot's.
    pub(crate) fn boot(&mut self) -> Boot {
        for slot in self.order.clone() {
            let before = self.flags(&slot);
            self.set(&slot, Flags { tried: true, ..before });
            if before.ok && !before.tried {
                return Boot { slot, why: Why::Preferred };
            }
        }
        for flags in &mut self.flags {
            flags.tried &= !flags.ok;
        }
        match self.order.iter().find(|slot| self.flags(slot).ok).cloned() {
            Some(slot) => {
                self.set(&slot, Flags { ok: true, tried: true });
                Boot { slot, why: Why::LastResort }
            }
            None => Boot { slot: self.order.first().unwrap_or(self.slots.names()[0]).clone(), why: Why::NoneGood },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BootVars, Health};
    use proptest::prelude::*;

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    fn pair() -> SlotPair {
        SlotPair::new(name("A"), name("B")).unwrap()
    }

    fn env(order: &str, flags: [u8; 4]) -> GrubEnv {
        let mut env = GrubEnv::default();
        env.set("ORDER", order).unwrap();
        for (key, value) in ["A_OK", "A_TRY", "B_OK", "B_TRY"].into_iter().zip(flags) {
            env.set(key, &value.to_string()).unwrap();
        }
        env
    }

    fn vars(order: &str, flags: [u8; 4]) -> BootVars {
        BootVars::Grub(GrubVars::read(&env(order, flags), &pair()))
    }

    fn boot(vars: &mut BootVars) -> String {
        let boot = vars.boot();
        format!("{} {:?}", boot.slot, boot.why)
    }

    #[test]
    fn a_new_slot_is_tried_once_and_then_the_old_one_runs_again() {
        let mut vars = vars("A B", [1, 0, 0, 0]);
        vars.try_once(&name("B")).unwrap();
        assert_eq!(vars, self::vars("B A", [1, 0, 1, 0]));
        assert_eq!(boot(&mut vars), "B Preferred");
        assert_eq!(vars.health(&name("B")), Health::Bad, "booted and not yet marked good");
        assert!(vars.was_tried(&name("B")));
        assert_eq!(boot(&mut vars), "A Preferred");
    }

    #[test]
    fn a_slot_marked_good_in_each_boot_runs_for_ever() {
        let mut vars = vars("B A", [1, 0, 1, 0]);
        for _ in 0..5 {
            assert_eq!(boot(&mut vars), "B Preferred");
            vars.mark_good(&name("B")).unwrap();
        }
    }

    #[test]
    fn power_cycles_before_the_first_mark_do_not_bring_back_what_was_settled() {
        let mut vars = vars("A B", [1, 0, 1, 0]);
        vars.settle_on(&name("B")).unwrap();
        for _ in 0..7 {
            assert!(boot(&mut vars).starts_with("B "));
        }
    }

    #[test]
    fn the_last_resort_keeps_the_only_good_slot_starting() {
        let mut vars = vars("A B", [0, 0, 1, 1]);
        for _ in 0..3 {
            assert_eq!(boot(&mut vars), "B LastResort");
            assert!(vars.was_tried(&name("B")));
        }
    }

    /// The power goes in the start after a fall-back: the slot that failed is started once more, but nobody may take it for one
    /// that was vouched for, and the good one is next.
    #[test]
    fn the_last_resort_vouches_for_nobody() {
        let mut vars = vars("B A", [1, 0, 1, 0]);
        assert_eq!(boot(&mut vars), "B Preferred");
        assert_eq!(boot(&mut vars), "A Preferred");
        assert_eq!(boot(&mut vars), "B LastResort");
        assert!(vars.was_tried(&name("B")));
        assert_eq!(vars.health(&name("A")), Health::Good);
        assert_eq!(boot(&mut vars), "A Preferred");
    }

    #[test]
    fn a_lost_environment_still_starts_the_first_slot() {
        let mut vars = BootVars::Grub(GrubVars::read(&GrubEnv::default(), &pair()));
        assert_eq!(vars.primary(), None);
        assert_eq!(boot(&mut vars), "A NoneGood");
        assert_eq!(boot(&mut self::vars("", [1, 0, 1, 0])), "A NoneGood");
    }

    #[test]
    fn odd_values_count_as_the_boot_script_counts_them() {
        let mut odd = env("X B B A", [1, 0, 1, 0]);
        odd.set("B_OK", "yes").unwrap();
        odd.set("A_TRY", "2").unwrap();
        let mut vars = BootVars::Grub(GrubVars::read(&odd, &pair()));
        assert_eq!(boot(&mut vars), "A LastResort");
    }

    #[test]
    fn a_foreign_slot_is_refused_and_nothing_changes() {
        let before = vars("A B", [1, 0, 0, 0]);
        let mut vars = before.clone();
        for verb in
            [BootVars::try_once, BootVars::mark_good, BootVars::mark_bad, BootVars::set_primary, BootVars::settle_on]
        {
            assert!(verb(&mut vars, &name("C")).is_err());
        }
        assert_eq!(vars, before);
    }

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Boot,
        MarkBooted,
        TryOther,
        Settle,
    }

    proptest! {
        /// Whatever happens in whatever order, the slot that was last known to work is always reached within two starts.
        #[test]
        fn a_working_slot_is_always_reached(acts in prop::collection::vec(prop_oneof![Just(Act::Boot), Just(Act::MarkBooted), Just(Act::TryOther), Just(Act::Settle)], 0..40)) {
            let mut vars = vars("A B", [1, 0, 0, 0]);
            let mut booted = vars.boot().slot;
            let mut works = booted.clone();
            for act in acts {
                match act {
                    Act::Boot => booted = vars.boot().slot,
                    Act::MarkBooted => { vars.mark_good(&booted).unwrap(); works = booted.clone(); }
                    Act::TryOther if works == booted => { let other = vars.slots().other(&booted).unwrap().clone(); vars.try_once(&other).unwrap(); }
                    Act::Settle if works == booted => vars.settle_on(&booted.clone()).unwrap(),
                    Act::TryOther | Act::Settle => {}
                }
            }
            let mut seen = vec![booted];
            for _ in 0..3 { seen.push(vars.boot().slot); }
            prop_assert!(seen.contains(&works), "{:?} not in {:?}", works, seen);
        }

        #[test]
        fn what_is_written_is_read_back(order in 0usize..4, flags in prop::array::uniform4(0u8..2)) {
            let vars = GrubVars::read(&env(["A B", "B A", "A", "B"][order], flags), &pair());
            let mut other = env("C", [0; 4]);
            other.set("saved_entry", "7").unwrap();
            vars.write(&mut other).unwrap();
            prop_assert_eq!(GrubVars::read(&other, &pair()), vars);
            prop_assert_eq!(other.text("saved_entry"), Some("7"));
        }
    }
}
