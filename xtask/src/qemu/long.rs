//! The tests that need the emulated machine: short ones for every change, long ones for a release.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::scenario::{self, Order};
use super::{arguments, footprint, inside};
use crate::image::{self, Paths};
use crate::shell::{Failure, Outcome, tenths};

/// Power cuts of the long test: whole updates, each cut one to four times; and those that cut the control units too.
const CYCLES: usize = 20;
const ECU_CYCLES: usize = 5;
/// Seed of the short test's power cuts: it begins anew each time, and leaves alone what the long one has told.
const SHORT_SEED: u64 = 1001;

/// One test: its name, and what it does.
struct Test {
    name: String,
    run: Box<dyn Fn(&Paths) -> Outcome>,
}

/// Runs them one after the other; the long ones go on where an earlier run of the same image stopped.
pub fn run(long: bool) -> Outcome {
    image::ensure()?;
    let paths = Paths::new();
    image::refresh(&paths)?;
    scenario::build()?;
    let log = paths.dir.join(if long { "long.jsonl" } else { "short.jsonl" });
    if !long || image::newer(&paths, &log) {
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
                scenario::append(&log, &json!({ "test": test.name, "secs": tenths(started.elapsed()) }))?;
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
    let mut tests = vec![story("happy"), story("unhealthy")];
    if long {
        tests.push(told("power-cut", Order { cycles: CYCLES, ..order("power-cut") }));
        tests.push(told("power-cut-ecus", Order { cycles: ECU_CYCLES, ecus: true, ..order("power-cut") }));
        tests.extend(["flushes", "no-boot", "hang", "no-data", "bus-off", "workshop"].map(story));
    }
    if !long {
        let order = Order { cycles: 2, seed: SHORT_SEED, ..order("power-cut") };
        tests.push(Test {
            name: "power-cut".to_owned(),
            run: Box::new(move |paths| {
                let _ = fs::remove_file(order.cuts_file(paths));
                scenario::run(paths, &order)
            }),
        });
    }
    tests.push(Test { name: "inside".to_owned(), run: Box::new(inside::run) });
    if long {
        tests.push(Test { name: "footprint".to_owned(), run: Box::new(|_| footprint::run(&[])) });
    }
    tests
}

fn story(name: &str) -> Test {
    told(name, order(name))
}

fn order(story: &str) -> Order {
    let (cycles, seed, sample) = (1, 1, arguments::SAMPLE);
    Order { name: story.to_owned(), build: false, json: false, cycles, seed, ecus: false, sample, recorded: false }
}

fn told(name: &str, order: Order) -> Test {
    Test { name: name.to_owned(), run: Box::new(move |paths| scenario::run(paths, &order)) }
}
