use std::collections::BTreeMap;
use std::path::PathBuf;

use pitstop_conditions::{
    ConditionSet, Database, DatabaseError, Expr, FrameId, Kind, Layout, MapError, SetError, SignalMap, SignalName,
};
use pitstop_types::BusName;
use serde::Deserialize;

/// `vehicle-state.toml`, defaults and overrides merged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// DBC file, below the root.
    pub dbc: PathBuf,
    /// Signal mapping, below the root.
    pub signals: PathBuf,
    /// Vehicle description with the buses' links, below the root.
    pub vehicle: PathBuf,
    conditions: BTreeMap<String, String>,
    inhibit: InhibitInput,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct InhibitInput {
    bus: BusName,
    message: String,
    request: String,
    counter: String,
    acknowledge: SignalName,
}

/// Checked settings, with the files they name.
#[derive(Debug, Clone)]
pub struct Settings {
    pub map: SignalMap,
    pub conditions: ConditionSet,
    pub inhibit: InhibitFrame,
    pub acknowledge: SignalName,
}

/// The one frame this service sends.
#[derive(Debug, Clone, PartialEq)]
pub struct InhibitFrame {
    pub bus: BusName,
    pub id: FrameId,
    length: usize,
    request: Layout,
    counter: Layout,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the DBC file")]
    Database(#[from] DatabaseError),
    #[error("the signal mapping")]
    Map(#[from] MapError),
    #[error("[conditions]")]
    Conditions(#[from] SetError),
    #[error("[conditions] has no {0:?}; it is needed")]
    NoCondition(&'static str),
    #[error("condition {condition} reads {signal}, which the signal mapping does not have")]
    NoSignal { condition: String, signal: SignalName },
    #[error("[inhibit] acknowledge: {0} is not a signal of kind \"bool\"")]
    Acknowledge(SignalName),
    #[error("[inhibit]: signal {0} cannot carry the values it needs")]
    Frame(String),
}

/// Name of the condition that `CheckSafe` judges.
pub const STANDSTILL: &str = "standstill";

impl Input {
    /// Checks the settings against the two files' contents.
    pub fn validate(self, dbc: &str, signals: &str) -> Result<Settings, SettingsError> {
        let database = Database::parse(dbc)?;
        let map = SignalMap::parse(signals, &database)?;
        let conditions = ConditionSet::new(&self.conditions)?;
        if !self.conditions.contains_key(STANDSTILL) {
            return Err(SettingsError::NoCondition(STANDSTILL));
        }
        for (name, expr) in conditions.iter() {
            check_signals(name, expr, &map)?;
        }
        let acknowledge = self.inhibit.acknowledge.clone();
        if !map.get(&acknowledge).is_some_and(|spec| matches!(spec.kind, Kind::Bool { .. })) {
            return Err(SettingsError::Acknowledge(acknowledge));
        }
        Ok(Settings { inhibit: InhibitFrame::new(self.inhibit, &database)?, map, conditions, acknowledge })
    }
}

fn check_signals(condition: &str, expr: &Expr, map: &SignalMap) -> Result<(), SettingsError> {
    match expr.signals().into_iter().find(|signal| map.get(signal).is_none()) {
        Some(signal) => Err(SettingsError::NoSignal { condition: condition.to_owned(), signal: signal.clone() }),
        None => Ok(()),
    }
}

impl InhibitFrame {
    fn new(input: InhibitInput, database: &Database) -> Result<Self, SettingsError> {
        let message = database.message(&input.message)?;
        let (request, counter) = (message.layout(&input.request)?, message.layout(&input.counter)?);
        let frame = Self { bus: input.bus, id: message.id, length: message.length, request, counter };
        for (name, layout, values) in [(input.request, request, 0..2), (input.counter, counter, 0..16)] {
            let mut data = vec![0; frame.length];
            if values.into_iter().any(|value: u8| layout.encode(f64::from(value), &mut data).is_err()) {
                return Err(SettingsError::Frame(name));
            }
        }
        Ok(frame)
    }

    /// The frame's bytes.
    pub fn encode(&self, order: crate::Order) -> Vec<u8> {
        let mut data = vec![0; self.length];
        // Both were tried with all their values when the settings were read.
        let _ = self.request.encode(f64::from(u8::from(order.inhibit)), &mut data);
        let _ = self.counter.encode(f64::from(order.counter), &mut data);
        data
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const DBC: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/vehicle.dbc");
    pub(crate) const SIGNALS: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/signals.toml");
    const SHIPPED: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/vehicle-state.toml");

    pub(crate) fn shipped() -> Settings {
        toml::from_str::<Input>(SHIPPED).unwrap().validate(DBC, SIGNALS).unwrap()
    }

    fn changed(from: &str, to: &str) -> SettingsError {
        assert!(SHIPPED.contains(from));
        toml::from_str::<Input>(&SHIPPED.replace(from, to)).unwrap().validate(DBC, SIGNALS).unwrap_err()
    }

    #[test]
    fn the_shipped_file_is_valid_and_makes_the_frame_of_the_dbc_file() {
        let settings = shipped();
        assert_eq!(settings.inhibit.id, FrameId::Standard(0x3C0));
        assert_eq!(settings.inhibit.encode(crate::Order { inhibit: true, counter: 15 }), [1, 15]);
        assert_eq!(settings.inhibit.encode(crate::Order { inhibit: false, counter: 1 }), [0, 1]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(changed("Vehicle.Speed", "Vehicle.Sped"), SettingsError::NoSignal { .. }));
        assert!(matches!(changed("standstill = ", "still = "), SettingsError::Conditions(SetError::Missing { .. })));
        assert!(matches!(changed("Vehicle.Pitstop.IsDriveInhibited", "Vehicle.Speed"), SettingsError::Acknowledge(_)));
        assert!(matches!(changed("\"DriveInhibitRequest\"", "\"Nope\""), SettingsError::Database(_)));
        assert!(matches!(changed("\"InhibitRequestCounter\"", "\"InhibitRequest\""), SettingsError::Frame(_)));
    }
}
