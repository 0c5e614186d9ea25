//! Random events, allowed or not: the machine never panics, and what must always hold holds.

use pitstop_types::{Digest, EcuId, EcuReport, UnixSeconds, UpdateEnd, UpdateId, UserChoice};
use proptest::prelude::*;

use crate::plan::plan;
use crate::sim::{decision, facts};
use crate::{Answer, Boot, Duty, Effect, Event, Failure, Phase, Record, Refused, Role, effects};

const NOW: UnixSeconds = 1_000_000;

fn record() -> Record {
    let decision = decision(&["bcm", "adas", "tcu"]);
    let plan = plan(&decision, &facts()).unwrap();
    Record::new(decision, plan, NOW)
}

fn any_ecu() -> impl Strategy<Value = EcuId> {
    prop::sample::select(vec!["bcm", "adas", "tcu", "nobody"]).prop_map(|id| EcuId::new(id).unwrap())
}

fn boot(slot: &str, id: u32) -> Boot {
    Boot { slot: slot.parse().unwrap(), boot_id: id.to_string(), at: NOW, reason: String::new() }
}

fn answer(choice: UserChoice) -> Event {
    Event::Answered(Answer { choice, at: NOW, origin: "hmi".into(), prompt: Digest::of(b"x"), ask_again_at: NOW + 10 })
}

fn reports(version: &str) -> Vec<EcuReport> {
    let report = |id: &&str| EcuReport {
        ecu: EcuId::new(*id).unwrap(),
        hardware: format!("{id}-a1").parse().unwrap(),
        version: Some(version.parse().unwrap()),
        software_number: String::new(),
        serial: String::new(),
    };
    ["bcm", "adas", "tcu"].iter().map(report).collect()
}

fn any_event() -> impl Strategy<Value = Event> {
    let failure = || Failure::new("CheckFailed", "x");
    let attempt = 1u32..4;
    prop_oneof![
        (prop::bool::ANY, 0u32..3).prop_map(|(new, id)| Event::Started(boot(if new { "B" } else { "A" }, id))),
        (any_ecu(), prop::bool::ANY).prop_map(|(ecu, target)| Event::BundleAdmitted {
            ecu,
            role: if target { Role::Target } else { Role::Fallback }
        }),
        Just(Event::BundleRefused(failure())),
        (any_ecu(), attempt.clone()).prop_map(|(ecu, attempt)| Event::StepStaged { ecu, attempt }),
        (any_ecu(), attempt.clone()).prop_map(|(ecu, attempt)| Event::StepActivated { ecu, attempt }),
        (any_ecu(), attempt.clone()).prop_map(|(ecu, attempt)| Event::StepCommitted { ecu, attempt }),
        (any_ecu(), attempt.clone()).prop_map(|(ecu, attempt)| Event::StepRolledBack { ecu, attempt }),
        (any_ecu(), attempt, prop::bool::ANY).prop_map(move |(ecu, attempt, again)| Event::StepFailed {
            ecu,
            attempt,
            failure: failure(),
            again
        }),
        prop::sample::select(vec![
            UserChoice::Now,
            UserChoice::Later,
            UserChoice::No,
            UserChoice::At { unix_secs: NOW + 5 },
            UserChoice::At { unix_secs: i64::MAX }
        ])
        .prop_map(answer),
        prop::sample::select(vec!["1.0", "2.0"]).prop_map(|version| Event::ReadBack(reports(version))),
        prop::sample::select(vec![
            Duty::Floors,
            Duty::Inhibit,
            Duty::Report,
            Duty::History,
            Duty::Notice,
            Duty::Release
        ])
        .prop_map(Event::DutyDone),
        prop::sample::select(vec![
            Event::Due,
            Event::Safe,
            Event::MarkedGood,
            Event::OtherSlotBad,
            Event::Expired,
            Event::DeadlinePassed,
            Event::TooOften,
            Event::TrialFailed(Failure::new("Unhealthy", "x")),
            Event::Cancelled { origin: "test".into() },
            Event::Superseded { by: UpdateId::new("u-2").unwrap() },
        ]),
    ]
}

/// What a world in which all goes well answers to an effect.
fn good_outcome(record: &Record, effect: &Effect, boots: u32) -> Event {
    match effect.clone() {
        Effect::Admit { ecu, role } => Event::BundleAdmitted { ecu, role },
        Effect::Stage { ecu, attempt } => Event::StepStaged { ecu, attempt },
        Effect::Ask { .. } => answer(UserChoice::Now),
        Effect::MakeSafe { .. } => Event::Safe,
        Effect::Activate { ecu, attempt } => Event::StepActivated { ecu, attempt },
        Effect::Reboot => Event::Started(boot(if record.phase == Phase::UndoRebooting { "A" } else { "B" }, boots)),
        Effect::MarkGood => Event::MarkedGood,
        Effect::ReadBack => Event::ReadBack(reports(if record.phase == Phase::Undone { "1.0" } else { "2.0" })),
        Effect::Commit { ecu, attempt } => Event::StepCommitted { ecu, attempt },
        Effect::MarkOtherBad => Event::OtherSlotBad,
        Effect::RollBack { ecu, attempt } => Event::StepRolledBack { ecu, attempt },
        Effect::Do(duty) => Event::DutyDone(duty),
    }
}

fn play(events: &[Event]) -> Result<Record, TestCaseError> {
    let mut record = record();
    let mut committing = false;
    for event in events {
        match record.apply(event, NOW) {
            Ok(next) => record = next,
            Err(Refused::OffTable { from, event, to }) => {
                return Err(TestCaseError::fail(format!("{event} leads from {from} to {to}, off the table")));
            }
            Err(_) => continue,
        }
        committing |= record.phase == Phase::Committing;
        for effect in effects(&record) {
            match effect {
                Effect::Activate { .. } => prop_assert!(record.consent.is_some(), "changes without consent"),
                Effect::RollBack { .. } => prop_assert!(!committing, "undone after the point of no return"),
                _ => {}
            }
        }
        if record.end == Some(UpdateEnd::AllNew) {
            prop_assert!(
                record.steps.iter().all(|step| step.state == crate::StepState::Committed),
                "a mixture called success"
            );
        }
        let stored = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Record>(&stored).unwrap(), &record);
    }
    Ok(record)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_events_keep_what_must_always_hold(events in prop::collection::vec(any_event(), 0..120)) {
        play(&events)?;
    }

    #[test]
    fn from_wherever_events_led_a_good_world_brings_the_update_to_an_end(events in prop::collection::vec(any_event(), 0..120)) {
        let mut record = play(&events)?;
        let mut boots = 100;
        for _ in 0..400 {
            if record.phase == Phase::Ended {
                break;
            }
            boots += 1;
            let event = match effects(&record).first() {
                Some(effect) => good_outcome(&record, effect, boots),
                None => Event::Due,
            };
            match record.apply(&event, NOW) {
                Ok(next) => record = next,
                Err(refused) => prop_assert!(false, "{}", refused),
            }
        }
        prop_assert_eq!(record.phase, Phase::Ended);
        prop_assert!(record.end.is_some());
    }
}
