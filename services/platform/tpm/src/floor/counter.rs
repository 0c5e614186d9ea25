//! The floor in the TPM: a counter, and a baseline that is taken from it once. The floor is the difference.
//!
//! A baseline, because no counter begins at 0: a TPM starts a new one above every counter that it ever had (TPM 2.0 Part 3, TPM2_NV_Increment).
//! It is written once for ever: its only way to write is a policy that asks that it was not written yet, so no lock has to follow the write.
//!
//! What somebody who reaches the TPM can do:
//! - Raise the floor: then no update is accepted until a release above it. What runs still starts, because nothing asks the floor at boot.
//! - Not lower it by any write: the counter goes up only, the baseline stays. Nor lock it by wrong guesses: both indices are outside the TPM's
//!   defence against those, and have nothing to guess.
//! - Delete the indices with the owner's authorization, or clear the TPM. One of the two missing is a named error. Without both, the next
//!   [`FloorCounter::open`] begins again at 0; with a baseline defined anew by hand, the floor is what that says; and a TPM whose own state is
//!   put back shows the floor of that time. None of these shows in the TPM: the user of the floor must compare it with what was recorded
//!   elsewhere. Deleting needs no secret while the owner's authorization is empty; once it is set, only setting up needs it, and the floor is
//!   read and raised without.

use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::tss::TPM2_CC_PolicyNvWritten;
use tss_esapi::constants::{NvIndexType, SessionType};
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{Digest, MaxNvBuffer, NvPublic, SymmetricDefinition};
use tss_esapi::{Context, WrapperErrorKind};

use super::{Floor, FloorError, steps};
use crate::tpm::{exists, with_context};

/// The range of the TPM's owner (TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1, 2.2.2), numbered as the keys' handles are.
const COUNTER: u32 = 0x0180_0010;
const BASELINE: u32 = 0x0180_0011;
/// Octets of a counter (TPM 2.0 Part 3, TPM2_NV_DefineSpace), and so of its baseline. Both are big endian.
const VALUE_LEN: u16 = 8;
/// Baseline defined, counter defined, first increment, baseline written.
const SETUP_STEPS: usize = 4;

/// The lowest release counter that this TCU may be updated to, kept where no copy of the data partition can bring an older one back.
///
/// One service alone opens it: two that set it up at the same moment may begin at 1. Each act has its own connection, as with the keys.
#[derive(Debug)]
pub struct FloorCounter {
    tcti: String,
}

impl FloorCounter {
    /// Opens it; sets it up at its first use, or goes on with that after a power cut.
    pub fn open(tcti: &str) -> Result<Self, FloorError> {
        for _ in 0..SETUP_STEPS {
            if !set_up_further(tcti)? {
                break;
            }
        }
        let counter = Self { tcti: tcti.to_owned() };
        counter.floor()?;
        Ok(counter)
    }
}

impl Floor for FloorCounter {
    fn floor(&self) -> Result<u64, FloorError> {
        act(&self.tcti, "reading the rollback floor", |context| Ok(look(context)?.floor()?))
    }

    fn raise(&self, floor: u64) -> Result<(), FloorError> {
        // One conversation for each step: a long raise must not keep the process's keys from signing.
        for _ in 0..steps(self.floor()?, floor)? {
            act(&self.tcti, "raising the rollback floor", |context| step_towards(context, floor))?;
        }
        Ok(())
    }
}

/// What the TPM holds of the floor. An index that is defined and has no value yet is `Some(None)`.
#[derive(Debug, Clone, Copy)]
struct Held {
    counter: Option<Option<u64>>,
    baseline: Option<Option<u64>>,
}

impl Held {
    fn floor(self) -> Result<u64, FloorError> {
        match (self.counter.flatten(), self.baseline.flatten()) {
            (_, None) => Err(FloorError::BaselineMissing),
            (None, Some(_)) => Err(FloorError::CounterMissing),
            (Some(counter), Some(baseline)) => {
                counter.checked_sub(baseline).ok_or(FloorError::BaselineAboveCounter { baseline, counter })
            }
        }
    }
}

