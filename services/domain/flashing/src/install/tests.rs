mod fake;

use std::sync::Arc;
use std::time::Duration;

use pitstop_types::{EcuId, HardwareId, SoftwareVersion};
use proptest::prelude::*;

use super::*;
use crate::BlankFinder;
use fake::{FIRMWARE, FakeEcu, Fault, SEAL, software};

const SINGLE: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/bcm.toml");
const DUAL: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/adas.toml");
/// More requests than any job here needs: beyond it a machine is not ending.
const MANY: usize = 5000;

fn profile(dual: bool) -> Arc<Profile> {
    let text = if dual { DUAL } else { SINGLE };
    let security = "kind = \"seed-key\"\nplugin = \"reverse\"\nlevel = 0x11\n";
    let mut profile = Profile::read(&text.replacen("kind = \"none\"\n", security, 1)).expect("shipped profile");
    profile.transfer.split_gap = 100;
    Arc::new(profile)
}

fn order(job: Job, from: &str, to: &str) -> (Order, Vec<u8>) {
    let (description, payload) = software(to, 3000);
    let blanks = description.segments.iter().map(|segment| {
        let mut finder = BlankFinder::new(0xFF, 100);
        finder.feed(&payload[segment.offset as usize..segment.end_offset() as usize]);
        finder.finish()
    });
    let content = Content { blanks: Arc::new(blanks.collect()), description: Arc::new(description), seal: Some(SEAL) };
    let target = Ident { software_number: "PS-1".into(), version: SoftwareVersion::new(to).unwrap() };
    let order = Order {
        ecu: EcuId::new("x").unwrap(),
        job,
        hardware: HardwareId::new("x-a1").unwrap(),
        expected: SoftwareVersion::new(from).ok(),
        target,
        content: (job == Job::Install).then_some(content),
        resumed: false,
        erased: false,
    };
    (order, payload)
}

/// Drives the machine against the ECU until it ends, or until `acts` acts were done (`None`: killed there).
fn drive(
    machine: &mut Installation,
    ecu: &mut FakeEcu,
    payload: &[u8],
    acts: usize,
    permit: bool,
) -> Option<Result<Success, Failure>> {
    let mut now = Duration::ZERO;
    for _ in 0..acts {
        now += Duration::from_millis(1);
        let erases = ecu.erases;
        match machine.poll_act() {
            Act::Permit(_) => machine.handle_permit(permit),
            Act::Send { request, .. } => {
                let outcome = ecu.ask(&request);
                if matches!(outcome, Outcome::NoAnswer(_)) {
                    now += Duration::from_secs(1);
                }
                machine.handle_outcome(now, outcome);
            }
            Act::Payload { offset, length } => {
                let (start, end) = (offset as usize, offset as usize + length as usize);
                machine.handle_payload(payload.get(start..end).map(<[u8]>::to_vec));
            }
            Act::Key { seed, .. } => machine.handle_key(Ok(seed.into_iter().rev().collect())),
            Act::Reopen => machine.handle_reopened(now, Ok(())),
            Act::Wait(time) => {
                now += time;
                machine.handle_timeout();
            }
            Act::End(result) => return Some(result),
        }
        assert!(permit || ecu.erases == erases, "erased without leave");
    }
    assert!(acts < MANY, "the job does not end: {:?}", ecu.log);
    None
}

fn run(job: Job, from: &str, to: &str, ecu: &mut FakeEcu) -> Result<Success, Failure> {
    let (order, payload) = order(job, from, to);
    let mut machine = Installation::new(order, profile(ecu.dual));
    drive(&mut machine, ecu, &payload, MANY, true).expect("ends")
}

fn assert_new(ecu: &FakeEcu, bank: usize) {
    let (description, payload) = software("2.0", 3000);
    assert!(ecu.holds(bank, &description, &payload), "memory differs");
}

#[test]
fn a_single_bank_ecu_is_flashed_from_end_to_end() {
    let mut ecu = FakeEcu::running("1.0", false);
    let success = run(Job::Install, "1.0", "2.0", &mut ecu).expect("installs");
    assert!(!success.already && success.identity.version.unwrap().as_str() == "2.0");
    assert_new(&ecu, 0);
    insta::assert_snapshot!("single_bank_trace", ecu.log.join("\n"));
}

