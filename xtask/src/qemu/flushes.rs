//! Every instant of one update at which the disk has just promised that something is durable: each must be a state to go on from.
//!
//! One update is recorded by QEMU, write for write. Then the log is played back to the factory's disk, and at each flush
//! [`super::instant`] judges what a cut of the power would leave. Some of these disks are started.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::host::Host;
use super::instant::Judge;
use super::machine::{Console, Machine, Options, sparse_copy};
use super::scenario::{self, Order};
use super::started::Started;
use super::story::{Extras, Story};
use super::writes::{Disk, Log};
use super::{ANSWER_LIMIT, BOOT_LIMIT};
use crate::image::{self, AFTER, Paths};
use crate::shell::{Failure, Outcome, output, tenths};

/// How often the progress is told.
const TELL: Duration = Duration::from_secs(10);
/// After so many failures the rest is most likely of the same kind, and is not judged.
const FAILURES: usize = 20;

/// What a recorded update left behind, in a folder of its own.
struct Recording {
    dir: PathBuf,
    /// Entries of the log before the campaign began.
    before: u64,
    update: Value,
}

/// One flush after which a cut was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    /// Number of the log's entry.
    entry: u64,
    /// The slot that starts next.
    slot: String,
    phase: String,
    /// The boot environment is another than at the point before.
    environment: bool,
}

/// All of them.
#[derive(Default)]
struct Walk {
    flushes: u64,
    points: Vec<Point>,
    failures: Vec<Value>,
}

pub fn tell(paths: &Paths, order: &Order) -> Outcome {
    let started = Instant::now();
    let recording = if order.recorded { kept(paths)? } else { record(paths)? };
    let recorded = started.elapsed();
    eprintln!("==> every flush of the update");
    let walk = walk(paths, &recording)?;
    let walked = started.elapsed();
    let booted = if walk.failures.is_empty() { boot_some(paths, &recording, &walk, order.sample)? } else { Vec::new() };
    let mut phases = BTreeMap::new();
    for point in &walk.points {
        *phases.entry(format!("{}, starts {}", point.phase, point.slot)).or_insert(0) += 1;
    }
    let ok = walk.failures.is_empty() && !walk.points.is_empty() && booted.iter().all(|one| one["ok"] == true);
    let report = json!({
        "ok": ok,
        "scenario": "flushes",
        "update": recording.update,
        "flushes": walk.flushes,
        "good": walk.points.len(),
        "phases": phases,
        "failures": walk.failures,
        "booted": booted,
        "record_s": tenths(recorded),
        "judge_s": tenths(walked - recorded),
        "duration_s": started.elapsed().as_secs(),
    });
    if order.json {
        println!("{report}");
    } else {
        eprintln!("    {report:#}");
    }
    if ok { Ok(()) } else { Err(Failure::new("not every flush leaves a disk to go on from")) }
}

/// Has QEMU record one update, from the factory's disk on.
fn record(paths: &Paths) -> Result<Recording, Failure> {
    let dir = paths.dir.join("flushes");
    let _ = fs::remove_dir_all(&dir);
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    let log = dir.join("writes.log");
    File::create(&log).map_err(failed)?;
    let mut host = Host::start(paths)?;
    let mut story = Story::begin_with(paths, None, &Extras { log: Some(log), ..Extras::default() })?;
    let told = follow(paths, &mut story, &mut host, &dir).inspect_err(|_| story.keep_journal());
    let (before, update) = told?;
    story.finish()?;
    fs::rename(paths.dir.join("scenario/disk.img"), dir.join("end.img")).map_err(failed)?;
    if update["ok"] != true {
        return Err(Failure::new(format!("the update to be recorded did not end well: {update:#}")));
    }
    let update = json!({ "outcome": update["outcome"], "restarts": update["restarts"] });
    let note = json!({ "before": before, "update": update });
    fs::write(dir.join("recording.json"), note.to_string()).map_err(failed)?;
    Ok(Recording { dir, before, update })
}

