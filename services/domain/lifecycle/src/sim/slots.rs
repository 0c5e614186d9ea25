use std::collections::BTreeSet;

use pitstop_types::SlotName;

/// Two slots and RAUC's variables: order, and for each slot whether it is good and whether it was tried.
#[derive(Debug, Clone)]
pub struct SimSlots {
    pub order: Vec<SlotName>,
    pub good: BTreeSet<SlotName>,
    pub tried: BTreeSet<SlotName>,
    /// Marked good after a trial: self-update clears their try early in each boot.
    pub proven: BTreeSet<SlotName>,
    /// Version in the slot; `None`: half written.
    pub content: [Option<String>; 2],
    pub booted: SlotName,
    /// How often the boot loader had to return to another slot by itself.
    pub fall_backs: u32,
}

pub(crate) fn slot(name: &str) -> SlotName {
    SlotName::new(name).expect("a slot name")
}

impl SimSlots {
    pub fn new(version: &str) -> Self {
        let a = slot("A");
        Self {
            order: vec![a.clone(), slot("B")],
            good: BTreeSet::from([a.clone()]),
            tried: BTreeSet::new(),
            proven: BTreeSet::from([a.clone()]),
            content: [Some(version.to_owned()), None],
            booted: a,
            fall_backs: 0,
        }
    }

    pub fn other(&self) -> SlotName {
        if self.booted == slot("A") { slot("B") } else { slot("A") }
    }

    pub fn version_of(&self, name: &SlotName) -> Option<&String> {
        self.content[usize::from(*name == slot("B"))].as_ref()
    }

    pub fn set_version(&mut self, name: &SlotName, version: Option<String>) {
        self.content[usize::from(*name == slot("B"))] = version;
    }

    /// The boot script: the first slot in order that is good and untried, tried from now on. Images in `crashing` do not come up.
    pub fn boot(&mut self, crashing: &BTreeSet<String>) {
        for _ in 0..4 {
            let next = self.order.iter().find(|name| self.good.contains(*name) && !self.tried.contains(*name)).cloned();
            let last_resort = self.order.iter().find(|name| self.good.contains(*name)).cloned();
            let Some(name) = next.or(last_resort) else { panic!("no slot can be booted") };
            if self.order.first() != Some(&name) && self.good.contains(&self.order[0]) {
                self.fall_backs += 1;
            }
            self.tried.insert(name.clone());
            let comes_up = self.version_of(&name).is_some_and(|version| !crashing.contains(version));
            if comes_up {
                if self.proven.contains(&name) {
                    self.tried.remove(&name);
                }
                self.booted = name;
                return;
            }
        }
        panic!("no slot comes up");
    }

    /// Chooses the other slot for one try.
    pub fn activate(&mut self, new: &SlotName) {
        self.order.retain(|name| name != new);
        self.order.insert(0, new.clone());
        self.good.insert(new.clone());
        self.tried.remove(new);
        self.proven.remove(new);
    }

    pub fn mark_good(&mut self) {
        let booted = self.booted.clone();
        self.good.insert(booted.clone());
        self.tried.remove(&booted);
        self.proven.insert(booted);
    }

    /// Chooses `old` and marks the other bad.
    pub fn choose_old(&mut self, old: &SlotName, new: &SlotName) {
        self.order = vec![old.clone(), new.clone()];
        self.good.remove(new);
        self.proven.remove(new);
        self.tried.remove(old);
    }
}
