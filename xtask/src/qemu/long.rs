//! The tests that need the emulated machine: short ones for every change, long ones for a release.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use super::scenario::{self, Order};
use super::{footprint, inside};
use crate::image::{self, Paths};
use crate::shell::{Failure, Outcome, tenths};

/// Power cuts of the long test: whole updates, each cut one to four times.
const CYCLES: u32 = 20;

/// One test: its name, and what it does.
struct Test {
    name: String,
    run: Box<dyn Fn(&Paths) -> Outcome>,
}

/// Runs them one after the other; the long ones go on where an earlier run of the same image stopped.
pub fn run(long: bool) -> Outcome {
    image::ensure()?;
    let paths = Paths::new();
    image::run(&[])?;
    scenario::build()?;
    let log = paths.dir.join(if long { "long.jsonl" } else { "short.jsonl" });
    if !long || newer(&paths, &log) {
        let _ = fs::remove_file(&log);
    }
    let done = fs::read_to_string(&log).unwrap_or_default();
    let passed: Vec<Value> = done.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (mut good, mut bad) = (0, Vec::new());
    for test in tests(long) {
        if passed.iter().any(|entry| entry.get("test").is_some_and(|name| *name == test.name)) {
            eprintln!("==> {}: passed in an earlier run", test.name);
            good += 1;
            continue;
        }
        eprintln!("==> {}", test.name);
        let started = Instant::now();
        match (test.run)(&paths) {
            Ok(()) => {
                good += 1;
                note(&log, &json!({ "test": test.name, "secs": tenths(started.elapsed()) }))?;
            }
            Err(failure) => {
                eprintln!("    {} failed: {}", test.name, failure.text);
                bad.push(test.name);
            }
        }
        eprintln!("    {:.1} s", started.elapsed().as_secs_f32());
    }
    for line in fs::read_to_string(&log).unwrap_or_default().lines() {
        println!("{line}");
    }
    println!("{good} passed, {} failed", bad.len());
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", bad.join(", ")))) }
}

fn tests(long: bool) -> Vec<Test> {
    let story = |name: &str, cycles| Test {
        name: name.to_owned(),
        run: {
            let name = name.to_owned();
            Box::new(move |paths| {
                let order = Order { name: name.clone(), build: false, json: false, cycles, seed: 1 };
                scenario::run(paths, &order)
            })
        },
    };
    let mut tests = vec![story("happy", 1), story("unhealthy", 1), story("power-cut", if long { CYCLES } else { 2 })];
    if long {
        tests.extend(["no-boot", "hang", "no-data", "workshop"].map(|name| story(name, 1)));
    }
    tests.push(Test { name: "inside".to_owned(), run: Box::new(inside::run) });
    if long {
        tests.push(Test { name: "footprint".to_owned(), run: Box::new(|_| footprint::run(&[])) });
    }
    tests
}

/// Whether the image was made after the log: then what passed before says nothing.
fn newer(paths: &Paths, log: &std::path::Path) -> bool {
    let time = |path: &std::path::Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (time(&paths.bundle(image::AFTER)), time(log)) {
        (Some(image), Some(log)) => image > log,
        _ => true,
    }
}

fn note(log: &std::path::Path, entry: &Value) -> Outcome {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(|e| Failure::new(format!("{}: {e}", log.display())))?;
    writeln!(file, "{entry}").map_err(|e| Failure::new(format!("{}: {e}", log.display())))
}
