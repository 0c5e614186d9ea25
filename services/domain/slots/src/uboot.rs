//! RAUC's protocol for U-Boot: `BOOT_ORDER`, and per slot `BOOT_X_LEFT` in hexadecimal without `0x`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pitstop_types::SlotName;

use crate::vars::{order_text, order_with_first, parse_order};
use crate::{Boot, SlotPair, Why};

/// Tries a good slot has: RAUC's default for `boot-attempts`.
pub const BOOT_ATTEMPTS: u32 = 3;

/// `BOOT_ORDER`, `BOOT_A_LEFT`, `BOOT_B_LEFT`. Missing variables read as the boot script's defaults: both in order, three tries.
/// U-Boot knows no empty variable, so an order that names no slot is a missing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UbootVars {
    slots: SlotPair,
    order: Vec<SlotName>,
    /// Tries left, in the order of the pair.
    left: [u32; 2],
}

impl UbootVars {
    /// From the lines `name=value` that `fw_printenv` prints.
    pub fn read(printed: &str, slots: &SlotPair) -> Self {
        let values: BTreeMap<&str, &str> = printed.lines().filter_map(|line| line.split_once('=')).collect();
        let left = slots.names().map(|slot| match values.get(format!("BOOT_{slot}_LEFT").as_str()) {
            Some(text) => number(text),
            None => BOOT_ATTEMPTS,
        });
        let order = or_both(parse_order(values.get("BOOT_ORDER").copied(), slots), slots);
        Self { slots: slots.clone(), order, left }
    }

    /// The script for one `fw_setenv -s`, so that all three change at once on a redundant environment.
    /// `separator` stands between name and value: `=` for libubootenv, a space for U-Boot's own tool.
    pub fn script(&self, separator: char) -> String {
        let mut script = format!("BOOT_ORDER{separator}{}\n", order_text(&self.order));
        for (slot, left) in self.slots.names().into_iter().zip(self.left) {
            let _ = writeln!(script, "BOOT_{slot}_LEFT{separator}{left:x}");
        }
        script
    }

    /// Names that `fw_printenv` is asked for.
    pub fn names(slots: &SlotPair) -> Vec<String> {
        let left = slots.names().into_iter().map(|slot| format!("BOOT_{slot}_LEFT"));
        std::iter::once("BOOT_ORDER".to_owned()).chain(left).collect()
    }

    pub fn slots(&self) -> &SlotPair {
        &self.slots
    }

    pub fn order(&self) -> &[SlotName] {
        &self.order
    }

    fn left(&self, slot: &SlotName) -> u32 {
        let all = self.slots.names().into_iter().zip(self.left);
        all.filter(|(name, _)| *name == slot).map(|(_, left)| left).next().unwrap_or(0)
    }

    fn set_left(&mut self, slot: &SlotName, left: u32) {
        for (name, old) in self.slots.names().into_iter().zip(&mut self.left) {
            if name == slot {
                *old = left;
            }
        }
    }

    pub(crate) fn is_good(&self, slot: &SlotName) -> bool {
        self.order.contains(slot) && self.left(slot) > 0
    }

    /// Marking bad takes the slot out of the order, so one that is in it without a try left has used its try.
    pub(crate) fn was_tried(&self, slot: &SlotName) -> bool {
        self.order.contains(slot) && self.left(slot) == 0
    }

    pub(crate) fn set_primary(&mut self, slot: &SlotName, tries: u32) {
        self.order = order_with_first(slot, &self.slots);
        self.set_left(slot, tries);
    }

    pub(crate) fn mark_good(&mut self, slot: &SlotName) {
        self.set_left(slot, BOOT_ATTEMPTS);
    }

    pub(crate) fn mark_bad(&mut self, slot: &SlotName) {
        self.order.retain(|other| other != slot);
        self.set_left(slot, 0);
    }

