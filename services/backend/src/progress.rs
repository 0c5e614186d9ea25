//! Progress of running updates, as devices report it every few seconds: in memory only, gone with the program.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use pitstop_types::UpdateId;
use serde_json::Value;

/// Vehicles remembered at once; beyond that the new one is dropped. Progress is a comfort, not a record.
const MAX_DEVICES: usize = 100_000;
/// Longest message kept, in bytes; a vehicle of 64 ECUs needs two thirds of it.
const MAX_MESSAGE: usize = 4096;

/// The newest progress message of each device.
#[derive(Debug, Default)]
pub struct LiveProgress(Mutex<BTreeMap<String, (String, Value)>>);

impl LiveProgress {
    pub fn put(&self, device: &str, update: &str, value: Value) {
        if value.to_string().len() > MAX_MESSAGE || update.len() > UpdateId::MAX_LEN {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_DEVICES || all.contains_key(device) {
            all.insert(device.to_owned(), (update.to_owned(), value));
        }
    }

    /// What `device` last said of `update`.
    pub fn of(&self, device: &str, update: &str) -> Option<Value> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(device).filter(|(of, _)| of == update).map(|(_, value)| value.clone())
    }
}
