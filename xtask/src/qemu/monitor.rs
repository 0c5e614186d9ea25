//! QEMU's monitor (QMP), of which one thing is wanted: why the machine ended.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::Value;

use super::shell::connect;
use crate::shell::Failure;

/// Reads the monitor until QEMU ends.
#[derive(Debug)]
pub struct Monitor(Option<JoinHandle<bool>>);

impl Monitor {
    pub fn watch(socket: &Path) -> Result<Self, Failure> {
        let mut line = connect(socket)?;
        line.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .map_err(|e| Failure::new(format!("QEMU's monitor: {e}")))?;
        Ok(Self(Some(std::thread::spawn(move || {
            BufReader::new(line).lines().map_while(Result::ok).any(|line| is_reset(&line))
        }))))
    }

    /// Whether the machine ended because it was to start again. Waits for QEMU's end.
    pub fn was_reset(&mut self) -> bool {
        self.0.take().is_some_and(|reader| reader.join().unwrap_or(false))
    }
}

/// `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`; a watchdog's reset is QEMU's own.
fn is_reset(line: &str) -> bool {
    let said: Value = serde_json::from_str(line).unwrap_or_default();
    let reason = said.pointer("/data/reason").and_then(Value::as_str);
    said.get("event").is_some_and(|event| event == "SHUTDOWN") && reason == Some("guest-reset")
}

#[cfg(test)]
mod tests {
    use super::is_reset;

    #[test]
    fn a_reset_is_told_from_a_power_off() {
        assert!(is_reset(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#));
        assert!(!is_reset(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#));
        assert!(!is_reset(r#"{"event":"RESET"}"#));
        assert!(!is_reset("{"));
    }
}
