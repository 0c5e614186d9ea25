//! Whole updates of the vehicle whose TCU is emulated, judged from outside: backend, control units and TCU must tell the same end.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cuts::{Cut, Cuts};
use super::host::Host;
use super::story::{Extras, Story};
use crate::image::faulty::{self, Fault};
use crate::image::{self, AFTER, BEFORE, Paths};
use crate::shell::{Failure, Outcome, cargo, step};

/// How often the backend is asked for its end. It hears of it some seconds after the vehicle has it.
const BACKEND_LOOKS: u32 = 30;

/// Of the restarts that the TCU makes by itself with software that fails, the one after which the boot loader has fallen back.
const FALL_BACK: u32 = 2;
/// A cut so long after the power came, or after a restart, finds the kernel or systemd at work.
const IN_START: Duration = Duration::from_secs(14);

/// What is asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub name: String,
    pub build: bool,
    pub json: bool,
    /// For power cuts: how many updates are told, the seed of the first, and whether the control units lose their power too.
    pub cycles: usize,
    pub seed: u64,
    pub ecus: bool,
    /// For flushes: how many points are booted, and whether the last recording is judged again.
    pub sample: usize,
    pub recorded: bool,
}

impl Order {
    /// Where the ends of cycles with power cuts are kept.
    pub fn cuts_file(&self, paths: &Paths) -> PathBuf {
        let which = if self.ecus { "power-cuts-ecus" } else { "power-cuts" };
        paths.dir.join(format!("{which}-{}.jsonl", self.seed))
    }
}

/// One update of a story: the TCU's bundle, the file system in it, and the ends it may have.
pub struct Part {
    bundle: PathBuf,
    slot: PathBuf,
    ends: &'static [&'static str],
}

/// Names of all stories.
pub fn names() -> Vec<&'static str> {
    ["happy", "bus-off", "power-cut", "flushes", "workshop"].into_iter().chain(Fault::ALL.map(Fault::name)).collect()
}

pub fn run(paths: &Paths, order: &Order) -> Outcome {
    if order.build {
        build()?;
    }
    match order.name.as_str() {
        "happy" => tell(paths, order, &[good(paths)], None),
        "power-cut" => power_cuts(paths, order),
        "flushes" => super::flushes::tell(paths, order),
        "bus-off" => super::bus_off::tell(paths, order.json),
        "workshop" => super::workshop::tell(paths, order.json),
        name => {
            let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            let fault = fault
                .ok_or_else(|| Failure::new(format!("there is no story {name:?}; known: {}", names().join(", "))))?;
            // The next good update must succeed: nothing of the failed one may be in its way.
            let (bundle, slot) = (faulty::bundle(paths, fault)?, faulty::slot(paths, fault));
            let bad = Part { bundle, slot, ends: &["all-old"] };
            tell(paths, order, &[bad, good(paths)], Some(Cuts::in_start(FALL_BACK, IN_START)))
        }
    }
}

pub fn good(paths: &Paths) -> Part {
    Part { bundle: paths.bundle(AFTER), slot: paths.slot(AFTER), ends: &["all-new"] }
}

pub fn build() -> Outcome {
    let packages =
        ["pitstop-qemu-host", "pitstop-backend", "pitstop-ecu-sim", "pitstop-bundle-tool", "pitstopd", "pitstopctl"];
    step(
        "programs of the host",
        cargo().args(["build", "--quiet"]).args(packages.map(|package| format!("--package={package}"))),
    )
}

/// Tells a story and judges it; its report is the last line.
fn tell(paths: &Paths, order: &Order, parts: &[Part], cuts: Option<Cuts>) -> Outcome {
    let report = told(paths, order, parts, cuts)?;
    if order.json {
        println!("{report}");
    }
    if report["ok"] == true {
        eprintln!("    the story ended as it should");
        return Ok(());
    }
    Err(Failure::new(format!("the story did not end as it should: {report:#}")))
}

/// A story that only its own module can follow: told from the factory's TCU to a report, whose outcome stands at a JSON pointer of what
/// `follow` answers.
pub fn tell_by(
    paths: &Paths,
    (name, outcome): (&str, &str),
    as_json: bool,
    extras: &Extras,
    follow: impl FnOnce(&mut Story, &mut Host) -> Result<Value, Failure>,
) -> Outcome {
    let started = Instant::now();
    let mut host = Host::start(paths)?;
    let mut story = Story::begin_with(paths, None, extras)?;
    let told = follow(&mut story, &mut host).inspect_err(|_| story.keep_journal())?;
    let ok = told["ok"] == true;
    if !ok {
        story.keep_journal();
    }
    story.finish()?;
    let report = json!({
        "ok": ok,
        "scenario": name,
        "outcome": told.pointer(outcome),
        "told": told,
        "duration_s": started.elapsed().as_secs(),
    });
    if as_json {
        println!("{report}");
    }
    if ok { Ok(()) } else { Err(Failure::new(format!("the story did not end as it should: {report:#}"))) }
}