/// Does what comes next of setting up; false when nothing was left.
///
/// The baseline's empty index comes first. So a counter with no such index is never the work of a power cut, and is not given a new baseline:
/// that would take a floor that was raised back to 0.
fn set_up_further(tcti: &str) -> Result<bool, FloorError> {
    act(tcti, "setting up the rollback floor", |context| {
        let held = look(context)?;
        match (held.baseline, held.counter) {
            (None, None) => define(context, baseline_index()?)?,
            (Some(None), None) => define(context, counter_index()?)?,
            (Some(None), Some(None)) => increment(context)?,
            (Some(None), Some(Some(counter))) => write_baseline(context, counter)?,
            (Some(Some(_)), Some(Some(_))) => return Ok(false),
            (None, Some(_)) => return Err(FloorError::BaselineMissing.into()),
            (Some(Some(_)), None | Some(None)) => return Err(FloorError::CounterMissing.into()),
        }
        Ok(true)
    })
}

/// Looks again before each increment: an increment whose answer was lost is tried again, and must not count twice.
fn step_towards(context: &mut Context, floor: u64) -> Result<(), Stopped> {
    if look(context)?.floor()? < floor {
        increment(context)?;
    }
    Ok(())
}

/// Why an act ended: the TPM's own errors are worth another attempt, what it holds is not.
enum Stopped {
    Tpm(tss_esapi::Error),
    Floor(FloorError),
}

impl From<tss_esapi::Error> for Stopped {
    fn from(error: tss_esapi::Error) -> Self {
        Self::Tpm(error)
    }
}

impl From<FloorError> for Stopped {
    fn from(error: FloorError) -> Self {
        Self::Floor(error)
    }
}

/// `act` may be called again after an error of the TPM, so it looks first and does only what is left.
fn act<T>(
    tcti: &str,
    action: &'static str,
    mut act: impl FnMut(&mut Context) -> Result<T, Stopped>,
) -> Result<T, FloorError> {
    with_context(tcti, COUNTER, action, |context| match act(context) {
        Ok(value) => Ok(Ok(value)),
        Err(Stopped::Floor(error)) => Ok(Err(error)),
        Err(Stopped::Tpm(error)) => Err(error),
    })
    .map_err(FloorError::Tpm)?
}

fn look(context: &mut Context) -> Result<Held, Stopped> {
    Ok(Held { counter: value_at(context, counter_index()?)?, baseline: value_at(context, baseline_index()?)? })
}

/// The value of the index that `expected` describes. One defined otherwise could be written down, so its value means nothing.
fn value_at(context: &mut Context, expected: NvPublic) -> Result<Option<Option<u64>>, Stopped> {
    let number = u32::from(expected.nv_index());
    if !exists(context, number)? {
        return Ok(None);
    }
    let index = load(context, number)?;
    let (found, _) = context.nv_read_public(index)?;
    let written = found.attributes().written();
    if found != with_written(&expected, written)? {
        return Err(FloorError::Foreign(number).into());
    }
    if !written {
        return Ok(Some(None));
    }
    let octets = context
        .execute_with_nullauth_session(|context| context.nv_read(NvAuth::NvIndex(index), index, VALUE_LEN, 0))?;
    let value = <[u8; VALUE_LEN as usize]>::try_from(octets.value()).map_err(|_| FloorError::Foreign(number))?;
    Ok(Some(Some(u64::from_be_bytes(value))))
}

fn load(context: &mut Context, number: u32) -> tss_esapi::Result<NvIndexHandle> {
    context.tr_from_tpm_public(TpmHandle::NvIndex(NvIndexTpmHandle::new(number)?)).map(NvIndexHandle::from)
}

fn define(context: &mut Context, index: NvPublic) -> tss_esapi::Result<()> {
    context.execute_with_nullauth_session(|context| context.nv_define_space(Provision::Owner, None, index)).map(|_| ())
}

fn increment(context: &mut Context) -> tss_esapi::Result<()> {
    let index = load(context, COUNTER)?;
    context.execute_with_nullauth_session(|context| context.nv_increment(NvAuth::NvIndex(index), index))
}

