//! What a TCU says of itself right after its start, whatever it was started for.

use serde_json::{Value, json};

use super::shell::Shell;
use super::{ANSWER_LIMIT, named_slot};
use crate::image;
use crate::shell::Failure;

/// A start, as its root shell tells it.
#[derive(Debug)]
pub struct Started {
    /// The slot that the boot loader named.
    pub slot: String,
    /// Name and state of each of our services.
    pub units: Vec<(String, String)>,
    /// What systemd calls failed, one unit a line.
    pub failed: Vec<String>,
    /// Null when the manager does not answer.
    pub status: Value,
}

impl Started {
    pub fn look(shell: &mut Shell) -> Result<Self, Failure> {
        let line = shell.must("cat /proc/cmdline", ANSWER_LIMIT)?;
        let units = shell.must("systemctl list-units --plain --no-legend --all 'pitstop-*.service'", ANSWER_LIMIT)?;
        let failed = shell.must("systemctl --failed --plain --no-legend", ANSWER_LIMIT)?;
        let status = shell.run("pitstopctl --json status", ANSWER_LIMIT)?;
        let status = if status.code == 0 { serde_json::from_str(status.text.trim()).ok() } else { None };
        Ok(Self {
            slot: named_slot(&line).to_owned(),
            units: services(&units),
            failed: failed.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect(),
            status: status.unwrap_or(Value::Null),
        })
    }

    pub fn active(&self) -> usize {
        self.units.iter().filter(|(_, state)| state == "active").count()
    }

    /// Whether it is as it must be: this slot, every service active, nothing failed, and the manager knows its phase.
    pub fn is_good(&self, slot: &str) -> bool {
        let answered = self.status.get("phase").is_some_and(Value::is_string);
        self.slot == slot && self.active() == image::SERVICES.len() && self.failed.is_empty() && answered
    }

    pub fn report(&self) -> Value {
        let units: Vec<Value> =
            self.units.iter().map(|(unit, state)| json!({ "unit": unit, "state": state })).collect();
        json!({ "slot": self.slot, "services": units, "failed_units": self.failed, "status": self.status })
    }
}

/// Name and state of each unit of `systemctl list-units`.
fn services(listed: &str) -> Vec<(String, String)> {
    let columns = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns.filter_map(|words| Some(((*words.first()?).to_owned(), (*words.get(2)?).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_good_only_as_a_whole() {
        let line = |name: &str| format!("pitstop-{name}.service loaded active running {name} of the vehicle\n");
        let listed: String = image::SERVICES.iter().map(|name| line(name)).collect();
        let good = || Started {
            slot: "B".to_owned(),
            units: services(&listed),
            failed: Vec::new(),
            status: json!({ "phase": "idle" }),
        };
        assert!(good().is_good("B") && !good().is_good("A"));
        assert!(!Started { failed: vec!["tmp.mount loaded failed".to_owned()], ..good() }.is_good("B"));
        assert!(!Started { status: Value::Null, ..good() }.is_good("B"));
        let mut one = good();
        if let Some((_, state)) = one.units.first_mut() {
            "activating".clone_into(state);
        }
        assert!(!one.is_good("B"));
    }
}
