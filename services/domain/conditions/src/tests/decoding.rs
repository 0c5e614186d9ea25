use super::*;
use crate::{
    ByteOrder, DatabaseError, Fault, FrameId, Kind, Layout, LayoutError, MapError, Reading, SignalName, Value,
};

fn layout(start: u16, size: u8, order: ByteOrder, signed: bool) -> Layout {
    Layout { start, size, order, signed, factor: 1.0, offset: 0.0, range: None }
}

fn read(signals: &Signals, name: &str, now: Duration) -> Reading {
    signals.read(&SignalName::new(name).unwrap(), now)
}

#[test]
fn an_intel_signal_starts_at_its_least_significant_bit() {
    let data = [0x34, 0x12, 0xF0, 0xFF];
    assert_eq!(layout(0, 16, ByteOrder::Little, false).decode(&data), Ok(f64::from(0x1234)));
    assert_eq!(layout(4, 8, ByteOrder::Little, false).decode(&data), Ok(f64::from(0x23)));
    assert_eq!(layout(20, 12, ByteOrder::Little, true).decode(&data), Ok(-1.0));
}

#[test]
fn a_motorola_signal_starts_at_its_most_significant_bit() {
    let data = [0x12, 0x34, 0x0F, 0xF0];
    assert_eq!(layout(7, 16, ByteOrder::Big, false).decode(&data), Ok(f64::from(0x1234)));
    assert_eq!(layout(3, 8, ByteOrder::Big, false).decode(&data), Ok(f64::from(0x23)));
    assert_eq!(layout(19, 8, ByteOrder::Big, true).decode(&data), Ok(-1.0));
}

#[test]
fn a_signal_of_sixty_four_bits_is_decoded_in_both_orders() {
    let data = [0xFF; 8];
    assert_eq!(layout(0, 64, ByteOrder::Little, true).decode(&data), Ok(-1.0));
    assert_eq!(layout(7, 64, ByteOrder::Big, true).decode(&data), Ok(-1.0));
}

#[test]
fn a_signal_that_does_not_fit_its_message_is_refused() {
    assert_eq!(layout(8, 16, ByteOrder::Little, false).check(2), Err(LayoutError::Outside(2)));
    assert_eq!(layout(15, 9, ByteOrder::Big, false).check(2), Err(LayoutError::Outside(2)));
    assert_eq!(layout(7, 16, ByteOrder::Big, false).check(2), Ok(()));
    assert_eq!(layout(0, 0, ByteOrder::Little, false).check(8), Err(LayoutError::Size(0)));
}

