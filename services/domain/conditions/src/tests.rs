//! Tests of the whole crate, against the files that a vehicle gets.

mod decoding;
mod expressions;
mod properties;
mod truth_table;

use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_types::BusName;

use crate::{ConditionSet, Database, SignalMap, Signals, Verdict, WallClock};

const DBC: &str = include_str!("../../../../rootfs-overlay/usr/lib/pitstop/vehicle.dbc");
const MAP: &str = include_str!("../../../../rootfs-overlay/usr/lib/pitstop/signals.toml");

fn database() -> Database {
    Database::parse(DBC).unwrap()
}

fn signals() -> Signals {
    Signals::new(SignalMap::parse(MAP, &database()).unwrap())
}

fn set(conditions: &[(&str, &str)]) -> ConditionSet {
    let sources: BTreeMap<_, _> = conditions.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
    ConditionSet::new(&sources).unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Sends `message` with `values` at `now`; `None` is "not available".
fn send(signals: &mut Signals, message: &str, values: &[(&str, Option<f64>)], now: Duration) {
    let database = database();
    let message = database.message(message).unwrap();
    let mut data = vec![0; message.length];
    for (signal, value) in values {
        let layout = message.layout(signal).unwrap();
        match value {
            Some(value) => layout.encode(*value, &mut data).unwrap(),
            None => layout.encode_unavailable(&mut data),
        }
    }
    assert!(signals.on_frame(&BusName::new("can0").unwrap(), message.id, &data, now));
}

fn judge(set: &ConditionSet, signals: &Signals, condition: &str, now: Duration, wall: WallClock) -> Verdict {
    set.evaluate(&condition.parse().unwrap(), signals, now, wall)
}