fn write_baseline(context: &mut Context, value: u64) -> tss_esapi::Result<()> {
    let index = load(context, BASELINE)?;
    let octets = MaxNvBuffer::try_from(value.to_be_bytes().to_vec())?;
    let algorithm = SymmetricDefinition::AES_128_CFB;
    let started =
        context.start_auth_session(None, None, None, SessionType::Policy, algorithm, HashingAlgorithm::Sha256)?;
    let session = started.ok_or(tss_esapi::Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))?;
    context.execute_with_temporary_object(SessionHandle::from(session).into(), |context, _| {
        context.policy_nv_written(PolicySession::try_from(session)?, false)?;
        context
            .execute_with_session(Some(session), |context| context.nv_write(NvAuth::NvIndex(index), index, octets, 0))
    })
}

fn counter_index() -> tss_esapi::Result<NvPublic> {
    let attributes = readable().with_nv_index_type(NvIndexType::Counter).with_auth_write(true).build()?;
    index(COUNTER, attributes, Digest::default())
}

fn baseline_index() -> tss_esapi::Result<NvPublic> {
    let attributes = readable().with_nv_index_type(NvIndexType::Ordinary).with_policy_write(true).build()?;
    index(BASELINE, attributes, not_written_policy()?)
}

/// Read with the owner's or the index's own (empty) authorization; wrong ones do not count as attacks, which would lock it for a while.
fn readable() -> NvIndexAttributesBuilder {
    NvIndexAttributesBuilder::new().with_owner_read(true).with_auth_read(true).with_no_da(true)
}

fn index(number: u32, attributes: NvIndexAttributes, policy: Digest) -> tss_esapi::Result<NvPublic> {
    NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(number)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_index_auth_policy(policy)
        .with_data_area_size(usize::from(VALUE_LEN))
        .build()
}

/// The TPM sets the attribute at the first write; all else stays as it was defined.
fn with_written(public: &NvPublic, written: bool) -> tss_esapi::Result<NvPublic> {
    let number = u32::from(public.nv_index());
    let attributes = NvIndexAttributesBuilder::with_attributes(public.attributes()).with_written(written).build()?;
    index(number, attributes, public.authorization_policy().clone())
}

/// TPM 2.0 Part 3, TPM2_PolicyNvWritten with NO as the only term: the digest before it (zeros), the command's code, the argument.
fn not_written_policy() -> tss_esapi::Result<Digest> {
    let digest =
        Sha256::new().chain_update([0; 32]).chain_update(TPM2_CC_PolicyNvWritten.to_be_bytes()).chain_update([0]);
    Digest::try_from(digest.finalize().to_vec())
}

