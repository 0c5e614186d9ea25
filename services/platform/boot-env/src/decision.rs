//! The boot script's decision without a boot loader: for a developer's machine and for tests.

use pitstop_slots::{Boot, SlotPair, Why};
use pitstop_types::SlotName;

use crate::BootEnv;

/// Which slot starts, and whether the decision could be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub slot: SlotName,
    pub why: Why,
    /// The environment was readable and has been written. Without that there is no way back by itself.
    pub saved: bool,
}

/// Decides as the boot script does and writes what it writes. An environment that cannot be read or written does not
/// keep the boot script from starting something, and neither does it here.
pub fn boot_decision(env: &impl BootEnv, slots: &SlotPair) -> Decision {
    match env.load() {
        Ok(mut vars) => {
            let Boot { slot, why } = vars.boot();
            Decision { slot, why, saved: env.store(&vars).is_ok() }
        }
        Err(_) => Decision { slot: slots.names()[0].clone(), why: Why::NoneGood, saved: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileCopy, GrubFiles};

    #[test]
    fn one_try_then_the_old_slot_and_without_an_environment_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["A", "B"].map(|text| SlotName::new(text).unwrap());
        let slots = SlotPair::new(a.clone(), b.clone()).unwrap();
        let copy = |file: &str| FileCopy::new(folder.path().join(file));
        let env = GrubFiles::new(copy("grubenv"), copy("grubenv2"), slots.clone());
        assert_eq!(boot_decision(&env, &slots), Decision { slot: a.clone(), why: Why::NoneGood, saved: false });
        env.mend(&a).unwrap();
        env.change(|vars| vars.try_once(&b)).unwrap();
        assert_eq!(boot_decision(&env, &slots), Decision { slot: b.clone(), why: Why::Preferred, saved: true });
        // The second copy follows, so that a torn first one does not give a second try.
        std::fs::write(folder.path().join("grubenv"), "torn").unwrap();
        assert_eq!(boot_decision(&env, &slots), Decision { slot: a, why: Why::Preferred, saved: true });
    }
}
