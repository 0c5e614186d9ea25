//! Two copies of GRUB's environment block and the order in which they are written.
//!
//! The boot script reads the first copy, and the second only when the first is no environment block. So the first is
//! written first and the second after it has become durable:
//! - a cut inside the first write leaves the first old, new, or unreadable, and in the last case the second is still whole and old;
//! - a cut between the two leaves the first new, which is what the boot script takes;
//! - a cut inside the second write leaves the first whole and new.
//!
//! Every variable lies in the first 512 bytes, one disk sector, which is written whole or not at all on any disk that keeps
//! its promise; the second copy is for those that do not. [`BootEnv::mend`] makes the copies equal again at the next start.
//! A caller that must be sure that *no* reader sees the old state (a slot marked bad before it is overwritten) has it when
//! the call returns, because both copies are durable then.

use pitstop_slots::{BootVars, GrubEnv, GrubEnvError, GrubVars, SlotPair, VarsError};
use pitstop_types::SlotName;

use crate::{BlockCopy, BootEnv, BootEnvError, FileCopy};

/// GRUB's environment in two copies.
pub struct GrubFiles<C = FileCopy> {
    first: C,
    second: C,
    slots: SlotPair,
}

impl<C: BlockCopy> GrubFiles<C> {
    /// `first` is the file the boot script reads first.
    pub fn new(first: C, second: C, slots: SlotPair) -> Self {
        Self { first, second, slots }
    }

    /// The block the boot script would take.
    fn read(&self) -> Result<GrubEnv, BootEnvError> {
        let first = match decode(&self.first) {
            Ok(env) => return Ok(env),
            Err(why) => why,
        };
        decode(&self.second).map_err(|second| BootEnvError::Lost { first, second })
    }

    fn write(&self, env: &GrubEnv) -> Result<(), BootEnvError> {
        let block = env.encode()?;
        for (which, copy) in [("first", &self.first), ("second", &self.second)] {
            copy.overwrite(&block).map_err(|source| BootEnvError::Write { which, source })?;
        }
        Ok(())
    }
}

fn decode(copy: &impl BlockCopy) -> Result<GrubEnv, String> {
    let block = copy.read().map_err(|error| error.to_string())?;
    GrubEnv::decode(&block).map_err(|error: GrubEnvError| error.to_string())
}

impl<C: BlockCopy> BootEnv for GrubFiles<C> {
    fn load(&self) -> Result<BootVars, BootEnvError> {
        Ok(BootVars::Grub(GrubVars::read(&self.read()?, &self.slots)))
    }

    fn store(&self, vars: &BootVars) -> Result<(), BootEnvError> {
        let BootVars::Grub(vars) = vars else {
            return Err(VarsError::OtherBootLoader.into());
        };
        let mut env = self.read()?;
        vars.write(&mut env)?;
        self.write(&env)
    }

    fn mend(&self, booted: &SlotName) -> Result<bool, BootEnvError> {
        let env = match self.read() {
            Ok(env) => env,
            Err(BootEnvError::Lost { .. }) => {
                let mut env = GrubEnv::default();
                GrubVars::fresh(booted, &self.slots).write(&mut env)?;
                self.write(&env)?;
                return Ok(true);
            }
            Err(other) => return Err(other),
        };
        if decode(&self.first).as_ref() == Ok(&env) && decode(&self.second).as_ref() == Ok(&env) {
            return Ok(false);
        }
        self.write(&env)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_slots::{ENV_SIZE, Health};
    use std::cell::{Cell, RefCell};
    use std::io;

    /// How the disk behaves when the power fails inside a write.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Cut {
        /// Nothing of it arrived.
        Before,
        /// The first sector is neither old nor new.
        Torn,
        /// All of it arrived, the call did not return.
        After,
    }

