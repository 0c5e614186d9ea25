use super::*;

pub(crate) fn step(ecu: &str, state: &str, phase: &str, done: u64, total: u64) -> StepStatus {
    StepStatus {
        ecu: ecu.into(),
        bus: if ecu == "tcu" { String::new() } else { "can0".into() },
        before: "4.1.0".into(),
        after: "4.2.0".into(),
        state: state.into(),
        phase: phase.into(),
        done,
        total,
    }
}

fn running() -> Status {
    Status {
        update: UpdateStatus {
            update: "u-1".into(),
            campaign: "winter".into(),
            phase: "awaiting-conditions".into(),
            started: 1_784_145_600,
            deadline: 1_784_149_200,
            blocked: vec!["Vehicle.Speed is 30 km/h, wanted: <= 0.5".into()],
            ..UpdateStatus::default()
        },
        steps: vec![step("adas", "staging", "transferring", 512, 1024), step("tcu", "waiting", "", 0, 0)],
        backend: Some(LinkStatus {
            provisioned: true,
            device: "d-17".into(),
            connected: true,
            outbox: 2,
            last_contact: 1_784_145_000,
            key_store: "tpm".into(),
        }),
        inhibit: Some("requested".into()),
        open_prompts: Some(1),
    }
}

fn both(view: &impl View) -> String {
    format!("{}----\n{}\n", view.human(), serde_json::to_string_pretty(view).unwrap())
}

#[test]
fn status_while_an_update_runs() {
    insta::assert_snapshot!(both(&running()));
}

#[test]
fn status_when_nothing_runs_and_services_are_away() {
    let idle = UpdateStatus { phase: "idle".into(), ..UpdateStatus::default() };
    insta::assert_snapshot!(both(&Status {
        update: idle,
        steps: vec![],
        backend: None,
        inhibit: None,
        open_prompts: None
    }));
}

#[test]
fn ecus_and_slots() {
    let description = EcuDescription {
        ecu: "tpms".into(),
        bus: "doip0".into(),
        address: "0x1010".into(),
        banks: "single".into(),
        hardware: "tpms-a1".into(),
        via: "gateway".into(),
    };
    let silent = Ecu {
        description: EcuDescription { ecu: "bcm".into(), via: String::new(), ..description.clone() },
        version: String::new(),
        software_number: String::new(),
        serial: String::new(),
        error: "io.pitstop.Ota1.Error.EcuNotResponding".into(),
    };
    let good = Ecu {
        description,
        version: "4.1.0".into(),
        software_number: "PS-TPMS".into(),
        serial: "S1".into(),
        error: String::new(),
    };
    let slot = |name: &str, booted| SlotStatus {
        name: name.into(),
        booted,
        state: if booted { "good" } else { "empty" }.into(),
        version: if booted { "1.0.0" } else { "" }.into(),
        hardware: "tcu-a1".into(),
        primary: booted,
    };
    insta::assert_snapshot!(both(&List(vec![good, silent])) + &both(&List(vec![slot("A", true), slot("B", false)])));
}

#[test]
fn prompts_notices_and_what_there_is_none_of() {
    let prompt = Prompt {
        update: "u-1".into(),
        purpose: "Safety: brake control".into(),
        changes: "Shorter braking distance on ice".into(),
        expected_secs: 900,
        unavailable: "Driving, climate control".into(),
        instructions: "Park, close the doors, leave the vehicle".into(),
        text_digest: "00".repeat(32),
    };
    let notice = Notice { update: "u-1".into(), end: "all-new".into(), text: "Brake control is now 4.2.0.".into() };
    let text = both(&List(vec![prompt])) + &both(&List(vec![notice]));
    let none = List(Vec::<Prompt>::new()).human()
        + &List(Vec::<Notice>::new()).human()
        + &List(Vec::<HistoryEntry>::new()).human();
    insta::assert_snapshot!(text + &none);
}

#[test]
fn signals_and_conditions() {
    let signal = |name: &str, value, age_ms, fresh| Signal { name: name.into(), value, age_ms, fresh };
    let signals = List(vec![
        signal("Vehicle.Speed", 0.0.into(), Some(40), true),
        signal("Vehicle.Body.Hood.IsOpen", false.into(), Some(4000), false),
        signal("Vehicle.Exterior.AirTemperature", 0.0.into(), None, false),
    ]);
    let conditions = List(vec![
        ConditionResult { condition: "parked".into(), holds: true, reason: String::new() },
        ConditionResult { condition: "battery-ok".into(), holds: false, reason: "one thing; another thing".into() },
    ]);
    insta::assert_snapshot!(both(&signals) + &both(&conditions));
}

#[test]
fn history_and_refusals() {
    let entry = HistoryEntry {
        update: "u-1".into(),
        campaign: "winter".into(),
        end: "all-old".into(),
        started: 1_784_145_600,
        ended: 1_784_146_000,
        error_name: "io.pitstop.Ota1.Error.CheckFailed".into(),
        error_text: "bcm: the check routine said no".into(),
        ecus: vec![("bcm".into(), "4.1.0".into(), "4.1.0".into())],
        hash: "ab".into(),
    };
    let refusal = RefusalEntry {
        at: 1_784_146_000,
        update: String::new(),
        error_name: "io.pitstop.Ota1.Error.Replay".into(),
        text: "signed for WP0ZZZ99ZTS392125".into(),
    };
    let chain = Chain { whole: true, entries: 4, head: "abcd".into() };
    insta::assert_snapshot!(both(&List(vec![entry])) + &both(&List(vec![refusal])) + &both(&chain));
}

#[test]
fn per_cent_needs_a_total_and_never_passes_a_hundred() {
    assert_eq!(percent(&step("a", "", "", 5, 0)), None);
    assert_eq!(percent(&step("a", "", "", 5, 10)), Some(50));
    assert_eq!(percent(&step("a", "", "", 11, 10)), Some(100));
    assert_eq!(percent(&step("a", "", "", u64::MAX, u64::MAX)), None);
}