#[test]
fn a_dual_bank_ecu_is_staged_activated_committed_and_rolled_back() {
    let mut ecu = FakeEcu::running("1.0", true);
    run(Job::Install, "1.0", "2.0", &mut ecu).expect("stages");
    assert_eq!(ecu.version().as_deref(), Some("1.0"));
    assert_new(&ecu, 1);
    let sent = ecu.log.iter().filter(|line| line.starts_with("36")).count();
    run(Job::Install, "1.0", "2.0", &mut ecu).expect("is staged already");
    assert_eq!(ecu.log.iter().filter(|line| line.starts_with("36")).count(), sent, "nothing is sent twice");
    run(Job::Activate, "1.0", "2.0", &mut ecu).expect("activates");
    assert_eq!(ecu.version().as_deref(), Some("2.0"));
    assert!(run(Job::Activate, "1.0", "2.0", &mut ecu).expect("again").already);
    run(Job::RollBack, "2.0", "1.0", &mut ecu).expect("rolls back");
    assert_eq!(ecu.version().as_deref(), Some("1.0"));
    run(Job::Activate, "1.0", "2.0", &mut ecu).expect("activates again");
    run(Job::Commit, "1.0", "2.0", &mut ecu).expect("commits");
    insta::assert_snapshot!("dual_bank_trace", ecu.log.join("\n"));
}

#[test]
fn what_runs_already_is_left_alone() {
    let mut ecu = FakeEcu::running("2.0", false);
    assert!(run(Job::Install, "1.0", "2.0", &mut ecu).expect("succeeds").already);
    assert_eq!(ecu.erases, 0);
}

#[test]
fn the_version_alone_does_not_end_a_job_after_one_that_was_cut() {
    let mut ecu = FakeEcu::running("2.0", false);
    ecu.banks[0].retain(|at, _| *at >= SEAL || *at < FIRMWARE + 1000);
    let (order, payload) = order(Job::Install, "1.0", "2.0");
    let mut machine = Installation::new(Order { resumed: true, erased: true, ..order.clone() }, profile(false));
    let success = drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("mends it");
    assert!(!success.already);
    assert_new(&ecu, 0);
    // Of one that has it all, nothing is written; it is reset into what was checked.
    let erases = ecu.erases;
    let mut machine = Installation::new(Order { resumed: true, erased: true, ..order.clone() }, profile(false));
    drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("is whole");
    assert_eq!((ecu.erases, ecu.version().as_deref()), (erases, Some("2.0")));
    // One that was disrupted and not erased is only read.
    ecu.log.clear();
    let mut machine = Installation::new(Order { resumed: true, ..order }, profile(false));
    assert!(drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("runs it").already);
    assert!(!ecu.log.contains(&"10 02".to_owned()), "{:?}", ecu.log);
}

#[test]
fn an_ecu_that_answers_for_a_while_after_the_answer_to_its_reset_is_not_flashed_again() {
    for reset_delay in 1..12 {
        let mut ecu = FakeEcu::running("1.0", false);
        ecu.reset_delay = reset_delay;
        let end = run(Job::Install, "1.0", "2.0", &mut ecu);
        assert!(end.is_ok(), "{reset_delay} answers: {end:?}\n{}", ecu.log.join("\n"));
        assert_new(&ecu, 0);
        assert_eq!(
            (ecu.erases, ecu.log.iter().filter(|line| *line == "11 01").count()),
            (2, 1),
            "{reset_delay} answers"
        );
    }
}

#[test]
fn a_loader_that_calls_erased_software_anything_and_tells_no_hardware_is_taken_up_again() {
    for at in 1..=undisturbed(false) {
        let mut ecu = FakeEcu::running("1.0", false);
        ecu.placeholder = Some("00000000");
        ecu.faults.insert(at, Fault::Reset);
        let (mut order, payload) = order(Job::Install, "1.0", "2.0");
        Arc::make_mut(&mut order.content.as_mut().unwrap().description).expect.software_numbers = vec!["PS-1".into()];
        let mut first = Installation::new(order.clone(), profile(false));
        let end = drive(&mut first, &mut ecu, &payload, MANY, true).expect("ends");
        assert!(end.is_ok(), "reset at {at}: {end:?}\n{}", ecu.log.join("\n"));
        assert_new(&ecu, 0);
        // The same where the job itself ended there.
        let mut ecu = FakeEcu::running("1.0", false);
        ecu.placeholder = Some("00000000");
        let mut first = Installation::new(order.clone(), profile(false));
        if drive(&mut first, &mut ecu, &payload, at, true).is_none() && first.permitted {
            ecu.restart();
            let again = Order { resumed: true, erased: first.erased, ..order };
            let end = drive(&mut Installation::new(again, profile(false)), &mut ecu, &payload, MANY, true).unwrap();
            assert!(end.is_ok(), "cut after {at} acts: {end:?}");
        }
    }
}