#[test]
fn the_limits_of_a_range_belong_to_it_and_the_next_step_does_not() {
    let voltage = database().message("LowVoltageBattery").unwrap().layout("BatteryVoltage").unwrap();
    let mut data = [0; 8];
    assert!(voltage.encode(60.0, &mut data).is_ok());
    assert!((voltage.decode(&data).unwrap() - 60.0).abs() < 1e-9);
    assert!(voltage.encode(60.001, &mut data).is_err());
    assert!(voltage.decode(&[0xEA, 0x61, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn the_vehicles_frames_are_decoded_by_name() {
    let mut signals = signals();
    send(
        &mut signals,
        "VehicleMotion",
        &[("VehicleSpeed", Some(48.27)), ("CurrentGear", Some(-1.0)), ("ParkLockEngaged", Some(0.0))],
        ms(0),
    );
    assert_eq!(read(&signals, "Vehicle.Speed", ms(40)), Reading::Fresh { value: Value::Number(48.27), age: ms(40) });
    assert_eq!(
        read(&signals, "Vehicle.Powertrain.Transmission.CurrentGear", ms(40)),
        Reading::Fresh { value: Value::Number(-1.0), age: ms(40) }
    );
    assert_eq!(
        read(&signals, "Vehicle.Powertrain.Transmission.IsParkLockEngaged", ms(40)),
        Reading::Fresh { value: Value::Bool(false), age: ms(40) }
    );
}

#[test]
fn what_is_not_available_old_or_unknown_is_not_a_value() {
    let mut signals = signals();
    assert_eq!(read(&signals, "Vehicle.Speed", ms(0)), Reading::Unusable(Fault::NeverReceived));
    assert_eq!(read(&signals, "Vehicle.Nothing", ms(0)), Reading::Unusable(Fault::Unmapped));
    send(&mut signals, "VehicleMotion", &[("VehicleSpeed", None), ("ParkLockEngaged", Some(1.0))], ms(0));
    assert_eq!(read(&signals, "Vehicle.Speed", ms(10)), Reading::Unusable(Fault::Invalid { age: ms(10) }));
    let lock = "Vehicle.Powertrain.Transmission.IsParkLockEngaged";
    assert_eq!(read(&signals, lock, ms(1000)), Reading::Fresh { value: Value::Bool(true), age: ms(1000) });
    let stale = Fault::Stale { value: Some(Value::Bool(true)), age: ms(1001), limit: ms(1000) };
    assert_eq!(read(&signals, lock, ms(1001)), Reading::Unusable(stale));
}

#[test]
fn a_frame_of_another_bus_or_length_changes_nothing() {
    let mut signals = signals();
    let can0 = BusName::new("can0").unwrap();
    assert!(!signals.on_frame(&BusName::new("can1").unwrap(), FrameId::Standard(288), &[0; 8], ms(0)));
    assert!(!signals.on_frame(&can0, FrameId::Extended(288), &[0; 8], ms(0)));
    assert!(!signals.on_frame(&can0, FrameId::Standard(288), &[0; 7], ms(0)));
    assert!(!signals.on_frame(&can0, FrameId::Standard(288), &[0; 9], ms(0)));
    assert_eq!(read(&signals, "Vehicle.Speed", ms(0)), Reading::Unusable(Fault::NeverReceived));
}

#[test]
fn mistakes_in_the_files_are_named() {
    let map = |text: &str| SignalMap::parse(text, &database()).unwrap_err().to_string();
    let entry = |rest: &str| format!("[[signal]]\nname = \"Vehicle.X\"\nbus = \"can0\"\n{rest}");
    assert!(matches!(
        SignalMap::parse(&entry("message = \"Nope\"\nsignal = \"S\""), &database()),
        Err(MapError::Database { source: DatabaseError::NoMessage(_), .. })
    ));
    assert!(matches!(
        SignalMap::parse(&entry("message = \"BodyStatus\"\nsignal = \"S\""), &database()),
        Err(MapError::Database { source: DatabaseError::NoSignal { .. }, .. })
    ));
    let good = "message = \"BodyStatus\"\nsignal = \"HoodOpen\"\n";
    assert!(map(&entry(&format!("{good}max_age_ms = 0"))).contains("max_age_ms"));
    assert!(map(&entry(&format!("{good}true_at = [1]"))).contains("true_at"));
    assert!(map(&entry(&format!("{good}kind = \"bool\"\ntrue_at = [0]"))).contains("share no value"));
    assert!(map(&format!("{0}\n{0}", entry(good))).contains("twice"));
    assert!(matches!(SignalMap::parse(&entry("colour = 1"), &database()), Err(MapError::Syntax(_))));
    assert!(matches!(Database::parse("BO_ nonsense"), Err(DatabaseError::Syntax(_))));
    assert!(matches!(Database::parse(&" ".repeat(crate::MAX_DBC_BYTES + 1)), Err(DatabaseError::TooLarge(_))));
}

#[test]
fn multiplexed_and_floating_point_signals_are_refused_when_asked_for() {
    let text = "VERSION \"\"\n\nBU_: A\n\nBO_ 1 M: 8 A\n SG_ Switch M : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ Part m1 : 8|8@1+ (1,0) [0|0] \"\" A\n SG_ F : 16|32@1- (1,0) [0|0] \"\" A\n\nSIG_VALTYPE_ 1 F : 1;\n";
    let database = Database::parse(text).unwrap();
    let message = database.message("M").unwrap();
    assert!(message.layout("Switch").is_ok());
    assert!(matches!(message.layout("Part"), Err(DatabaseError::Multiplexed { .. })));
    assert!(matches!(message.layout("F"), Err(DatabaseError::Float { .. })));
}

#[test]
fn the_shipped_mapping_covers_what_conditions_and_inhibit_need() {
    let signals = signals();
    let kind = |name: &str| signals.map().get(&SignalName::new(name).unwrap()).unwrap().kind.clone();
    assert_eq!(kind("Vehicle.Speed"), Kind::Number);
    assert_eq!(kind("Vehicle.Pitstop.IsDriveInhibited"), Kind::Bool { true_at: vec![1.0], false_at: vec![0.0, 2.0] });
    let frames = signals.map().frames(&BusName::new("can0").unwrap());
    assert_eq!(frames.into_iter().collect::<Vec<_>>(), [288, 304, 320, 768].map(FrameId::Standard));
}
