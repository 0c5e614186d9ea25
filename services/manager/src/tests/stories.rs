//! What callers, driver and backend see.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::Role;
use pitstop_lifecycle::sim::World;
use pitstop_types::{EcuId, UpdateEnd, UpdateId, UserChoice};

use super::lives::Vehicle;

const ALL: [&str; 5] = ["bcm", "tcu", "gateway", "tpms", "adas"];

fn ecu(id: &str) -> EcuId {
    EcuId::new(id).unwrap()
}

fn ended(world: World) -> (Vehicle, UpdateEnd) {
    let mut vehicle = Vehicle::new(world);
    let end = vehicle.run().unwrap();
    (vehicle, end)
}

#[test]
fn a_good_update_goes_in_the_plans_order_and_is_reported_with_the_manifest() {
    let (vehicle, end) = ended(World::new(&ALL));
    assert_eq!(end, UpdateEnd::AllNew);
    let scene = vehicle.scene();
    let activated: Vec<&str> = scene
        .orders
        .iter()
        .filter_map(|order| order.strip_prefix("activate "))
        .map(|o| o.split(' ').next().unwrap())
        .collect();
    assert_eq!(activated, ["adas", "tpms", "gateway", "bcm", "tcu"]);
    let last = scene.reports.last().unwrap();
    assert_eq!(last["result"], "all-new");
    assert_eq!(last["manifest"]["signed"], "u-1");
    assert_eq!(last["ecus"].as_array().unwrap().len(), 5);
    assert!(last["ecus"].as_array().unwrap().iter().all(|ecu| ecu["before"] == "1.0" && ecu["after"] == "2.0"));
    let phases: Vec<&str> = scene.reports.iter().map(|report| report["phase"].as_str().unwrap()).collect();
    assert_eq!(phases.first(), Some(&"fetching"));
    assert!(phases.contains(&"committing"));
    let entry = &vehicle.entries()[0];
    assert_eq!(entry.answers.len(), 1);
    assert_eq!(entry.answers[0].origin, "hmi");
}

#[test]
fn a_declined_update_touches_nothing_and_is_not_asked_again() {
    let mut world = World::new(&ALL);
    world.answers = [UserChoice::No].into();
    let (mut vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::Declined);
    assert_eq!(vehicle.scene().reports.last().unwrap()["result"], "declined");
    let again = vehicle.live(|caller| async move { caller.check().await }).unwrap();
    assert_eq!(again, Ok(None));
}

#[test]
fn later_asks_again_and_a_time_is_kept() {
    let mut world = World::new(&ALL);
    let at = world.now + 100_000;
    world.answers = [UserChoice::Later, UserChoice::At { unix_secs: at }].into();
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::AllNew);
    let entry = &vehicle.entries()[0];
    assert_eq!(entry.answers.len(), 2);
    assert!(entry.ended >= at);
}

#[test]
fn a_time_after_the_last_day_is_asked_again() {
    let mut world = World::new(&ALL);
    world.answers = [UserChoice::At { unix_secs: i64::MAX }, UserChoice::Now].into();
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::AllNew);
    assert_eq!(vehicle.entries()[0].answers.len(), 1);
}

#[test]
fn a_refused_bundle_is_named_reported_and_nothing_is_written() {
    let mut world = World::new(&ALL);
    world.faults.refuse = Some((ecu("gateway"), Role::Target));
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::Refused);
    assert!(vehicle.scene().orders.is_empty());
    let refusals = vehicle.history().newest_refusals(10).unwrap();
    assert_eq!((refusals.len(), refusals[0].error_name.as_str()), (1, "HashMismatch"));
    let reports = &vehicle.scene().reports;
    assert_eq!(reports.last().unwrap()["error"], "io.pitstop.Ota1.Error.HashMismatch");
}

#[test]
fn a_refused_decision_is_logged_once_however_often_it_comes() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().verify = Some(OtaError::Replay("signed for another vehicle".into()));
    vehicle.live(|caller| async move {
        assert!(matches!(caller.check().await, Err(OtaError::Replay(_))));
        assert!(matches!(caller.check().await, Err(OtaError::Replay(_))));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(caller.status().await.0.phase, "idle");
    });
    let refusals = vehicle.history().newest_refusals(10).unwrap();
    assert_eq!((refusals.len(), refusals[0].error_name.as_str()), (1, "Replay"));
    assert_eq!(vehicle.scene().reports.len(), 1);
    assert_eq!(vehicle.scene().reports[0]["result"], "refused");
}