fn told(paths: &Paths, order: &Order, parts: &[Part], cuts: Option<Cuts>) -> Result<Value, Failure> {
    let started = Instant::now();
    let mut host = Host::start(paths)?;
    let mut story = Story::begin(paths, cuts)?;
    let (updates, start) = follow(&mut story, &mut host, parts).inspect_err(|_| story.keep_journal())?;
    let ok = updates.len() == parts.len()
        && updates.iter().all(|update| update["ok"] == true)
        && (parts.len() == 1 || (story.cuts().len() == 1 && start["same"] == true));
    if !ok {
        story.keep_journal();
    }
    story.finish()?;
    Ok(json!({
        "ok": ok,
        "scenario": order.name,
        "outcome": updates.last().map_or(Value::Null, |last| last["outcome"].clone()),
        "updates": updates,
        "ordinary_start": start,
        "duration_s": started.elapsed().as_secs(),
    }))
}

/// A TCU from the factory through update after update, up to the first that does not end as it should. After more than one it must
/// also start as before, though the power is cut in that.
fn follow(story: &mut Story, host: &mut Host, parts: &[Part]) -> Result<(Vec<Value>, Value), Failure> {
    story.provision(&host.token)?;
    let factory = story.ecus()?;
    let mut updates = Vec::new();
    for part in parts {
        updates.push(update(story, host, part, &factory)?);
        if updates.last().is_none_or(|last| last["ok"] != true) {
            return Ok((updates, Value::Null));
        }
    }
    let start = if parts.len() > 1 { cut_an_ordinary_start(story, host)? } else { Value::Null };
    Ok((updates, start))
}

/// The power goes twice, from the running TCU and in the middle of the start after it: nothing may be otherwise afterwards.
fn cut_an_ordinary_start(story: &mut Story, host: &mut Host) -> Result<Value, Failure> {
    let before = story.standing()?;
    story.cut_a_start(host, IN_START)?;
    let after = story.standing()?;
    Ok(json!({ "same": before == after, "before": before, "after": after }))
}

/// One update from the campaign to the backend's last word.
pub fn update(story: &mut Story, host: &mut Host, part: &Part, factory: &Value) -> Result<Value, Failure> {
    let before = story.ecus()?;
    story.record_frames()?;
    story.new_software.clone_from(&part.slot);
    host.ask(&format!("campaign {}", part.bundle.display()))?;
    story.say("campaign started");
    let entry = story.until_ended(host)?;
    let end = entry["end"].as_str().unwrap_or_default().to_owned();
    let (after, slot, tcu) = (story.ecus()?, story.slot(), story.release()?);
    let frames = story.frames()?;
    let transitions = story.transitions()?;
    let (backend, state) = (backend_state(host), if end == "all-new" { "succeeded" } else { "rolled_back" });
    let new = end == "all-new";
    let all = |old: &Value| if new { differs_everywhere(old, &after) } else { *old == after };
    let ok = part.ends.contains(&end.as_str())
        && all(factory)
        && slot == if new { "B" } else { "A" }
        && tcu == if new { AFTER.name } else { BEFORE.name }
        && backend["state"] == state
        && (new
            || [&entry["error_text"], &backend["reason"]]
                .iter()
                .all(|why| why.as_str().is_some_and(|text| !text.is_empty())))
        && frames["can0"].as_u64().unwrap_or_default() > 0
        && story.cuts().iter().all(|cut| cut.left.is_ok())
        && transitions > 0;
    Ok(json!({
        "ok": ok,
        "outcome": end,
        "slot": slot,
        "tcu": { "after": tcu },
        "before": before,
        "after": after,
        "history": entry,
        "backend": backend,
        "frames": frames,
        "transitions": transitions,
        "restarts": story.restarts,
        "cuts": story.cuts().iter().map(Cut::report).collect::<Vec<_>>(),
    }))
}

