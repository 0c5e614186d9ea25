use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tss_esapi::handles::AuthHandle;
use tss_esapi::structures::Auth;

use self::swtpm::{Swtpm, two_free_ports};
use super::*;
use crate::KeyError;
use crate::floor::MAX_STEPS;

#[path = "../../../tests/swtpm/mod.rs"]
mod swtpm;

/// An index that some other user of the TPM had.
const OTHER: u32 = 0x0180_0020;

fn new_tpm() -> (TempDir, Swtpm) {
    let state = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(state.path());
    (state, tpm)
}

fn with_floor() -> (TempDir, Swtpm, FloorCounter) {
    let (state, tpm) = new_tpm();
    let floor = FloorCounter::open(&tpm.tcti()).unwrap();
    (state, tpm, floor)
}

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
    let (state, tpm, floor) = with_floor();
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
    let (_state, tpm) = new_tpm();
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
        let (state, tpm) = new_tpm();
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
    let (_state, tpm, floor) = with_floor();
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
    let (_state, tpm, floor) = with_floor();
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
    let (_state, tpm, floor) = with_floor();
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
    let (_state, tpm) = new_tpm();
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
    let (_state, tpm, floor) = with_floor();
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
    let (_state, tpm) = new_tpm();
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
    let (_state, tpm) = new_tpm();
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
    let (_state, _tpm, floor) = with_floor();
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