    struct Disk<'p> {
        block: RefCell<Vec<u8>>,
        power: &'p Power,
    }

    struct Power {
        writes_left: Cell<u32>,
        cut: Cut,
    }

    impl BlockCopy for Disk<'_> {
        fn read(&self) -> io::Result<Vec<u8>> {
            Ok(self.block.borrow().clone())
        }

        fn overwrite(&self, block: &[u8; ENV_SIZE]) -> io::Result<()> {
            let left = self.power.writes_left.get();
            self.power.writes_left.set(left.saturating_sub(1));
            match (left, self.power.cut) {
                (2.., _) => self.block.replace(block.to_vec()),
                (1, Cut::Torn) => self.block.replace(vec![0; ENV_SIZE]),
                (1, Cut::After) => self.block.replace(block.to_vec()),
                _ => vec![],
            };
            if left > 1 { Ok(()) } else { Err(io::Error::other("no power")) }
        }
    }

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    fn pair() -> SlotPair {
        SlotPair::new(name("A"), name("B")).unwrap()
    }

    fn block(slot: &str) -> Vec<u8> {
        let mut env = GrubEnv::default();
        env.set("saved_entry", "3").unwrap();
        GrubVars::fresh(&name(slot), &pair()).write(&mut env).unwrap();
        env.encode().unwrap().to_vec()
    }

    fn files<'p>(first: Vec<u8>, second: Vec<u8>, power: &'p Power) -> GrubFiles<Disk<'p>> {
        let disk = |block| Disk { block: RefCell::new(block), power };
        GrubFiles::new(disk(first), disk(second), pair())
    }

    fn unplug(files: GrubFiles<Disk<'_>>) -> (Vec<u8>, Vec<u8>) {
        (files.first.block.into_inner(), files.second.block.into_inner())
    }

    fn plenty() -> Power {
        Power { writes_left: Cell::new(99), cut: Cut::Before }
    }

    #[test]
    fn a_cut_at_either_write_leaves_the_old_or_the_new_state() {
        for cut in [Cut::Before, Cut::Torn, Cut::After] {
            for writes_left in 1..=2 {
                let power = Power { writes_left: Cell::new(writes_left), cut };
                let env = files(block("A"), block("A"), &power);
                let old = env.load().unwrap();
                let mut new = old.clone();
                new.try_once(&name("B")).unwrap();
                assert!(env.store(&new).is_err());
                let plenty = plenty();
                let (first, second) = unplug(env);
                let env = files(first, second, &plenty);
                let found = env.load().unwrap();
                // Torn in the first write: the second, still old, is what the boot script takes.
                let expected = if writes_left == 1 && cut != Cut::After { &old } else { &new };
                assert_eq!(&found, expected, "{cut:?} at write {}", 3 - writes_left);
                let mended = env.mend(&name("A")).unwrap();
                let equal = matches!((writes_left, cut), (1, Cut::Before) | (2, Cut::After));
                assert_eq!(mended, !equal, "{cut:?} at write {}", 3 - writes_left);
                assert_eq!(&env.load().unwrap(), expected);
                let (first, second) = unplug(env);
                assert_eq!(first, second);
            }
        }
    }

    #[test]
    fn a_cut_while_mending_is_mended_at_the_next_start() {
        for cut in [Cut::Before, Cut::Torn, Cut::After] {
            for writes_left in 1..=2 {
                let power = Power { writes_left: Cell::new(writes_left), cut };
                let env = files(vec![0; ENV_SIZE], block("B"), &power);
                assert!(env.mend(&name("A")).is_err());
                let plenty = plenty();
                let (first, second) = unplug(env);
                let env = files(first, second, &plenty);
                env.mend(&name("A")).unwrap();
                assert_eq!(env.load().unwrap().health(&name("B")), Health::Good, "the surviving copy counts, {cut:?}");
            }
        }
    }

    #[test]
    fn an_environment_lost_in_both_copies_is_made_anew_around_the_slot_that_runs() {
        let power = plenty();
        let env = files(vec![], vec![0; ENV_SIZE], &power);
        assert!(matches!(env.load(), Err(BootEnvError::Lost { .. })));
        assert!(env.change(|vars| vars.mark_good(&name("B"))).is_err(), "nothing is made up outside of mending");
        assert!(env.mend(&name("B")).unwrap());
        let vars = env.load().unwrap();
        assert_eq!((vars.health(&name("A")), vars.health(&name("B"))), (Health::Bad, Health::Good));
        assert!(!env.mend(&name("B")).unwrap());
    }

    #[test]
    fn variables_of_others_stay_and_an_unchanged_state_is_not_written() {
        let power = Power { writes_left: Cell::new(3), cut: Cut::Before };
        let env = files(block("A"), block("A"), &power);
        env.change(|vars| vars.mark_good(&name("B"))).unwrap();
        env.change(|vars| vars.mark_good(&name("B"))).unwrap();
        assert_eq!(power.writes_left.get(), 1, "one change, two copies");
        assert_eq!(env.read().unwrap().text("saved_entry"), Some("3"));
    }
}