/// Whether every control unit has other software than before.
fn differs_everywhere(before: &Value, after: &Value) -> bool {
    let pairs = before.as_object().into_iter().flatten().map(|(ecu, version)| (version, &after[ecu]));
    let mut any = false;
    pairs.inspect(|_| any = true).all(|(old, new)| new.is_string() && old != new) && any
}

/// What the backend says, once it says something final.
fn backend_state(host: &mut Host) -> Value {
    let mut state = Value::Null;
    for _ in 0..BACKEND_LOOKS {
        state = host.ask("state").unwrap_or_else(|e| json!({ "error": e.text }));
        if ["succeeded", "rolled_back", "needs_workshop"].iter().any(|end| state["state"] == *end) {
            break;
        }
        std::thread::sleep(super::LOOK);
    }
    state
}

/// Cycle after cycle with a seed of its own, each from the factory; goes on where an earlier run with the same image stopped.
fn power_cuts(paths: &Paths, order: &Order) -> Outcome {
    let file = order.cuts_file(paths);
    if image::newer(paths, &file) {
        let _ = fs::remove_file(&file);
    }
    let done = fs::read_to_string(&file).unwrap_or_default();
    let mut reports: Vec<Value> = done.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !reports.is_empty() {
        eprintln!("    {} cycles are told already in {}", reports.len(), file.display());
    }
    while reports.len() < order.cycles {
        let seed = order.seed.wrapping_add(reports.len() as u64);
        eprintln!("==> cycle {} of {}, seed {seed}", reports.len() + 1, order.cycles);
        let part = Part { ends: &["all-new", "all-old"], ..good(paths) };
        let mut report = told(paths, order, &[part], Some(Cuts::new(seed, order.ecus)))
            .unwrap_or_else(|failure| json!({ "ok": false, "error": failure.text }));
        report["seed"] = seed.into();
        append(&file, &report)?;
        reports.push(report);
    }
    let failed: Vec<&Value> = reports.iter().filter(|report| report["ok"] != true).collect();
    let summary = summary(&reports, order.ecus);
    if order.json {
        println!("{summary}");
    } else {
        eprintln!("    {summary}");
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("cycles failed: {failed:#?}"))) }
}

/// One more line of a report.
pub fn append(file: &Path, entry: &Value) -> Outcome {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    let written = opened.and_then(|mut file| writeln!(file, "{entry}"));
    written.map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}

/// All cycles in a few figures, with the phases into which the cuts fell.
fn summary(reports: &[Value], ecus: bool) -> Value {
    let count = |end: &str| reports.iter().filter(|report| report["outcome"] == end).count();
    let all = |report: &Value| report["updates"][0]["cuts"].as_array().cloned().unwrap_or_default();
    let cuts: Vec<Value> = reports.iter().flat_map(all).collect();
    let mut phases = BTreeMap::new();
    for cut in &cuts {
        let phase = cut["phase"].as_str().unwrap_or("bad disk");
        let name = if cut["starting"] == true { format!("{phase}, starting") } else { phase.to_owned() };
        *phases.entry(name).or_insert(0) += 1;
    }
    json!({
        "ok": reports.iter().all(|report| report["ok"] == true),
        "scenario": "power-cut",
        "ecus": ecus,
        "cycles": reports.len(),
        "failed": reports.iter().filter(|report| report["ok"] != true).count(),
        "all_new": count("all-new"),
        "all_old": count("all-old"),
        "cuts": cuts.len(),
        "without_cut": reports.iter().filter(|report| all(report).is_empty()).count(),
        "phases": phases,
        "seconds": reports.iter().filter_map(|report| report["duration_s"].as_u64()).sum::<u64>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_cuts_by_phase() {
        let cut = |phase: &str, starting| json!({ "phase": phase, "starting": starting, "after_s": 3 });
        let told = |ok, end, cuts: Vec<Value>| json!({ "ok": ok, "outcome": end, "updates": [{ "cuts": cuts }], "duration_s": 9 });
        let reports = [
            told(true, "all-new", vec![cut("staging", false), cut("staging", true), cut("staging", false)]),
            told(true, "all-old", vec![cut("trial", false)]),
            json!({ "ok": false, "error": "no start" }),
        ];
        let summary = summary(&reports, true);
        assert_eq!(summary["phases"], json!({ "staging": 2, "staging, starting": 1, "trial": 1 }));
        assert_eq!((&summary["cuts"], &summary["failed"], &summary["ok"]), (&json!(4), &json!(1), &json!(false)));
        assert_eq!(summary["without_cut"], 1);
        assert_eq!((&summary["all_new"], &summary["all_old"]), (&json!(1), &json!(1)));
    }
}