#[test]
fn trouble_on_the_way_is_no_refusal() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    for error in [OtaError::Network("away".into()), OtaError::TimeUnknown("not set".into())] {
        vehicle.scene().verify = Some(error.clone());
        let found = vehicle.live(|caller| async move { caller.check().await }).unwrap();
        assert_eq!(found, Err(error));
    }
    assert!(vehicle.history().newest_refusals(10).unwrap().is_empty());
}

#[test]
fn what_could_not_be_undone_is_refused_before_a_byte_is_fetched() {
    let mut world = World::new(&ALL);
    world.decision.ecus[2].fallback = None;
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::Refused);
    assert!(vehicle.world().admitted.is_empty());
    assert_eq!(vehicle.history().newest_refusals(1).unwrap()[0].error_name, "NoFallback");
}

#[test]
fn an_ecu_that_fails_brings_everything_back_to_old() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::AllOld);
    let last = vehicle.scene().reports.last().unwrap().clone();
    assert_eq!(last["error"], "io.pitstop.Ota1.Error.CheckFailed");
    assert!(last["text"].as_str().unwrap().starts_with("bcm: "));
    let orders = vehicle.scene().orders.clone();
    let undone: Vec<&str> = orders
        .iter()
        .filter_map(|order| order.strip_prefix("rollback "))
        .map(|o| o.split(' ').next().unwrap())
        .collect();
    assert_eq!(undone, ["bcm", "gateway", "tpms", "adas"]);
}

#[test]
fn an_ecu_that_cannot_be_brought_back_needs_a_workshop() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    world.faults.roll_back.insert(ecu("bcm"), u32::MAX);
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::NeedsWorkshop);
    assert!(vehicle.entries()[0].reason.as_ref().unwrap().ecu == Some(ecu("bcm")));
    let orders = vehicle.scene().orders.clone();
    assert_eq!(
        orders.last().unwrap(),
        "rollback tcu",
        "or its slot would stay undecided, and keep out the next update: {orders:?}"
    );
}

#[test]
fn a_slot_that_does_not_start_is_undone() {
    let mut world = World::new(&ALL);
    world.faults.crashing.insert("2.0".into());
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::AllOld);
    assert_eq!(vehicle.entries()[0].reason.as_ref().unwrap().error, "FellBack");
}

#[test]
fn a_slot_that_finds_itself_unfit_is_undone() {
    let mut world = World::new(&ALL);
    world.faults.unfit = true;
    let (vehicle, end) = ended(world);
    assert_eq!(end, UpdateEnd::AllOld);
    assert_eq!(vehicle.entries()[0].reason.as_ref().unwrap().error, "Unhealthy");
}

#[test]
fn exported_history_can_be_checked_with_nothing_but_a_hash() {
    let (vehicle, _) = ended(World::new(&ALL));
    let lines = vehicle.history().export(0, 10).unwrap();
    let mut previous = pitstop_types::Digest::of(b"").to_string();
    for line in &lines {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["previous"], previous.as_str());
        let text = format!("{previous}{}", line["data"].as_str().unwrap());
        previous = pitstop_types::Digest::of(text.as_bytes()).to_string();
        assert_eq!(line["hash"], previous.as_str());
    }
    assert_eq!(lines.len(), 1);
    assert!(vehicle.history().export(1, 10).unwrap().is_empty());
}

#[test]
fn services_that_are_killed_now_and_then_are_asked_again() {
    for percent in [5, 20, 50] {
        let mut vehicle = Vehicle::new(World::new(&ALL));
        vehicle.scene().away_percent = percent;
        assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew), "{percent} % of the calls");
    }
}

#[test]
fn a_stored_not_now_is_taken_away_before_it_is_asked_again() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().not_now = true;
    assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew));
}

#[test]
fn status_answers_while_an_ecu_is_being_flashed() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().slow_secs = 100;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("activating").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let asked = tokio::time::Instant::now();
        let (status, steps) = caller.status().await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert_eq!((status.phase.as_str(), status.end.as_str()), ("activating", ""));
        assert!(status.deadline > 0);
        assert_eq!(steps[0].ecu, "adas");
        assert_eq!((steps[0].state.as_str(), steps[0].phase.as_str(), steps[0].total), ("activating", "working", 2));
        assert_eq!(steps[0].bus, "can0");
        assert!(caller.steps_seen().iter().any(|step| step.ecu == "adas" && step.phase == "working"));
    });
}

