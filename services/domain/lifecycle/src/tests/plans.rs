use pitstop_types::{EcuId, HardwareId, SoftwareVersion};

use crate::plan::{PlanRefusal, plan};
use crate::sim::{decision, facts};

const ALL: [&str; 5] = ["bcm", "tcu", "gateway", "tpms", "adas"];

fn ecu(id: &str) -> EcuId {
    EcuId::new(id).unwrap()
}

#[test]
fn the_plan_of_the_whole_vehicle_as_reviewed() {
    insta::assert_snapshot!(plan(&decision(&ALL), &facts()).unwrap());
}

#[test]
fn switches_come_first_a_gateway_after_those_behind_it_and_the_tcu_last() {
    let plan = plan(&decision(&ALL), &facts()).unwrap();
    let order: Vec<&str> = plan.steps.iter().map(|step| step.ecu.as_str()).collect();
    assert_eq!(order, ["adas", "tpms", "gateway", "bcm", "tcu"]);
}

#[test]
fn what_runs_the_target_already_is_not_in_the_plan() {
    let mut vehicle = facts();
    vehicle.ecus[1].version = Some(SoftwareVersion::new("2.0").unwrap());
    let plan = plan(&decision(&["bcm", "adas"]), &vehicle).unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert!(super::plans::plan(&decision(&["bcm"]), &vehicle).unwrap().steps.is_empty());
}

#[test]
fn an_ecu_in_its_bootloader_can_be_mended() {
    let mut vehicle = facts();
    vehicle.ecus[1].version = None;
    let plan = plan(&decision(&["bcm"]), &vehicle).unwrap();
    assert_eq!(plan.steps[0].before, None);
}

#[test]
fn what_could_not_be_undone_is_refused() {
    let mut without = decision(&ALL);
    without.ecus[0].fallback = None;
    assert_eq!(plan(&without, &facts()), Err(PlanRefusal::NoFallback(ecu("bcm"))));

    let mut other = facts();
    other.ecus[1].version = Some(SoftwareVersion::new("1.1").unwrap());
    let refusal = plan(&decision(&ALL), &other).unwrap_err();
    assert_eq!(refusal.error(), "UnexpectedSoftware");
}

#[test]
fn a_decision_for_another_vehicle_is_refused() {
    let mut fewer = facts();
    fewer.ecus.remove(1);
    assert_eq!(plan(&decision(&ALL), &fewer), Err(PlanRefusal::UnknownEcu(ecu("bcm"))));

    let mut other = facts();
    other.ecus[1].hardware = HardwareId::new("bcm-b7").unwrap();
    assert!(matches!(plan(&decision(&ALL), &other), Err(PlanRefusal::Hardware { .. })));

    let mut silent = facts();
    silent.ecus[1].answers = false;
    assert_eq!(plan(&decision(&ALL), &silent), Err(PlanRefusal::NotAnswering(ecu("bcm"))));
}

#[test]
fn an_ecu_that_gives_up_its_trial_too_soon_is_refused() {
    let mut vehicle = facts();
    vehicle.ecus[2].trial_limit_secs = Some(100);
    assert!(matches!(plan(&decision(&ALL), &vehicle), Err(PlanRefusal::TrialTooShort { .. })));
    vehicle.ecus[2].trial_limit_secs = Some(400);
    assert_eq!(plan(&decision(&ALL), &vehicle).unwrap().limit_secs, 340);
}

#[test]
fn gateways_behind_each_other_are_no_plan() {
    let mut vehicle = facts();
    vehicle.ecus[0].via = Some(ecu("tpms"));
    assert!(matches!(plan(&decision(&ALL), &vehicle), Err(PlanRefusal::ViaLoop(_))));
}