#[test]
fn the_version_alone_does_not_end_a_job_that_has_erased() {
    for at in 1..=undisturbed(false) {
        let mut ecu = FakeEcu::running("1.0", false);
        ecu.faults.insert(at, Fault::Reset);
        let (mut order, payload) = order(Job::Install, "1.0", "2.0");
        // The segment that names the version comes before the firmware, as it does where no seal is known.
        order.content.as_mut().unwrap().seal = Some(FIRMWARE);
        let mut machine = Installation::new(order, profile(false));
        let end = drive(&mut machine, &mut ecu, &payload, MANY, true).expect("ends");
        assert!(end.is_ok() || ecu.version().as_deref() != Some("2.0"), "reset at {at}: {end:?}");
        if end.is_ok() {
            assert_new(&ecu, 0);
        }
    }
}

#[test]
fn a_dual_bank_ecu_that_runs_the_wanted_software_keeps_its_way_back() {
    for job in [Job::Install, Job::Activate] {
        let mut ecu = FakeEcu::running("2.0", true);
        let (order, payload) = order(job, "1.0", "2.0");
        let mut machine = Installation::new(Order { resumed: true, ..order }, profile(true));
        assert!(drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("succeeds").already);
        assert!((ecu.erases, ecu.active) == (0, 0) && !ecu.log.contains(&"10 02".to_owned()), "{:?}", ecu.log);
    }
}

#[test]
fn another_ecu_than_expected_is_refused_before_anything_is_erased() {
    let mut ecu = FakeEcu::running("1.5", false);
    assert!(matches!(run(Job::Install, "1.0", "2.0", &mut ecu), Err(Failure::UnexpectedSoftware { .. })));
    let mut other = FakeEcu::running("1.0", false);
    other.hardware = "x-b2";
    assert!(matches!(
        run(Job::Install, "1.0", "2.0", &mut other),
        Err(Failure::Plan(crate::PlanError::WrongHardware { .. }))
    ));
    let mut loader = FakeEcu::running("1.0", false);
    loader.banks[0].clear();
    loader.restart();
    assert!(matches!(run(Job::Install, "1.0", "2.0", &mut loader), Err(Failure::UnexpectedSoftware { .. })));
    assert_eq!((ecu.erases, other.erases, loader.erases), (0, 0, 0));
    let mut dual = FakeEcu::running("1.5", true);
    assert!(matches!(run(Job::Commit, "1.5", "2.0", &mut dual), Err(Failure::UnexpectedSoftware { .. })));
}

#[test]
fn without_leave_the_ecu_is_only_read() {
    let mut ecu = FakeEcu::running("1.0", false);
    let (order, payload) = order(Job::Install, "1.0", "2.0");
    let mut machine = Installation::new(order, profile(false));
    let end = drive(&mut machine, &mut ecu, &payload, MANY, false);
    assert!(matches!(end, Some(Err(Failure::Denied { .. }))));
    assert_eq!(ecu.log, ["10 03", "22 F1 91", "22 F1 88", "22 F1 89", "22 F1 8C", "10 01"]);
}

#[test]
fn what_was_activated_and_not_started_yet_is_taken_back_without_a_reset() {
    let mut ecu = FakeEcu::running("1.0", true);
    run(Job::RollBack, "1.0", "1.0", &mut ecu).expect("rolls back");
    assert!(ecu.log.contains(&"31 01 F0 12".to_owned()) && !ecu.log.contains(&"11 01".to_owned()), "{:?}", ecu.log);
}

#[test]
fn taking_back_what_was_activated_needs_leave() {
    let mut ecu = FakeEcu::running("1.0", true);
    let (order, payload) = order(Job::RollBack, "1.0", "1.0");
    let mut machine = Installation::new(order, profile(true));
    let end = drive(&mut machine, &mut ecu, &payload, MANY, false);
    assert!(matches!(end, Some(Err(Failure::Denied { .. }))));
    assert_eq!(ecu.log, ["10 03", "22 F1 91", "22 F1 88", "22 F1 89", "22 F1 8C", "10 01"]);
}