#[test]
fn conditions_that_block_are_named_and_the_driver_can_still_go() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().blocked = vec!["parked".into()];
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-conditions").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(caller.status().await.0.blocked, ["parked: Vehicle.Speed is 50 km/h"]);
        assert!(!caller.stage.world().inhibit);
        caller.stage.scene().blocked.clear();
        caller.until("activating").await;
    });
    assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew));
}

#[test]
fn conditions_are_judged_again_before_each_ecu_and_the_limit_undoes() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().slow_secs = 5;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("activating").await;
        caller.stage.scene().blocked = vec!["battery-ok".into()];
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (status, steps) = caller.status().await;
        assert_eq!(status.phase, "activating");
        assert_eq!(status.blocked.len(), 1);
        assert_eq!(steps.iter().filter(|step| step.state == "activated").count(), 1);
        // Undoing does not need what is missing.
        caller.until("ended").await;
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::AllOld));
    assert_eq!(vehicle.entries()[0].reason.as_ref().unwrap().error, "DeadlinePassed");
}

#[test]
fn cancelling_before_anything_changed_ends_cancelled_and_after_it_undoes() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().silent_driver = true;
    vehicle.live(|caller| async move {
        assert!(matches!(caller.cancel().await, Err(OtaError::NoUpdate(_))));
        caller.check().await.unwrap();
        caller.until("awaiting-consent").await;
        caller.cancel().await.unwrap();
        caller.until("ended").await;
        assert_eq!(caller.status().await.0.end, "cancelled");
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::Cancelled));

    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().slow_secs = 30;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("activating").await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        caller.cancel().await.unwrap();
        caller.until("ended").await;
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::AllOld));
}

#[test]
fn after_the_point_of_no_return_nothing_is_cancelled() {
    let mut vehicle = Vehicle::new(World::new(&["bcm", "adas"]));
    vehicle.scene().slow_secs = 5;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("committing").await;
        assert!(matches!(caller.cancel().await, Err(OtaError::WrongPhase(_))));
        caller.until("ended").await;
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::AllNew));
}

#[test]
fn a_newer_decision_takes_the_place_of_one_that_has_changed_nothing() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().silent_driver = true;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-consent").await;
        caller.stage.world().decision.update = UpdateId::new("u-2").unwrap();
        assert_eq!(caller.check().await, Ok(Some(UpdateId::new("u-2").unwrap())));
        // Nobody asks: the manager knows that something newer waits.
        while caller.status().await.0.update != "u-2" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        caller.until("awaiting-consent").await;
    });
    assert_eq!(vehicle.entries()[0].end, UpdateEnd::Superseded);
}

#[test]
fn an_update_that_is_no_longer_wanted_is_dropped_before_it_begins() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().silent_driver = true;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-consent").await;
        caller.stage.scene().nothing_wanted = true;
        assert_eq!(caller.check().await, Ok(None));
        caller.until("ended").await;
    });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::Cancelled));
}

#[test]
fn a_check_that_ends_after_the_first_change_takes_nothing_back() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().slow_secs = 20;
    vehicle.scene().blocked = vec!["parked".into()];
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-conditions").await;
        {
            let mut scene = caller.stage.scene();
            scene.nothing_wanted = true;
            scene.slow_verify_secs = 30;
            scene.blocked.clear();
        }
        assert_eq!(caller.check().await, Ok(Some(UpdateId::new("u-1").unwrap())));
        assert_eq!(caller.status().await.0.phase, "activating");
    });
    assert_eq!(vehicle.run(), Ok(UpdateEnd::AllNew));
}

#[test]
fn nobody_has_to_ask_for_a_check() {
    let mut vehicle = Vehicle::new(World::new(&["adas"]));
    vehicle.live(|caller| async move { caller.until("ended").await });
    assert_eq!(vehicle.judge(), Ok(UpdateEnd::AllNew));
}

#[test]
fn an_answer_that_never_comes_lets_the_update_expire() {
    let mut vehicle = Vehicle::new(World::new(&ALL));
    vehicle.scene().silent_driver = true;
    assert_eq!(vehicle.run(), Ok(UpdateEnd::Expired));
}