fn follow(paths: &Paths, story: &mut Story, host: &mut Host, dir: &Path) -> Result<(u64, Value), Failure> {
    story.provision(&host.token)?;
    let factory = story.ecus()?;
    story.must("sync")?;
    // The keys are made, and nothing that follows changes the TPM.
    let run = paths.dir.join("scenario");
    output(Command::new("cp").arg("-a").args([run.join("tpm"), run.join("efi-variables.fd")]).arg(dir))?;
    let before = open(paths, &dir.join("writes.log"))?.entries();
    Ok((before, scenario::update(story, host, &scenario::good(paths), &factory)?))
}

/// What an earlier call recorded with the same image.
fn kept(paths: &Paths) -> Result<Recording, Failure> {
    let dir = paths.dir.join("flushes");
    let file = dir.join("recording.json");
    if image::newer(paths, &file) {
        return Err(Failure::new("there is no recording of this image; call again without --recorded"));
    }
    let text = fs::read_to_string(&file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let note: Value = serde_json::from_str(&text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let before = note["before"].as_u64().unwrap_or_default();
    Ok(Recording { dir, before, update: note["update"].clone() })
}

fn open(paths: &Paths, log: &Path) -> Result<Log<BufReader<File>>, Failure> {
    let failed = |path: &Path, e: std::io::Error| Failure::new(format!("{}: {e}", path.display()));
    let disk = paths.disk();
    let length = fs::metadata(&disk).map_err(|e| failed(&disk, e))?.len();
    let file = File::open(log).map_err(|e| failed(log, e))?;
    Ok(Log::open(BufReader::new(file), length)?)
}

/// Plays the log back and judges the disk at each flush; in the end it must be the disk that the machine left.
fn walk(paths: &Paths, recording: &Recording) -> Result<Walk, Failure> {
    let mut log = open(paths, &recording.dir.join("writes.log"))?;
    let mut judge = Judge::new(paths, &paths.disk(), &paths.slot(AFTER))?;
    let (mut walk, mut told) = (Walk::default(), Instant::now());
    while let Some(entry) = log.next()? {
        if walk.failures.len() >= FAILURES {
            return Ok(walk);
        }
        // A flush comes before the data of its own entry, which is durable only if it says so.
        if entry.flush {
            walk.look(&mut judge, entry.number);
        }
        log.apply(&entry, &mut judge.volumes)?;
        if entry.through {
            walk.look(&mut judge, entry.number);
        }
        if told.elapsed() > TELL {
            told = Instant::now();
            let phase = walk.points.last().map_or("", |point| point.phase.as_str());
            let (number, all) = (entry.number, log.entries());
            eprintln!(
                "    entry {number} of {all}: {} flushes, {} judged, phase {phase}",
                walk.flushes,
                walk.points.len()
            );
        }
    }
    let differ = judge.volumes.differences(&recording.dir.join("end.img"))?;
    if !differ.is_empty() {
        walk.failures
            .push(json!({ "what": format!("the log leads to another disk than it did: {}", differ.join(", ")) }));
    }
    eprintln!(
        "    {} flushes, {} different disks judged, {} bad",
        walk.flushes,
        walk.points.len(),
        walk.failures.len()
    );
    Ok(walk)
}

impl Walk {
    fn look(&mut self, judge: &mut Judge, entry: u64) {
        self.flushes += 1;
        match judge.judge() {
            Ok(None) => {}
            Ok(Some(seen)) => {
                let (slot, phase) = (seen.starts.first().cloned().unwrap_or_default(), seen.phase);
                self.points.push(Point { entry, slot, phase, environment: seen.environment });
            }
            Err(failure) => {
                eprintln!("    entry {entry}: {}", failure.text);
                self.failures.push(json!({ "entry": entry, "what": failure.text }));
            }
        }
    }
}

/// Positions of `count` points: of those after `before` first the ones at which the boot environment changed, then those at which
/// the phase did, then any, evenly spread each time.
fn chosen(points: &[Point], before: u64, count: usize) -> Vec<usize> {
    let rank = |at: usize| {
        let point = &points[at];
        let phase_changed = at == 0 || points[at - 1].phase != point.phase;
        if point.environment { 0 } else { if phase_changed { 1 } else { 2 } }
    };
    let mut chosen = Vec::new();
    for wanted in 0..3 {
        let all = (0..points.len()).filter(|at| points[*at].entry >= before && rank(*at) == wanted);
        chosen.extend(evenly(&all.collect::<Vec<_>>(), count - chosen.len()));
    }
    chosen.sort_unstable();
    chosen
}

/// So many of a list, the first and the last among them.
fn evenly(all: &[usize], count: usize) -> Vec<usize> {
    match (all.len(), count) {
        (_, 0) | (0, _) => Vec::new(),
        (length, count) if length <= count => all.to_vec(),
        (length, 1) => vec![all[length / 2]],
        (length, count) => (0..count).map(|n| all[n * (length - 1) / (count - 1)]).collect(),
    }
}

/// A disk in one file.
struct Raw(File);

impl Disk for Raw {
    fn write(&mut self, start: u64, bytes: &[u8]) -> Outcome {
        self.0.write_all_at(bytes, start).map_err(|e| Failure::new(format!("writing a disk: {e}")))
    }
}

/// Starts the TCU with the disks of some points. Neither backend nor control units are there any more, so only the start is judged.
fn boot_some(paths: &Paths, recording: &Recording, walk: &Walk, count: usize) -> Result<Vec<Value>, Failure> {
    let disk = recording.dir.join("replayed.img");
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", disk.display()));
    sparse_copy(&paths.disk(), &disk)?;
    let mut raw = Raw(File::options().write(true).open(&disk).map_err(failed)?);
    let mut log = open(paths, &recording.dir.join("writes.log"))?;
    let mut told = Vec::new();
    let mut next = log.next()?;
    for at in chosen(&walk.points, recording.before, count) {
        let point = &walk.points[at];
        while let Some(entry) = next.filter(|entry| entry.number <= point.entry) {
            log.apply(&entry, &mut raw)?;
            next = log.next()?;
        }
        eprintln!("==> start after entry {}, phase {}", point.entry, point.phase);
        let one = boot(paths, recording, &disk, point)
            .unwrap_or_else(|failure| json!({ "ok": false, "error": failure.text }));
        eprintln!("    {one}");
        told.push(json!({ "entry": point.entry, "phase": point.phase, "ok": one["ok"], "start": one }));
    }
    let _ = fs::remove_file(&disk);
    Ok(told)
}

fn boot(paths: &Paths, recording: &Recording, disk: &Path, point: &Point) -> Result<Value, Failure> {
    let dir = recording.dir.join("start");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
    sparse_copy(disk, &dir.join("disk.img"))?;
    let kept = [recording.dir.join("tpm"), recording.dir.join("efi-variables.fd")];
    output(Command::new("cp").arg("-a").args(kept).arg(&dir))?;
    let options = Options { dir, fresh: false, console: Console::Log, disks: Vec::new() };
    let mut machine = Machine::start(paths, &options)?;
    let started = Instant::now();
    let mut shell = machine.up(BOOT_LIMIT)?;
    let start = Started::look(&mut shell)?;
    let slots = shell.must("pitstopctl --json slots", ANSWER_LIMIT)?;
    machine.cut();
    let slots: Value = serde_json::from_str(slots.trim()).map_err(|e| Failure::new(format!("slots: {e}\n{slots}")))?;
    let booted = slots.as_array().into_iter().flatten().find(|slot| slot["booted"] == true);
    let mut report = start.report();
    report["ok"] = (start.is_good(&point.slot) && booted.is_some_and(|booted| booted["name"] == point.slot)).into();
    report["expected"] = point.slot.as_str().into();
    (report["slots"], report["secs"]) = (slots, tenths(started.elapsed()).into());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_changes_of_the_boot_environment_first() {
        let point = |entry: u64| Point {
            entry,
            slot: "A".to_owned(),
            phase: ["staging", "trial"][usize::from(entry > 50)].to_owned(),
            environment: [3, 20, 40, 60, 80].contains(&entry),
        };
        let points: Vec<_> = (0..100).map(point).collect();
        assert_eq!(chosen(&points, 10, 4), [20, 40, 60, 80]);
        assert_eq!(chosen(&points, 10, 2), [20, 80]);
        assert_eq!(chosen(&points, 10, 1), [60]);
        assert_eq!(chosen(&points, 10, 5), [20, 40, 51, 60, 80]);
        assert_eq!(chosen(&points, 10, 7), [10, 20, 40, 51, 60, 80, 99]);
        assert_eq!(chosen(&points, 10, 0), [0; 0]);
        assert_eq!(chosen(&points, 0, 1000).len(), 100);
    }
}