    /// The first in order with a try left, which it uses up. None left: the first starts and goes to the end of the order, so that they
    /// take turns. No tries are given back, for one that has any looks as if somebody had vouched for it.
    pub(crate) fn boot(&mut self) -> Boot {
        self.order = or_both(std::mem::take(&mut self.order), &self.slots);
        if let Some(slot) = self.order.iter().find(|slot| self.left(slot) > 0).cloned() {
            self.set_left(&slot, self.left(&slot).saturating_sub(1));
            return Boot { slot, why: Why::Preferred };
        }
        self.order.rotate_left(1);
        let slot = self.order.last().unwrap_or(self.slots.names()[0]).clone();
        Boot { slot, why: Why::LastResort }
    }
}

/// An order that names no slot is a missing one.
fn or_both(order: Vec<SlotName>, slots: &SlotPair) -> Vec<SlotName> {
    if order.is_empty() { parse_order(None, slots) } else { order }
}

/// As U-Boot counts: the hexadecimal digits in front. What begins with none is no try.
fn number(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let digits = &text[..end];
    u32::from_str_radix(digits, 16).unwrap_or(if digits.is_empty() { 0 } else { u32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BootVars, Health};

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    fn vars(printed: &str) -> BootVars {
        BootVars::Uboot(UbootVars::read(printed, &SlotPair::new(name("A"), name("B")).unwrap()))
    }

    fn script(vars: &BootVars) -> String {
        let BootVars::Uboot(vars) = vars else { panic!("not U-Boot") };
        vars.script(' ')
    }

    #[test]
    fn a_new_slot_is_tried_once_and_then_the_old_one_runs_again() {
        let mut vars = vars("BOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n");
        vars.try_once(&name("B")).unwrap();
        assert_eq!(script(&vars), "BOOT_ORDER B A\nBOOT_A_LEFT 3\nBOOT_B_LEFT 1\n");
        assert_eq!(vars.boot(), Boot { slot: name("B"), why: Why::Preferred });
        assert!(vars.was_tried(&name("B")));
        assert_eq!(vars.boot(), Boot { slot: name("A"), why: Why::Preferred });
    }

    #[test]
    fn tries_are_hexadecimal_and_missing_ones_are_three() {
        let vars = vars("BOOT_A_LEFT=a\n");
        assert_eq!(script(&vars), "BOOT_ORDER A B\nBOOT_A_LEFT a\nBOOT_B_LEFT 3\n");
        assert_eq!(self::vars("BOOT_A_LEFT=zz\n").health(&name("A")), Health::Bad);
    }

    #[test]
    fn settling_leaves_one_slot_that_power_cycles_do_not_change() {
        let mut vars = vars("");
        vars.settle_on(&name("B")).unwrap();
        assert_eq!(script(&vars), "BOOT_ORDER B\nBOOT_A_LEFT 0\nBOOT_B_LEFT 3\n");
        for _ in 0..9 {
            assert_eq!(vars.boot().slot, name("B"));
        }
    }

    #[test]
    fn an_empty_order_still_starts_something() {
        for order in ["", "X", " "] {
            let printed = format!("BOOT_ORDER={order}\nBOOT_A_LEFT=0\nBOOT_B_LEFT=0\n");
            assert_eq!(vars(&printed).boot(), Boot { slot: name("A"), why: Why::LastResort });
        }
        let mut both_bad = vars("");
        both_bad.mark_bad(&name("A")).unwrap();
        both_bad.mark_bad(&name("B")).unwrap();
        assert_eq!(both_bad.boot(), Boot { slot: name("A"), why: Why::LastResort });
    }

    #[test]
    fn a_last_resort_vouches_for_nobody_and_takes_turns() {
        let mut vars = vars("BOOT_ORDER=B A\nBOOT_A_LEFT=0\nBOOT_B_LEFT=0\n");
        for turn in ["B", "A", "B"] {
            assert_eq!(vars.boot(), Boot { slot: name(turn), why: Why::LastResort });
            for slot in ["A", "B"] {
                assert!(vars.was_tried(&name(slot)));
                assert_eq!(vars.health(&name(slot)), Health::Bad);
            }
        }
        vars.mark_good(&name("A")).unwrap();
        assert_eq!(vars.boot(), Boot { slot: name("A"), why: Why::Preferred });
    }
}