#[cfg(test)]
#[path = "../../tests/swtpm/mod.rs"]
mod swtpm;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tss_esapi::handles::AuthHandle;
    use tss_esapi::structures::Auth;

    use super::swtpm::{Swtpm, two_free_ports};
    use super::*;
    use crate::KeyError;
    use crate::floor::MAX_STEPS;

    /// An index that some other user of the TPM had.
    const OTHER: u32 = 0x0180_0020;

    fn in_tpm<T>(tpm: &Swtpm, act: impl FnMut(&mut Context) -> tss_esapi::Result<T>) -> Result<T, KeyError> {
        with_context(&tpm.tcti(), COUNTER, "testing", act)
    }

    fn delete(tpm: &Swtpm, number: u32) {
        try_delete(tpm, number).unwrap();
    }

    fn try_delete(tpm: &Swtpm, number: u32) -> Result<(), KeyError> {
        in_tpm(tpm, |context| {
            let index = load(context, number)?;
            context.execute_with_nullauth_session(|context| context.nv_undefine_space(Provision::Owner, index))
        })
    }

    /// A counter that another user made, raised to at least 3 and deleted: the TPM's counters go on above it.
    fn use_up_some_counts(tpm: &Swtpm) {
        in_tpm(tpm, |context| {
            define(context, index(OTHER, counter_index()?.attributes(), Digest::default())?)?;
            let other = load(context, OTHER)?;
            (0..3).try_for_each(|_| {
                context.execute_with_nullauth_session(|context| context.nv_increment(NvAuth::NvIndex(other), other))
            })
        })
        .unwrap();
        delete(tpm, OTHER);
    }

    fn held(tpm: &Swtpm) -> Held {
        act(&tpm.tcti(), "testing", look).unwrap()
    }

    fn copy_files(from: &Path, to: &Path) {
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }

    #[test]
    fn the_floor_begins_at_0_goes_up_only_and_outlives_the_tpms_restart() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        assert_eq!(floor.floor().unwrap(), 0);
        floor.raise(3).unwrap();
        assert_eq!(floor.floor().unwrap(), 3);
        for not_above in [0, 2, 3] {
            floor.raise(not_above).unwrap();
            assert_eq!(floor.floor().unwrap(), 3);
        }
        drop(tpm);
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        assert_eq!(floor.floor().unwrap(), 3);
        floor.raise(4).unwrap();
        assert_eq!(FloorCounter::open(&tpm.tcti()).unwrap().floor().unwrap(), 4);
    }

    #[test]
    fn the_floor_begins_at_0_in_a_tpm_whose_counters_do_not() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        use_up_some_counts(&tpm);
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        assert!(held(&tpm).counter.flatten().unwrap() > 3, "the TPM goes on above what it counted before");
        assert_eq!(floor.floor().unwrap(), 0);
        floor.raise(2).unwrap();
        assert_eq!(floor.floor().unwrap(), 2);
    }

    #[test]
    fn a_power_cut_after_any_step_of_setting_up_is_healed_by_the_next_open() {
        for done in 0..=SETUP_STEPS {
            let state = tempfile::tempdir().unwrap();
            let tpm = Swtpm::start(state.path());
            use_up_some_counts(&tpm);
            for _ in 0..done {
                assert!(set_up_further(&tpm.tcti()).unwrap());
            }
            drop(tpm);
            let tpm = Swtpm::start(state.path());
            let floor = FloorCounter::open(&tpm.tcti()).unwrap();
            assert_eq!(floor.floor().unwrap(), 0, "after {done} steps");
            assert!(!set_up_further(&tpm.tcti()).unwrap(), "after {done} steps");
            floor.raise(1).unwrap();
            assert_eq!(floor.floor().unwrap(), 1, "after {done} steps");
        }
    }

    #[test]
    fn a_step_whose_answer_was_lost_does_not_count_twice() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        let mut answers_lost = 0;
        act(&tpm.tcti(), "testing", |context| {
            step_towards(context, 1)?;
            answers_lost += 1;
            if answers_lost == 1 {
                Err(tss_esapi::Error::WrapperError(WrapperErrorKind::InternalError))?
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(answers_lost, 2);
        assert_eq!(floor.floor().unwrap(), 1);
    }

    #[test]
    fn nothing_writes_the_baseline_a_second_time() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        floor.raise(2).unwrap();
        let higher = held(&tpm).counter.flatten().unwrap();
        in_tpm(&tpm, |context| write_baseline(context, higher)).unwrap_err();
        for by_owner in [true, false] {
            in_tpm(&tpm, |context| {
                let index = load(context, BASELINE)?;
                let auth = if by_owner { NvAuth::Owner } else { NvAuth::NvIndex(index) };
                let octets = MaxNvBuffer::try_from(higher.to_be_bytes().to_vec())?;
                context.execute_with_nullauth_session(|context| context.nv_write(auth, index, octets.clone(), 0))
            })
            .unwrap_err();
        }
        assert_eq!(floor.floor().unwrap(), 2);
    }

    #[test]
    fn wrong_guesses_of_an_authorization_do_not_lock_the_floor() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        for number in [COUNTER, BASELINE] {
            // Each of the attempts is a wrong guess; a TPM locks after a few.
            in_tpm(&tpm, |context| {
                let index = load(context, number)?;
                context.tr_set_auth(index.into(), Auth::try_from(vec![1])?)?;
                context.execute_with_nullauth_session(|context| context.nv_read(NvAuth::NvIndex(index), index, 8, 0))
            })
            .unwrap_err();
        }
        floor.raise(1).unwrap();
        assert_eq!(floor.floor().unwrap(), 1);
    }

    #[test]
    fn an_owners_authorization_keeps_the_indices_from_deletion_and_the_floor_works_on() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        FloorCounter::open(&tpm.tcti()).unwrap();
        in_tpm(&tpm, |context| {
            let secret = Auth::try_from(b"secret".to_vec())?;
            context.execute_with_nullauth_session(|context| context.hierarchy_change_auth(AuthHandle::Owner, secret))
        })
        .unwrap();
        for number in [COUNTER, BASELINE] {
            try_delete(&tpm, number).unwrap_err();
        }
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        floor.raise(1).unwrap();
        assert_eq!(floor.floor().unwrap(), 1);
    }

    #[test]
    fn a_deleted_half_is_a_named_error_and_is_not_made_again() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        floor.raise(2).unwrap();
        delete(&tpm, BASELINE);
        assert!(matches!(floor.floor(), Err(FloorError::BaselineMissing)));
        assert!(matches!(floor.raise(5), Err(FloorError::BaselineMissing)));
        assert!(matches!(FloorCounter::open(&tpm.tcti()), Err(FloorError::BaselineMissing)));
        delete(&tpm, COUNTER);
        // Both gone looks like the first use: only a record elsewhere tells.
        assert_eq!(FloorCounter::open(&tpm.tcti()).unwrap().floor().unwrap(), 0);
        delete(&tpm, COUNTER);
        assert!(matches!(floor.floor(), Err(FloorError::CounterMissing)));
        assert!(matches!(FloorCounter::open(&tpm.tcti()), Err(FloorError::CounterMissing)));
    }

    #[test]
    fn a_baseline_above_its_counter_is_a_named_error() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        for _ in 0..SETUP_STEPS - 1 {
            set_up_further(&tpm.tcti()).unwrap();
        }
        let counter = held(&tpm).counter.flatten().unwrap();
        in_tpm(&tpm, |context| write_baseline(context, counter + 1)).unwrap();
        let opened = FloorCounter::open(&tpm.tcti());
        assert!(matches!(opened, Err(FloorError::BaselineAboveCounter { baseline, counter: c })
            if c == counter && baseline == counter + 1));
    }

    #[test]
    fn an_index_defined_otherwise_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        in_tpm(&tpm, |context| {
            let writable = readable().with_nv_index_type(NvIndexType::Ordinary).with_auth_write(true).build()?;
            define(context, index(BASELINE, writable, Digest::default())?)
        })
        .unwrap();
        assert!(matches!(FloorCounter::open(&tpm.tcti()), Err(FloorError::Foreign(BASELINE))));
        delete(&tpm, BASELINE);
        in_tpm(&tpm, |context| {
            let not_counting = readable().with_nv_index_type(NvIndexType::Ordinary).with_auth_write(true).build()?;
            define(context, index(COUNTER, not_counting, Digest::default())?)
        })
        .unwrap();
        assert!(matches!(FloorCounter::open(&tpm.tcti()), Err(FloorError::Foreign(COUNTER))));
    }

    /// Nothing in the TPM shows it, so whoever uses the floor compares it with the record of the update that raised it.
    #[test]
    fn a_tpm_state_that_was_put_back_shows_the_lower_floor_of_its_time() {
        let (state, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tpm = Swtpm::start(state.path());
        FloorCounter::open(&tpm.tcti()).unwrap().raise(1).unwrap();
        drop(tpm);
        copy_files(state.path(), old.path());
        let tpm = Swtpm::start(state.path());
        FloorCounter::open(&tpm.tcti()).unwrap().raise(3).unwrap();
        drop(tpm);
        copy_files(old.path(), state.path());
        let tpm = Swtpm::start(state.path());
        assert_eq!(FloorCounter::open(&tpm.tcti()).unwrap().floor().unwrap(), 1);
    }

    #[test]
    fn too_many_steps_are_refused_before_the_first() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        let floor = FloorCounter::open(&tpm.tcti()).unwrap();
        floor.raise(1).unwrap();
        let refused = floor.raise(2 + MAX_STEPS);
        assert!(matches!(refused, Err(FloorError::TooManySteps { from: 1, to: 1002 })));
        assert_eq!(floor.floor().unwrap(), 1);
    }

    #[test]
    fn a_tpm_that_is_not_there_is_a_named_error() {
        let tcti = format!("swtpm:host=127.0.0.1,port={}", two_free_ports());
        let opened = FloorCounter::open(&tcti);
        assert!(matches!(opened, Err(FloorError::Tpm(KeyError::Tpm { handle: COUNTER, .. }))));
    }
}
