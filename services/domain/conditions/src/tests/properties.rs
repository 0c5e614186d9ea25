use proptest::prelude::*;

use super::*;
use crate::{ByteOrder, Expr, Layout, ParseError};

fn layouts() -> impl Strategy<Value = Layout> {
    (0u16..512, 1u8..=64, any::<bool>(), any::<bool>()).prop_map(|(start, size, big, signed)| Layout {
        start,
        size,
        order: if big { ByteOrder::Big } else { ByteOrder::Little },
        signed,
        factor: 1.0,
        offset: 0.0,
        range: None,
    })
}

/// Texts made of the language's own words, so that many of them parse.
fn near_conditions() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "parked",
        "battery-ok",
        "missing",
        "not",
        "and",
        "and",
        "or",
        "or",
        "(",
        ")",
        "Vehicle.Speed",
        "Vehicle.Speed <= 0.5",
        "Vehicle.Chassis.ParkingBrake.IsEngaged",
        "Vehicle.No.Such > -1",
        "== true",
        "!= 3",
        "window(\"22:00-06:00\", \"UTC\")",
        "window(\"01:00-02:00\", \"Asia/Tokyo\", \"Sat,Sun\")",
        "window(",
        "\"",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|w| w.join(" "))
}

fn conditions() -> impl Strategy<Value = Expr> {
    let leaf = prop::sample::select(vec![
        "parked",
        "battery-ok",
        "Vehicle.Speed <= 0.5",
        "Vehicle.Speed != -3.25",
        "Vehicle.Body.Hood.IsOpen",
        "Vehicle.No.Such == false",
        "window(\"22:00-06:00\", \"UTC\")",
        "missing",
    ])
    .prop_map(|s| s.parse::<Expr>().unwrap());
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Any),
            inner.prop_map(|e| Expr::Not(Box::new(e))),
        ]
    })
}

fn some_set() -> ConditionSet {
    set(&[("parked", "Vehicle.Speed <= 0.5"), ("battery-ok", "Vehicle.LowVoltageBattery.CurrentVoltage >= 12.2")])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_a_condition_or_a_named_error(text in ".{0,200}") {
        let _ = text.parse::<Expr>();
    }

    #[test]
    fn whatever_parses_is_judged_and_says_why_it_blocks(
        text in near_conditions(),
        wall in prop::option::of(any::<i64>()),
        now in 0u64..5000,
        speed in prop::option::of(0.0f64..300.0),
    ) {
        let mut signals = signals();
        send(&mut signals, "VehicleMotion", &[("VehicleSpeed", speed)], ms(1000));
        if let Ok(expr) = text.parse::<Expr>() {
            let verdict = some_set().evaluate(&expr, &signals, ms(now), wall);
            prop_assert_eq!(verdict.holds, verdict.reasons.is_empty());
        }
    }

    #[test]
    fn a_condition_written_and_read_again_is_the_same(expr in conditions()) {
        match expr.to_string().parse::<Expr>() {
            Ok(read) => prop_assert_eq!(read, expr),
            Err(ParseError::TooLong(_) | ParseError::TooManyTerms) => {}
            Err(other) => prop_assert!(false, "{expr}: {other}"),
        }
    }

    #[test]
    fn a_condition_and_its_contrary_never_both_hold(expr in conditions(), speed in prop::option::of(0.0f64..2.0), wall in prop::option::of(0i64..4_000_000_000)) {
        let mut signals = signals();
        send(&mut signals, "VehicleMotion", &[("VehicleSpeed", speed)], ms(0));
        let holds = |e: &Expr| some_set().evaluate(e, &signals, ms(10), wall).holds;
        prop_assert!(!(holds(&expr) && holds(&Expr::Not(Box::new(expr.clone())))));
    }

    #[test]
    fn losing_every_signal_never_makes_a_condition_hold(expr in conditions(), speed in 0.0f64..2.0) {
        let mut signals = signals();
        send(&mut signals, "VehicleMotion", &[("VehicleSpeed", Some(speed))], ms(0));
        let holds = |now| some_set().evaluate(&expr, &signals, ms(now), None).holds;
        prop_assert!(holds(10) || !holds(10_000));
    }

    #[test]
    fn a_signal_reads_back_as_written_and_leaves_the_other_bits(layout in layouts(), raw in any::<i64>(), noise in prop::array::uniform32(any::<u8>())) {
        let mut data = [noise, noise].concat();
        if layout.check(data.len()).is_err() {
            return Ok(());
        }
        // f64 carries 53 bits exactly; wider raw numbers lose their last ones by nature.
        let bits = u32::from(layout.size).min(53);
        let value = if layout.signed { (raw << (64 - bits)) >> (64 - bits) } else { raw & ((1 << bits) - 1) };
        let before = data.clone();
        layout.encode(value as f64, &mut data).unwrap();
        prop_assert_eq!(layout.decode(&data).unwrap(), value as f64);
        let changed: u32 = before.iter().zip(&data).map(|(a, b)| (a ^ b).count_ones()).sum();
        prop_assert!(changed <= u32::from(layout.size));
    }

    #[test]
    fn any_frame_is_decoded_or_invalid(data in prop::collection::vec(any::<u8>(), 0..70), id in 0u16..2048) {
        let mut signals = signals();
        signals.on_frame(&BusName::new("can0").unwrap(), crate::FrameId::Standard(id), &data, ms(0));
        for spec in signals.map().iter() {
            let _ = spec.decode(&data);
        }
    }

    #[test]
    fn a_dbc_file_with_a_changed_line_is_read_or_refused(line in 0usize..60, from in 0usize..40, text in "[ -~]{0,12}") {
        let mut lines: Vec<String> = DBC.lines().map(str::to_owned).collect();
        let index = line % lines.len();
        let keep: String = lines[index].chars().take(from).collect();
        lines[index] = keep + &text;
        if let Ok(database) = Database::parse(&lines.join("\n")) {
            let _ = SignalMap::parse(MAP, &database);
        }
    }
}