#[test]
fn an_ecu_that_starts_into_the_other_bank_while_it_is_rolled_back_is_reset_as_well() {
    let mut ecu = FakeEcu::running("1.0", true);
    run(Job::Install, "1.0", "2.0", &mut ecu).expect("stages");
    run(Job::Activate, "1.0", "2.0", &mut ecu).expect("activates");
    // As if it had not been started since: the old software runs.
    ecu.active = 0;
    ecu.log.clear();
    let (mut order, payload) = order(Job::RollBack, "1.0", "1.0");
    order.expected = None;
    let mut machine = Installation::new(order, profile(true));
    while ecu.log.last().is_none_or(|line| line != "10 02") {
        drive(&mut machine, &mut ecu, &payload, 1, true);
    }
    ecu.active = 1;
    ecu.faults.insert(ecu.requests + 1, Fault::Reset);
    drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("rolls back");
    assert!(ecu.active == 0 && ecu.log.contains(&"11 01".to_owned()), "{:?}", ecu.log);
}

#[test]
fn a_rejected_check_is_tried_again_within_its_bound_and_leaves_the_ecu_in_its_loader() {
    let mut ecu = FakeEcu::running("1.0", false);
    ecu.check_fails = true;
    let end = run(Job::Install, "1.0", "2.0", &mut ecu);
    assert!(matches!(end, Err(Failure::CheckFailed { address: FIRMWARE, .. })), "{end:?}");
    // Two segments erased at first, and the failing one twice more.
    assert_eq!(ecu.erases, 4);
    assert!(ecu.loader);
    // The fallback is then flashed with no version expected: it takes any.
    ecu.check_fails = false;
    let (mut order, payload) = order(Job::Install, "-", "1.0");
    order.expected = None;
    let mut machine = Installation::new(order, profile(false));
    drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().expect("falls back");
    assert_eq!(ecu.version().as_deref(), Some("1.0"));
}

#[test]
fn a_silent_ecu_ends_within_one_boot_time() {
    let mut ecu = FakeEcu::running("1.0", false);
    ecu.faults = (0..MANY).map(|at| (at, Fault::RequestLost)).collect();
    assert!(matches!(run(Job::Install, "1.0", "2.0", &mut ecu), Err(Failure::NotResponding { .. })));
    assert!(ecu.requests < 20, "{}", ecu.requests);
}

/// Number of requests of an undisturbed run.
fn undisturbed(dual: bool) -> usize {
    let mut ecu = FakeEcu::running("1.0", dual);
    run(Job::Install, "1.0", "2.0", &mut ecu).expect("installs");
    ecu.requests
}

#[test]
fn one_fault_at_any_request_is_survived() {
    for dual in [false, true] {
        for at in 1..=undisturbed(dual) {
            for fault in [
                Fault::AnswerLost,
                Fault::RequestLost,
                Fault::LinkLost,
                Fault::Reset,
                Fault::Nrc(0x24),
                Fault::Nrc(0x7F),
                Fault::Nrc(0x33),
            ] {
                let mut ecu = FakeEcu::running("1.0", dual);
                ecu.faults.insert(at, fault);
                let end = run(Job::Install, "1.0", "2.0", &mut ecu);
                // A read that was refused once reads as "no software"; before the first erase that is somebody else's doing.
                let misread = matches!(fault, Fault::Nrc(_)) && at <= 5;
                assert!(end.is_ok() || misread, "{fault:?} at {at}: {end:?}\n{}", ecu.log.join("\n"));
                if end.is_ok() {
                    assert_new(&ecu, usize::from(dual));
                }
            }
        }
    }
}

#[test]
fn killed_at_any_act_and_started_again_it_ends_well() {
    for dual in [false, true] {
        for acts in 0..2 * undisturbed(dual) {
            let mut ecu = FakeEcu::running("1.0", dual);
            let (order, payload) = order(Job::Install, "1.0", "2.0");
            let mut first = Installation::new(order.clone(), profile(dual));
            if drive(&mut first, &mut ecu, &payload, acts, true).is_some() {
                break;
            }
            // What a start would take for valid is whole, at every instant.
            if let Some(version) = ecu.version() {
                let (description, payload) = software(&version, 3000);
                assert!(
                    ecu.holds(ecu.active, &description, &payload),
                    "half of {version} vouched for after {acts} acts"
                );
            }
            let again = Order { resumed: true, erased: first.erased, ..order };
            let mut second = Installation::new(again, profile(dual));
            let end = drive(&mut second, &mut ecu, &payload, MANY, true).unwrap();
            assert!(end.is_ok(), "after {acts} acts: {end:?}");
            assert_new(&ecu, usize::from(dual));
        }
    }
}

