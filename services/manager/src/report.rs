//! What the backend is told, in the outbox's words.

use pitstop_dbus::{ERROR_PREFIX, OtaError, StepStatus};
use pitstop_lifecycle::{Consent, Failure, Phase, Record, Step};
use pitstop_types::{EcuId, SoftwareVersion, UnixSeconds, UpdateEnd, UpdateId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::history::{after, text};

/// One item of the outbox.
#[derive(Serialize)]
struct Report<'a> {
    update: Option<&'a UpdateId>,
    phase: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<UpdateEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    ecus: Vec<Ecu<'a>>,
    at: UnixSeconds,
    #[serde(skip_serializing_if = "<[Consent]>::is_empty")]
    answers: &'a [Consent],
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Value>,
}

#[derive(Serialize)]
struct Ecu<'a> {
    ecu: &'a EcuId,
    state: &'static str,
    before: String,
    target: &'a SoftwareVersion,
    after: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The report of a transition.
pub fn transition(record: &Record, at: UnixSeconds) -> String {
    write(&of(record, at))
}

/// The report of the end, with the signed manifest read back after it, if there is one.
pub fn end(record: &Record, manifest: Option<&[u8]>, at: UnixSeconds) -> String {
    let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    write(&Report { result: record.end, answers: &record.answers, manifest, ..of(record, at) })
}

/// The report of a decision that was refused as a whole.
pub fn refusal(error: &OtaError, at: UnixSeconds) -> String {
    write(&Report {
        update: None,
        phase: "refused",
        result: Some(UpdateEnd::Refused),
        error: Some(error.full_name()),
        text: Some(error.text()),
        ecus: Vec::new(),
        at,
        answers: &[],
        manifest: None,
    })
}

/// How far the running phase is.
pub fn progress(phase: Phase, steps: &[StepStatus]) -> String {
    let ecu = |step: &StepStatus| json!({ "ecu": step.ecu, "state": step.state, "phase": step.phase, "done": step.done, "total": step.total });
    json!({ "phase": phase, "ecus": steps.iter().map(ecu).collect::<Vec<_>>() }).to_string()
}

fn of(record: &Record, at: UnixSeconds) -> Report<'_> {
    let reason = record.reason.as_ref();
    Report {
        update: Some(&record.decision.update),
        phase: record.phase.as_str(),
        result: None,
        error: reason.map(|reason| format!("{ERROR_PREFIX}.{}", reason.error)),
        text: reason.map(words),
        ecus: record.steps.iter().map(|step| ecu(record, step)).collect(),
        at,
        answers: &[],
        manifest: None,
    }
}

fn ecu<'a>(record: &Record, step: &'a Step) -> Ecu<'a> {
    Ecu {
        ecu: &step.ecu,
        state: step.state.as_str(),
        before: text(step.before.clone()),
        target: &step.target.version,
        after: text(after(record, step)),
        error: step.failure.as_ref().map(|failure| failure.error.as_str()),
    }
}

fn words(reason: &Failure) -> String {
    reason.ecu.as_ref().map_or_else(|| reason.text.clone(), |ecu| format!("{ecu}: {}", reason.text))
}

/// A report has only text keys and plain values, so it can always be written; an empty one would be refused by the outbox.
fn write(report: &Report<'_>) -> String {
    serde_json::to_string(report).unwrap_or_default()
}
