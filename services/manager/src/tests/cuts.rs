//! The manager killed anywhere: power cut at every write and around and within every call that changes something.

use pitstop_lifecycle::sim::{Power, World};
use pitstop_types::{EcuId, UpdateEnd};

use super::lives::Vehicle;

const ALL: [&str; 5] = ["bcm", "tcu", "gateway", "tpms", "adas"];

fn ecu(id: &str) -> EcuId {
    EcuId::new(id).unwrap()
}

fn run_cut(world: &World, cuts: &[usize], uncut: UpdateEnd) -> Result<usize, String> {
    let mut world = world.clone();
    world.power = Power::cut_at(cuts.iter().copied());
    let mut vehicle = Vehicle::new(world);
    let end = vehicle.run().map_err(|error| format!("cut at {cuts:?}: {error}"))?;
    let world = vehicle.world();
    let allowed = end == uncut || world.slots.fall_backs > 0 && matches!(end, UpdateEnd::AllNew | UpdateEnd::AllOld);
    if allowed { Ok(world.power.points) } else { Err(format!("cut at {cuts:?}: ends {end} in place of {uncut}")) }
}

fn cut_everywhere(world: &World, end: UpdateEnd) -> Result<usize, String> {
    let points = run_cut(world, &[], end)?;
    for point in 0..points {
        run_cut(world, &[point], end)?;
    }
    Ok(points)
}

#[test]
fn killed_anywhere_in_a_good_update_it_ends_all_new_or_all_old() {
    let points = cut_everywhere(&World::new(&ALL), UpdateEnd::AllNew).unwrap();
    assert!(points > 120, "{points} points are too few");
}

#[test]
fn killed_anywhere_while_an_ecu_fails_it_ends_all_old() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
}

#[test]
fn killed_anywhere_around_a_fall_back_it_ends_all_old() {
    let mut world = World::new(&ALL);
    world.faults.crashing.insert("2.0".into());
    cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
}

#[test]
fn killed_twice_at_sampled_points_it_ends_as_killed_once() {
    let mut seed = 0xcafe_u64;
    let mut next = |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % limit as u64).unwrap()
    };
    let world = World::new(&ALL);
    let points = run_cut(&world, &[], UpdateEnd::AllNew).unwrap();
    for _ in 0..60 {
        run_cut(&world, &[next(points), next(points)], UpdateEnd::AllNew).unwrap();
        run_cut(&world, &[next(points), next(20), next(20)], UpdateEnd::AllNew).unwrap();
    }
}

#[test]
fn the_loop_notices_a_call_that_does_not_bear_repetition() {
    let mut world = World::new(&ALL);
    world.faults.careless = Some(pitstop_lifecycle::sim::Careless::SwitchToggles);
    run_cut(&world, &[], UpdateEnd::AllNew).expect("without a cut nobody notices");
    assert!(cut_everywhere(&world, UpdateEnd::AllNew).is_err());
}
