//! After a fall-back the previous release reads what the newer one wrote. The stored files are that newer release's;
//! if one of these tests fails, mend the change, not the file.

use pitstop_types::UpdateEnd;
use serde_json::Value;

use crate::sim::{World, live_on};
use crate::{Boot, Event, Phase, Record};

const NEWER: &str = include_str!("records/newer-trial.json");
const TODAY: &str = include_str!("records/v1-bootable.json");

fn boot(slot: &str) -> Event {
    Event::Started(Boot { slot: slot.parse().unwrap(), boot_id: "after".into(), at: 1_000_100, reason: String::new() })
}

#[test]
fn todays_record_stays_readable() {
    let record: Record = serde_json::from_str(TODAY).unwrap();
    assert!(record.readable());
    assert_eq!(record.phase, Phase::Bootable);
    assert_eq!(record.steps.len(), 5);
}

#[test]
fn a_newer_releases_record_is_undone_by_this_one_and_nothing_of_it_is_lost() {
    let record: Record = serde_json::from_str(NEWER).unwrap();
    assert!(record.readable());
    assert_eq!(record.phase, Phase::Unknown);
    let back = record.apply(&boot("A"), 1_000_100).unwrap();
    assert_eq!(back.phase, Phase::FallenBack);
    let written: Value = serde_json::to_value(&back).unwrap();
    assert_eq!(written["battery_plan"]["reserve_percent"], 35);
    assert_eq!(written["steps"][0]["thermal_class"], "b");
}

#[test]
fn a_newer_record_ends_all_old_in_a_vehicle_that_fell_back() {
    // The vehicle as it is when the new slot did not start: ECUs changed, slot A runs.
    let mut world = World::new(&["bcm", "tcu", "gateway", "tpms", "adas"]);
    world.faults.crashing.insert("2.0".into());
    let mut replaced = false;
    let outcome = live_on(&mut world, |world| {
        if !replaced && world.load().is_some_and(|record| record.phase == Phase::Rebooting) {
            world.record = Some(NEWER.to_owned());
            replaced = true;
        }
    })
    .unwrap();
    assert!(replaced);
    assert_eq!(outcome.end, Some(UpdateEnd::AllOld));
    world.check(outcome.end).unwrap();
}

#[test]
fn a_record_past_the_point_of_no_return_is_not_undone() {
    let mut record: Record = serde_json::from_str(NEWER).unwrap();
    record.direction = crate::Direction::Final;
    let next = record.apply(&boot("A"), 1_000_100).unwrap();
    assert_eq!((next.phase, next.end), (Phase::Stopped, Some(UpdateEnd::NeedsWorkshop)));
}

#[test]
fn a_record_that_is_not_for_this_release_says_so() {
    let mut record: Record = serde_json::from_str(TODAY).unwrap();
    record.readable_from = 2;
    assert!(!record.readable());
}
