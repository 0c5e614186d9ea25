//! What goes wrong beside the update: clocks, ECUs that sleep, calls that overlap, logs that are full.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::sim::World;
use pitstop_store::Storage;
use pitstop_types::{UpdateEnd, UserChoice};

use super::lives::Vehicle;
use crate::ports::Verb;

const ALL: [&str; 5] = ["bcm", "tcu", "gateway", "tpms", "adas"];

#[test]
fn a_clock_that_is_not_set_delays_and_is_no_failure() {
    let not_set = || OtaError::TimeUnknown("signatures cannot be judged".into());
    let mut vehicle = Vehicle::new(World::new(&ALL));
    {
        let mut scene = vehicle.scene();
        scene.admit_troubles = (0..10).map(|_| not_set()).collect();
        let verbs = [Verb::Stage, Verb::Activate, Verb::Commit];
        scene.troubles = verbs.into_iter().flat_map(|verb| (0..10).map(move |_| (verb, not_set()))).collect();
    }
    assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew));
    assert!(vehicle.scene().troubles.is_empty() && vehicle.scene().admit_troubles.is_empty());
}

#[test]
fn nothing_starts_and_nobody_is_held_while_the_clock_is_not_set() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.live(|caller| async move {
        caller.stage.scene().blocked = vec!["parked".into()];
        caller.check().await.unwrap();
        caller.until("awaiting-conditions").await;
        caller.stage.scene().no_clock = true;
        caller.stage.scene().blocked.clear();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (status, _) = caller.status().await;
        assert_eq!((status.phase.as_str(), status.blocked.len()), ("awaiting-conditions", 1));
        assert!(status.blocked[0].contains("time"), "{:?}", status.blocked);
        assert!(!caller.stage.world().inhibit);
        caller.stage.scene().no_clock = false;
        caller.until("ended").await;
    });
}

#[test]
fn an_ecu_that_sleeps_when_it_is_to_be_committed_gets_time() {
    let mut vehicle = Vehicle::new(World::new(&["adas"]));
    let asleep = || (Verb::Commit, OtaError::EcuNotResponding("adas sleeps".into()));
    vehicle.scene().troubles = (0..4).map(|_| asleep()).collect();
    vehicle.live(|caller| async move {
        caller.until("committing").await;
        let began = tokio::time::Instant::now();
        caller.until("ended").await;
        assert!(began.elapsed() > Duration::from_secs(60), "{:?}", began.elapsed());
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::AllNew));
}

#[test]
fn a_second_answer_counts_although_the_clock_was_set_back() {
    let mut world = World::new(&ALL);
    world.answers = [UserChoice::Later, UserChoice::Now].into();
    let mut vehicle = Vehicle::new(world);
    vehicle.scene().answer_time = Some(0);
    assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew));
}

#[test]
fn an_update_that_is_cancelled_while_conditions_are_judged_does_not_hold_the_vehicle() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.live(|caller| async move {
        caller.stage.scene().slow_evaluate_secs = 10;
        caller.check().await.unwrap();
        caller.until("awaiting-conditions").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        caller.cancel().await.unwrap();
        caller.until("ended").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!caller.stage.world().inhibit);
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::Cancelled));
}

#[test]
fn a_history_that_is_full_ends_the_update_and_not_the_service() {
    let mut vehicle = Vehicle::new(World::new(&["adas"]));
    vehicle.scene().silent_driver = true;
    let mut full = vec![b'x'; usize::try_from(pitstop_store::MAX_DOCUMENT_BYTES).unwrap()];
    // A last line without its end would be a torn one, and make room.
    *full.last_mut().unwrap() = b'\n';
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-consent").await;
        caller.stage.disk.storage().replace("history", &full).unwrap();
        caller.cancel().await.unwrap();
        caller.until("ended").await;
        assert_eq!(caller.check().await, Ok(None), "it is not begun again");
    });
}
