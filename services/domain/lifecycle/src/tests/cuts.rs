//! Power cut at every point, in the simulated vehicle. An update must end all new,
//! all old or named, whatever happens to the power.

use pitstop_types::{EcuId, UpdateEnd, UserChoice};

use crate::Role;
use crate::sim::{Careless, Outcome, Power, World, run};

const ALL: [&str; 5] = ["bcm", "tcu", "gateway", "tpms", "adas"];

fn ecu(id: &str) -> EcuId {
    EcuId::new(id).unwrap()
}

/// Runs `world` with the given cuts and holds the end against the vehicle. Without a fall-back a cut must not even
/// change the end that the uncut run has.
fn run_cut(world: &World, cuts: &[usize], uncut: UpdateEnd) -> Result<Outcome, String> {
    let mut world = world.clone();
    world.power = Power::cut_at(cuts.iter().copied());
    let told = |error: String| format!("cut at {cuts:?}: {error}");
    let outcome = run(&mut world).map_err(told)?;
    world.check(outcome.end).map_err(told)?;
    let allowed = if world.slots.fall_backs == 0 {
        outcome.end == Some(uncut)
    } else {
        matches!(outcome.end, Some(UpdateEnd::AllNew | UpdateEnd::AllOld))
    };
    if allowed { Ok(outcome) } else { Err(told(format!("ends {:?} in place of {uncut}", outcome.end))) }
}

/// Cuts `world` at every point once.
fn cut_everywhere(world: &World, end: UpdateEnd) -> Result<usize, String> {
    let uncut = run_cut(world, &[], end)?;
    for point in 0..uncut.points {
        run_cut(world, &[point], end)?;
    }
    Ok(uncut.points)
}

#[test]
fn a_good_update_ends_all_new_with_one_restart() {
    let outcome = run_cut(&World::new(&ALL), &[], UpdateEnd::AllNew).unwrap();
    assert_eq!(outcome.lives, 2);
    assert!(outcome.points > 100, "the loop has too little to cut: {}", outcome.points);
}

#[test]
fn a_cut_at_any_point_of_a_good_update_ends_all_new_or_all_old() {
    cut_everywhere(&World::new(&ALL), UpdateEnd::AllNew).unwrap();
    cut_everywhere(&World::new(&["tcu"]), UpdateEnd::AllNew).unwrap();
    cut_everywhere(&World::new(&["bcm", "adas"]), UpdateEnd::AllNew).unwrap();
    cut_everywhere(&World::new(&["bcm"]), UpdateEnd::AllNew).unwrap();
}

#[test]
fn a_cut_at_any_point_of_an_undo_ends_all_old() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
    let mut world = World::new(&ALL);
    world.faults.unfit = true;
    cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
}

#[test]
fn a_cut_at_any_point_around_a_fall_back_ends_all_old() {
    let mut world = World::new(&ALL);
    world.faults.crashing.insert("2.0".into());
    let points = cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
    assert!(points > 100);
    let mut world = world.clone();
    assert_eq!(run(&mut world).unwrap().record.reason.unwrap().error, "FellBack");
}

#[test]
fn two_cuts_sampled_by_seed_end_as_one_does() {
    // xorshift64: the same pairs on every machine.
    let mut seed = 0x5eed_u64;
    let mut next = |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % limit as u64).unwrap()
    };
    let mut failing = World::new(&ALL);
    failing.faults.activate.insert(ecu("bcm"), u32::MAX);
    let mut crashing = World::new(&ALL);
    crashing.faults.crashing.insert("2.0".into());
    for (world, end) in
        [(World::new(&ALL), UpdateEnd::AllNew), (failing, UpdateEnd::AllOld), (crashing, UpdateEnd::AllOld)]
    {
        let points = run_cut(&world, &[], end).unwrap().points;
        for _ in 0..100 {
            run_cut(&world, &[next(points), next(points)], end).unwrap();
            run_cut(&world, &[next(points), next(20), next(20), next(20)], end).unwrap();
        }
    }
}

#[test]
#[ignore = "takes minutes; for before a release"]
fn every_pair_of_cuts_ends_as_one_does() {
    for (ecus, ends) in [(&["tcu", "adas"][..], UpdateEnd::AllNew), (&["bcm", "adas"][..], UpdateEnd::AllNew)] {
        let world = World::new(ecus);
        let points = run_cut(&world, &[], ends).unwrap().points;
        for first in 0..points {
            for second in 0..points {
                run_cut(&world, &[first, second], ends).unwrap();
            }
        }
    }
}

#[test]
fn the_loop_fails_when_one_effect_is_not_idempotent() {
    for careless in [Careless::SwitchToggles, Careless::HistoryAppends] {
        let mut world = World::new(&ALL);
        world.faults.careless = Some(careless);
        run_cut(&world, &[], UpdateEnd::AllNew).expect("without a cut nobody notices");
        assert!(cut_everywhere(&world, UpdateEnd::AllNew).is_err(), "{careless:?} was not noticed");
    }
    let mut world = World::new(&ALL);
    world.faults.careless = Some(Careless::RollBackToggles);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    run_cut(&world, &[], UpdateEnd::AllOld).expect("without a cut nobody notices");
    assert!(cut_everywhere(&world, UpdateEnd::AllOld).is_err(), "a toggling roll back was not noticed");
}

#[test]
fn an_ecu_that_cannot_be_brought_back_is_named() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), u32::MAX);
    world.faults.roll_back.insert(ecu("bcm"), u32::MAX);
    let outcome = run(&mut world).unwrap();
    assert_eq!(outcome.end, Some(UpdateEnd::NeedsWorkshop));
    assert_eq!(outcome.record.reason.unwrap().ecu, Some(ecu("bcm")));
    // All others are back.
    for report in world.versions() {
        assert_eq!(report.version.is_some(), report.ecu != ecu("bcm"));
    }
}

#[test]
fn a_failure_that_passes_is_not_the_end() {
    let mut world = World::new(&ALL);
    world.faults.activate.insert(ecu("bcm"), 1);
    world.faults.stage.insert(ecu("adas"), 2);
    cut_everywhere(&world, UpdateEnd::AllNew).unwrap();
}

#[test]
fn staging_that_fails_leaves_everything_as_it_was() {
    let mut world = World::new(&ALL);
    world.faults.stage.insert(ecu("adas"), u32::MAX);
    cut_everywhere(&world, UpdateEnd::AllOld).unwrap();
}

#[test]
fn a_refused_bundle_ends_the_update_before_anything_is_written() {
    let mut world = World::new(&ALL);
    world.faults.refuse = Some((ecu("adas"), Role::Fallback));
    cut_everywhere(&world, UpdateEnd::Refused).unwrap();
}

#[test]
fn a_driver_who_says_no_is_obeyed_and_one_who_says_later_is_asked_again() {
    let mut world = World::new(&ALL);
    world.answers = [UserChoice::No].into();
    cut_everywhere(&world, UpdateEnd::Declined).unwrap();

    let mut world = World::new(&ALL);
    world.answers = [UserChoice::Later, UserChoice::At { unix_secs: 1_500_000 }].into();
    let outcome = run_cut(&world, &[], UpdateEnd::AllNew).unwrap();
    assert_eq!(outcome.record.answers.len(), 2);
    assert!(outcome.record.deadline.is_none() && outcome.record.since >= 1_500_000);
}

#[test]
fn a_slot_that_never_comes_up_ends_although_every_start_is_cut_short() {
    let mut world = World::new(&ALL);
    world.power = Power::cut_at(std::iter::repeat_n(40, 60));
    let outcome = run(&mut world).unwrap();
    world.check(outcome.end).unwrap();
}