#[test]
fn each_negative_response_to_a_block_has_its_reaction() {
    let mut table = String::new();
    for code in [0x10, 0x13, 0x22, 0x24, 0x31, 0x33, 0x70, 0x71, 0x72, 0x73, 0x7E, 0x7F, 0x92, 0x93] {
        let mut ecu = FakeEcu::running("1.0", false);
        let first_block = 1 + FakeEcu::running("1.0", false).first_block();
        ecu.faults.insert(first_block, Fault::Nrc(code));
        let end = run(Job::Install, "1.0", "2.0", &mut ecu);
        let end = match end {
            Ok(_) => format!(
                "installed after {} erases, {} sessions",
                ecu.erases,
                ecu.log.iter().filter(|l| *l == "10 02").count()
            ),
            Err(failure) => failure.to_string(),
        };
        table += &format!("{code:02X} {end}\n");
    }
    insta::assert_snapshot!("reactions_to_a_refused_block", table);
}

impl FakeEcu {
    /// Request number of the first 36 in an undisturbed run.
    fn first_block(mut self) -> usize {
        run(Job::Install, "1.0", "2.0", &mut self).expect("installs");
        self.log.iter().position(|line| line.starts_with("36")).expect("sends")
    }
}

#[test]
fn cancelling_stops_before_the_first_erase_and_not_after() {
    let (mut before, mut after) = (0, 0);
    for acts in 0..60 {
        for check_before in [true, false] {
            let mut ecu = FakeEcu::running("1.0", false);
            let (order, payload) = order(Job::Install, "1.0", "2.0");
            let mut profile = (*profile(false)).clone();
            profile.check.before = check_before;
            let mut machine = Installation::new(order, Arc::new(profile));
            assert!(drive(&mut machine, &mut ecu, &payload, acts, true).is_none());
            let cancelled = !machine.erased;
            *if cancelled { &mut before } else { &mut after } += 1;
            machine.cancel();
            let end = drive(&mut machine, &mut ecu, &payload, MANY - 1, true).unwrap();
            assert_eq!(matches!(end, Err(Failure::Cancelled { .. })), cancelled, "after {acts} acts: {end:?}");
            assert_eq!(ecu.version().as_deref(), Some(if cancelled { "1.0" } else { "2.0" }), "after {acts} acts");
        }
    }
    assert!(before > 20 && after > 20, "{before} {after}");
}

#[test]
fn a_change_of_bank_is_cancelled_before_the_leave_and_not_after() {
    let mut staged = FakeEcu::running("1.0", true);
    run(Job::Install, "1.0", "2.0", &mut staged).expect("stages");
    for acts in 0..14 {
        let mut ecu = FakeEcu::running("1.0", true);
        ecu.banks.clone_from(&staged.banks);
        let (order, payload) = order(Job::Activate, "1.0", "2.0");
        let mut machine = Installation::new(order, profile(true));
        let mut permitted = false;
        for _ in 0..acts {
            permitted |= matches!(machine.poll_act(), Act::Permit(_));
            assert!(drive(&mut machine, &mut ecu, &payload, 1, true).is_none());
        }
        machine.cancel();
        let end = drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap();
        assert_eq!(matches!(end, Err(Failure::Cancelled { .. })), !permitted, "after {acts} acts: {end:?}");
        assert_eq!(ecu.version().as_deref(), Some(if permitted { "2.0" } else { "1.0" }), "after {acts} acts");
        assert!(permitted || !ecu.log.contains(&"31 01 F0 10".to_owned()), "after {acts} acts: {:?}", ecu.log);
    }
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        any::<u8>().prop_map(Fault::Nrc),
        Just(Fault::AnswerLost),
        Just(Fault::RequestLost),
        Just(Fault::LinkLost),
        Just(Fault::Reset)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever goes wrong: the job ends, and success means that the memory is right.
    #[test]
    fn every_job_ends_and_success_is_true(faults in prop::collection::btree_map(1usize..120, any_fault(), 0..12), dual in any::<bool>()) {
        let mut ecu = FakeEcu::running("1.0", dual);
        ecu.faults = faults;
        if run(Job::Install, "1.0", "2.0", &mut ecu).is_ok() {
            assert_new(&ecu, usize::from(dual));
        }
        // Afterwards a quiet run with nothing expected brings it to the new software, whatever was left behind.
        ecu.faults.clear();
        let (mut order, payload) = order(Job::Install, "1.0", "2.0");
        (order.expected, order.resumed, order.erased) = (None, true, true);
        let mut machine = Installation::new(order, profile(dual));
        prop_assert!(drive(&mut machine, &mut ecu, &payload, MANY, true).unwrap().is_ok());
        assert_new(&ecu, usize::from(dual));
    }
}
