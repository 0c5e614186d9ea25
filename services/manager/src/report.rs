//! What the backend is told, in the outbox's words.

use pitstop_dbus::{ERROR_PREFIX, OtaError, StepStatus};
use pitstop_lifecycle::{Failure, Record, Step};
use pitstop_types::UnixSeconds;
use serde_json::{Value, json};

use crate::history::{after, text};

/// The report of a transition.
pub fn transition(record: &Record, at: UnixSeconds) -> Value {
    let mut report = json!({
        "update": record.decision.update,
        "phase": record.phase,
        "ecus": ecus(record),
        "at": at,
    });
    blame(&mut report, record.reason.as_ref());
    report
}

/// The report of the end, with the signed manifest read back after it, if there is one.
pub fn end(record: &Record, manifest: Option<&[u8]>, at: UnixSeconds) -> Value {
    let mut report = transition(record, at);
    report["result"] = json!(record.end);
    if let Some(manifest) = manifest.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) {
        report["manifest"] = manifest;
    }
    if !record.answers.is_empty() {
        report["answers"] = json!(record.answers);
    }
    report
}

/// The report of a decision that was refused as a whole.
pub fn refusal(error: &OtaError, at: UnixSeconds) -> Value {
    json!({ "update": Value::Null, "phase": "refused", "result": "refused", "error": error.full_name(), "text": error.text(), "ecus": [], "at": at })
}

/// How far the running phase is.
pub fn progress(record: &Record, steps: &[StepStatus]) -> Value {
    let ecu = |step: &StepStatus| json!({ "ecu": step.ecu, "state": step.state, "phase": step.phase, "done": step.done, "total": step.total });
    json!({ "phase": record.phase, "ecus": steps.iter().map(ecu).collect::<Vec<_>>() })
}

fn blame(report: &mut Value, reason: Option<&Failure>) {
    if let Some(reason) = reason {
        report["error"] = json!(format!("{ERROR_PREFIX}.{}", reason.error));
        let words = reason.ecu.as_ref().map_or_else(|| reason.text.clone(), |ecu| format!("{ecu}: {}", reason.text));
        report["text"] = json!(words);
    }
}

fn ecus(record: &Record) -> Vec<Value> {
    let ecu = |step: &Step| {
        json!({
            "ecu": step.ecu,
            "state": step.state.as_str(),
            "before": text(step.before.clone()),
            "target": step.target.version,
            "after": text(after(record, step)),
            "error": step.failure.as_ref().map(|failure| failure.error.clone()),
        })
    };
    record.steps.iter().map(ecu).collect()
}
