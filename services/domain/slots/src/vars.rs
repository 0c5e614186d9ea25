//! The boot loader's variables behind one set of verbs.

use pitstop_types::SlotName;
use serde::{Deserialize, Serialize};

use crate::{GrubEnvError, GrubVars, UbootVars};

/// The two slots a TCU has, in the order its boot script assumes when it knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPair {
    first: SlotName,
    second: SlotName,
}

impl SlotPair {
    /// Two different names.
    pub fn new(first: SlotName, second: SlotName) -> Result<Self, VarsError> {
        if first == second { Err(VarsError::SameSlot(first)) } else { Ok(Self { first, second }) }
    }

    pub fn names(&self) -> [&SlotName; 2] {
        [&self.first, &self.second]
    }

    /// The slot that is not `slot`; refuses a name that is neither.
    pub fn other(&self, slot: &SlotName) -> Result<&SlotName, VarsError> {
        if *slot == self.first {
            Ok(&self.second)
        } else if *slot == self.second {
            Ok(&self.first)
        } else {
            Err(VarsError::UnknownSlot(slot.clone()))
        }
    }

    pub fn contains(&self, slot: &SlotName) -> bool {
        self.names().contains(&slot)
    }

    /// The slot called `name`.
    pub fn find(&self, name: &str) -> Option<&SlotName> {
        self.names().into_iter().find(|slot| slot.as_str() == name)
    }
}

/// Why variables cannot be read, changed or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VarsError {
    #[error("both slots are called {0}")]
    SameSlot(SlotName),
    #[error("{0} is not a slot of this TCU")]
    UnknownSlot(SlotName),
    #[error("these are another boot loader's variables")]
    OtherBootLoader,
    #[error(transparent)]
    Block(#[from] GrubEnvError),
}

/// Whether the boot loader would take a slot in the ordinary way, as RAUC reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    Good,
    Bad,
}

/// What the boot script does with the variables as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    pub slot: SlotName,
    pub why: Why,
}

/// Why the boot script takes a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The first in order that is good and has a try left.
    Preferred,
    /// None had a try left: the first in order that is marked good, with the tries given back.
    LastResort,
    /// None is marked good at all, as when the environment was lost: the first in order, since a running unit can be mended.
    NoneGood,
}

/// The variables of the boot loader that is fitted. Every change is meant to be written in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootVars {
    Grub(GrubVars),
    Uboot(UbootVars),
}

impl BootVars {
    fn check(&self, slot: &SlotName) -> Result<(), VarsError> {
        if self.slots().contains(slot) { Ok(()) } else { Err(VarsError::UnknownSlot(slot.clone())) }
    }

    pub fn slots(&self) -> &SlotPair {
        match self {
            Self::Grub(vars) => vars.slots(),
            Self::Uboot(vars) => vars.slots(),
        }
    }

    /// Good: in the order, marked good, and its try not used. A booted slot that was not marked good yet is bad.
    pub fn health(&self, slot: &SlotName) -> Health {
        let good = match self {
            Self::Grub(vars) => vars.is_good(slot),
            Self::Uboot(vars) => vars.is_good(slot),
        };
        if good { Health::Good } else { Health::Bad }
    }

    /// The slot the next start takes in the ordinary way, `None` when no slot has a try left.
    pub fn primary(&self) -> Option<&SlotName> {
        match self {
            Self::Grub(vars) => vars.order().iter().find(|slot| vars.is_good(slot)),
            Self::Uboot(vars) => vars.order().iter().find(|slot| vars.is_good(slot)),
        }
    }

    /// The boot loader has started this slot and nobody marked it good since.
    pub fn was_tried(&self, slot: &SlotName) -> bool {
        match self {
            Self::Grub(vars) => vars.was_tried(slot),
            Self::Uboot(vars) => vars.was_tried(slot),
        }
    }

    /// It is `slot`'s turn at the next start, once; if it is not marked good then, the start after takes the other.
    pub fn try_once(&mut self, slot: &SlotName) -> Result<(), VarsError> {
        self.check(slot)?;
        match self {
            Self::Grub(vars) => vars.set_primary(slot),
            Self::Uboot(vars) => vars.set_primary(slot, 1),
        }
        Ok(())
    }

    /// `slot` is preferred from now on, with as many tries as the boot script gives.
    pub fn set_primary(&mut self, slot: &SlotName) -> Result<(), VarsError> {
        self.check(slot)?;
        match self {
            Self::Grub(vars) => vars.set_primary(slot),
            Self::Uboot(vars) => vars.set_primary(slot, crate::BOOT_ATTEMPTS),
        }
        Ok(())
    }

    /// `slot` has started well; its tries are given back. The order stays.
    pub fn mark_good(&mut self, slot: &SlotName) -> Result<(), VarsError> {
        self.check(slot)?;
        match self {
            Self::Grub(vars) => vars.mark_good(slot),
            Self::Uboot(vars) => vars.mark_good(slot),
        }
        Ok(())
    }

    /// `slot` is not to be started.
    pub fn mark_bad(&mut self, slot: &SlotName) -> Result<(), VarsError> {
        self.check(slot)?;
        match self {
            Self::Grub(vars) => vars.mark_bad(slot),
            Self::Uboot(vars) => vars.mark_bad(slot),
        }
        Ok(())
    }

    /// Makes `slot` the only one that is started: preferred and good, the other bad. Used to commit and to roll back,
    /// so that two short power cycles cannot bring back software that the update's record has left behind.
    pub fn settle_on(&mut self, slot: &SlotName) -> Result<(), VarsError> {
        let other = self.slots().other(slot)?.clone();
        self.set_primary(slot)?;
        self.mark_bad(&other)
    }

    /// What the boot script does now; changes the variables as it does. See the GRUB script in `rootfs-overlay/boot/grub/`.
    pub fn boot(&mut self) -> Boot {
        match self {
            Self::Grub(vars) => vars.boot(),
            Self::Uboot(vars) => vars.boot(),
        }
    }
}

/// `order` as the boot scripts walk it: names of the pair only, each once, then the missing ones when `complete`.
pub(crate) fn parse_order(text: Option<&str>, slots: &SlotPair) -> Vec<SlotName> {
    let Some(text) = text else { return slots.names().into_iter().cloned().collect() };
    let mut order: Vec<SlotName> = Vec::new();
    for slot in text.split(' ').filter_map(|name| slots.find(name)) {
        if !order.contains(slot) {
            order.push(slot.clone());
        }
    }
    order
}

pub(crate) fn order_text(order: &[SlotName]) -> String {
    order.iter().map(SlotName::as_str).collect::<Vec<_>>().join(" ")
}

/// `slot` in front, then the rest of the pair.
pub(crate) fn order_with_first(slot: &SlotName, slots: &SlotPair) -> Vec<SlotName> {
    let mut order = vec![slot.clone()];
    order.extend(slots.names().into_iter().filter(|other| *other != slot).cloned());
    order
}
