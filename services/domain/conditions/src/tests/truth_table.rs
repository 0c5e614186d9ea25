use std::fmt::Write as _;

use super::*;

/// The states in which a signal can be, each put into `signals` so that it is so at 2000 ms.
type Prepare = fn(&mut Signals);

const SPEED: [(&str, Prepare); 5] = [
    ("standing", |s| send(s, "VehicleMotion", &motion(Some(0.0)), ms(1900))),
    ("driving", |s| send(s, "VehicleMotion", &motion(Some(48.2)), ms(1900))),
    ("invalid", |s| send(s, "VehicleMotion", &motion(None), ms(1900))),
    ("stale", |s| send(s, "VehicleMotion", &motion(Some(0.0)), ms(100))),
    ("missing", |_| {}),
];

const VOLTAGE: [(&str, Prepare); 3] = [
    ("full", |s| send(s, "LowVoltageBattery", &battery(12.6), ms(1950))),
    ("low", |s| send(s, "LowVoltageBattery", &battery(11.8), ms(1950))),
    ("missing", |_| {}),
];

const CONDITIONS: [&str; 7] = [
    "parked",
    "not parked",
    "battery-ok",
    "parked and battery-ok",
    "parked or battery-ok",
    "not (Vehicle.Speed > 5 or Vehicle.Body.Hood.IsOpen)",
    "Vehicle.Speed == true",
];

fn motion(speed: Option<f64>) -> [(&'static str, Option<f64>); 3] {
    [("VehicleSpeed", speed), ("ParkLockEngaged", Some(1.0)), ("ParkingBrakeEngaged", Some(1.0))]
}

fn battery(volts: f64) -> [(&'static str, Option<f64>); 2] {
    [("BatteryVoltage", Some(volts)), ("BatteryStateOfCharge", Some(80.0))]
}

fn shipped() -> ConditionSet {
    set(&[
        (
            "parked",
            "Vehicle.Speed <= 0.5 and Vehicle.Powertrain.Transmission.IsParkLockEngaged and Vehicle.Chassis.ParkingBrake.IsEngaged",
        ),
        (
            "battery-ok",
            "Vehicle.LowVoltageBattery.CurrentVoltage >= 12.2 and Vehicle.LowVoltageBattery.StateOfCharge >= 50",
        ),
    ])
}

#[test]
fn the_truth_table_is_as_reviewed() {
    let set = shipped();
    let mut table = String::new();
    for (speed, prepare_speed) in SPEED {
        for (voltage, prepare_voltage) in VOLTAGE {
            let mut signals = signals();
            prepare_speed(&mut signals);
            prepare_voltage(&mut signals);
            writeln!(table, "speed {speed}, battery {voltage}").unwrap();
            for condition in CONDITIONS {
                let verdict = judge(&set, &signals, condition, ms(2000), None);
                assert_eq!(verdict.holds, verdict.reasons.is_empty(), "a verdict that blocks says why: {condition}");
                writeln!(table, "  {:5} {condition}", if verdict.holds { "holds" } else { "no" }).unwrap();
                for reason in &verdict.reasons {
                    writeln!(table, "          {}", reason.text).unwrap();
                }
            }
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_name_the_vehicle_does_not_have_blocks_and_says_so() {
    let verdict = judge(&shipped(), &signals(), "not snowing", ms(0), None);
    assert!(!verdict.holds);
    assert_eq!(verdict.reasons[0].text, "snowing is not a condition of this vehicle");
    let verdict = judge(&shipped(), &signals(), "Vehicle.Cabin.IsCosy", ms(0), None);
    assert_eq!(verdict.reasons[0].text, "Vehicle.Cabin.IsCosy is not a signal of this vehicle");
    assert_eq!(verdict.reasons[0].signal.as_ref().map(crate::SignalName::as_str), Some("Vehicle.Cabin.IsCosy"));
}

#[test]
fn a_signal_that_flaps_blocks_at_each_instant_it_is_bad() {
    let mut signals = signals();
    let mut seen = Vec::new();
    for step in 0..6 {
        let now = ms(step * 100);
        send(&mut signals, "VehicleMotion", &motion(if step % 2 == 0 { Some(0.0) } else { None }), now);
        seen.push(judge(&shipped(), &signals, "parked", now, None).holds);
    }
    assert_eq!(seen, [true, false, true, false, true, false]);
}
