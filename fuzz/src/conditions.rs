use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_conditions::{ConditionSet, Database, Expr, SignalMap, Signals};

const DBC: &str = include_str!("../../rootfs-overlay/usr/lib/pitstop/vehicle.dbc");
const MAP: &str = include_str!("../../rootfs-overlay/usr/lib/pitstop/signals.toml");

/// A DBC file, or with a zero byte in front a mapping against a good one.
pub fn database(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let map = match text.strip_prefix('\0') {
        Some(text) => Database::parse(DBC).ok().and_then(|good| SignalMap::parse(text, &good).ok()),
        None => Database::parse(text).ok().and_then(|database| SignalMap::parse(MAP, &database).ok()),
    };
    for spec in map.iter().flat_map(SignalMap::iter) {
        for byte in [0, 0x55, 0xFF] {
            let _ = spec.decode(&vec![byte; spec.length]);
            let _ = spec.decode(&[byte; 3]);
        }
    }
}

pub fn database_seeds() -> Vec<Vec<u8>> {
    vec![DBC.as_bytes().to_vec(), [b"\0", MAP.as_bytes()].concat()]
}

pub fn expression(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(expr) = text.parse::<Expr>() else { return };
    assert_eq!(expr.to_string().parse().as_ref(), Ok(&expr), "written and read again it is another");
    let sources = BTreeMap::from([("c".to_owned(), text.to_owned()), ("d".to_owned(), "not c".to_owned())]);
    let (Ok(set), Ok(database)) = (ConditionSet::new(&sources), Database::parse(DBC)) else { return };
    let signals = Signals::new(SignalMap::parse(MAP, &database).expect("our own mapping"));
    let verdict = set.evaluate(&expr, &signals, Duration::from_secs(5), Some(1_800_000_000));
    assert_eq!(verdict.holds, verdict.reasons.is_empty(), "what blocks says why");
}

pub fn expression_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "Vehicle.Speed <= 0.5 and Vehicle.Chassis.ParkingBrake.IsEngaged and not (a or b)",
        "c and window(\"22:00-06:00\", \"Europe/Berlin\", \"Sat-Mon\") or Vehicle.Speed != -1",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
