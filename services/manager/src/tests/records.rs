//! Stored records: damaged, of a newer release, of this one.

use std::sync::Arc;
use std::time::Duration;

use pitstop_lifecycle::sim::World;
use pitstop_store::{Storage, StoreError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fakes::Stage;
use super::lives::Vehicle;
use crate::{Input, Service};

fn load(vehicle: &Vehicle) -> Result<Service, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let stage = Stage {
        world: vehicle.world.clone(),
        scene: vehicle.scene.clone(),
        disk: vehicle.disk.clone(),
        dead: Arc::default(),
        boot_id: "x".into(),
        began: Instant::now(),
        began_at: 1_000_000,
    };
    let (news, _) = mpsc::unbounded_channel();
    Service::load(stage.ports(), Input::default().validate().unwrap(), stage.storage(), news)
}

fn waiting() -> Vehicle {
    let mut vehicle = Vehicle::new(World::new(&["adas"]));
    vehicle.scene().silent_driver = true;
    vehicle.live(|caller| async move {
        caller.check().await.unwrap();
        caller.until("awaiting-consent").await;
    });
    vehicle
}

#[test]
fn a_damaged_record_is_put_aside_and_the_service_starts() {
    let vehicle = waiting();
    let storage = vehicle.disk.storage();
    storage.replace("record", b"pitstop 1 nonsense\n{}").unwrap();
    assert_eq!(load(&vehicle).unwrap().shown().phase, "idle");
    assert!(storage.read("record").unwrap().is_none());
    assert!(storage.read("record.damaged").unwrap().is_some());
}

#[test]
fn an_update_whose_record_is_lost_holds_neither_vehicle_nor_slots() {
    let mut vehicle = waiting();
    vehicle.world().inhibit = true;
    vehicle.disk.storage().replace("record", b"pitstop 1 nonsense\n{}").unwrap();
    // A service that is away at first is asked again.
    vehicle.scene().away_percent = 50;
    vehicle.scene().nothing_wanted = true;
    vehicle.live(|_| tokio::time::sleep(Duration::from_secs(120))).unwrap();
    assert!(!vehicle.world().inhibit);
    assert_eq!(vehicle.scene().orders.last().unwrap(), "rollback tcu");
}

#[test]
fn an_update_under_way_stays_held_over_a_start() {
    let mut vehicle = waiting();
    vehicle.world().inhibit = true;
    vehicle.live(|_| tokio::time::sleep(Duration::from_secs(120))).unwrap();
    assert!(vehicle.world().inhibit && vehicle.scene().orders.iter().all(|order| order != "rollback tcu"));
}

#[test]
fn a_record_that_this_release_must_not_act_on_stops_the_service_and_stays() {
    let vehicle = waiting();
    let storage = vehicle.disk.storage();
    let stored = String::from_utf8(storage.read("record").unwrap().unwrap()).unwrap();
    let body = stored.split_once('\n').unwrap().1.replace("\"readable_from\":1", "\"readable_from\":9");
    let text = format!("pitstop 1 {}\n{body}", pitstop_types::Digest::of(body.as_bytes()));
    storage.replace("record", text.as_bytes()).unwrap();
    assert!(matches!(load(&vehicle), Err(StoreError::Format { found: 9, .. })));
    assert!(storage.read("record").unwrap().is_some());
}

#[test]
fn a_running_update_is_shown_from_the_first_moment() {
    let vehicle = waiting();
    let shown = load(&vehicle).unwrap().shown();
    assert_eq!((shown.update.as_str(), shown.phase.as_str()), ("u-1", "awaiting-consent"));
}
