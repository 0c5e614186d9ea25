//! Coverage-guided fuzzing with the stable compiler: libFuzzer with the compiler's own coverage pass, without sanitizers.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::shell::{Failure, Outcome, cargo, output, target_dir, tenths, workspace};

const HELP: &str = "\
usage: cargo xtask fuzz [TARGET...] [--seconds N] [--list] [--json]

Feeds every parser of foreign bytes (fuzz/) with inputs that libFuzzer makes, each target for N seconds (10), beginning with its own
inputs and with those that an earlier run found worth keeping (target/fuzz/corpus/TARGET). A panic, an allocation of more than 64 MiB,
more than 512 MiB in all, or an input that takes more than 10 s fails; the input is kept in target/fuzz/found, and

  target/fuzz/*/release/TARGET FILE

runs it again. Needs a C++ compiler (cargo xtask setup brings one).

--list    names the targets
--json    ends with one line of JSON";

/// What libFuzzer needs to see where an input goes. `cargo fuzz` sets the same, and sanitizers with a nightly compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
const SECONDS: u64 = 10;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    targets: Vec<String>,
    seconds: u64,
    list: bool,
    json: bool,
}

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let wish = parse(args)?;
    let targets = targets()?;
    if let Some(unknown) = wish.targets.iter().find(|name| !targets.contains(name)) {
        return Err(Failure::new(format!("there is no target {unknown:?}; known: {}", targets.join(", "))));
    }
    if wish.list {
        println!("{}", targets.join("\n"));
        return Ok(());
    }
    let dir = target_dir().join("fuzz");
    let programs = build(&dir)?;
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for target in targets.iter().filter(|target| wish.targets.is_empty() || wish.targets.contains(target)) {
        let report = fuzz(&dir, &programs, target, wish.seconds)?;
        let executed = report["executed"].as_u64().unwrap_or_default();
        // An input that nothing was done with would pass as well.
        if report["ok"] != true || executed == 0 {
            failed.push(target.clone());
        }
        eprintln!("    {target:<20} {executed:>9} inputs, {} kept", report["kept"]);
        reports.push(report);
    }
    if wish.json {
        println!("{}", json!({ "ok": failed.is_empty(), "targets": reports }));
    }
    println!("{} passed, {} failed", reports.len() - failed.len(), failed.len());
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("failed: {}; the inputs are in {}", failed.join(", "), dir.join("found").display())))
}

fn parse(args: &[String]) -> Result<Wish, Failure> {
    let mut wish = Wish { targets: Vec::new(), seconds: SECONDS, list: false, json: false };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--list" => wish.list = true,
            "--json" => wish.json = true,
            "--seconds" => {
                let number = words.next().and_then(|word| word.parse().ok()).filter(|seconds| *seconds > 0);
                wish.seconds = number.ok_or_else(|| Failure::new("--seconds needs a number above 0 behind it"))?;
            }
            flag if flag.starts_with('-') => {
                return Err(Failure::new(format!("cargo xtask fuzz does not know {flag:?}; see --help")));
            }
            name => wish.targets.push(name.to_owned()),
        }
    }
    Ok(wish)
}

/// Builds all targets; answers the folder with the programs.
fn build(dir: &Path) -> Result<PathBuf, Failure> {
    let about = output(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Failure::new("rustc does not name its host"))?;
    // With a target named, build scripts and macros are built without the flags.
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--release", "--target", host, "--manifest-path"]);
    build.arg(workspace().join("fuzz/Cargo.toml")).arg("--target-dir").arg(dir).env("RUSTFLAGS", COVERAGE);
    crate::shell::step("fuzz targets", &mut build)?;
    Ok(dir.join(host).join("release"))
}

/// Names of all targets: the files in `fuzz_targets/`.
fn targets() -> Result<Vec<String>, Failure> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    let names = entries.flatten().filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}

fn fuzz(dir: &Path, programs: &Path, target: &str, seconds: u64) -> Result<serde_json::Value, Failure> {
    let (corpus, found) = (dir.join("corpus").join(target), dir.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    }
    let started = Instant::now();
    let mut program = Command::new(programs.join(target));
    program.env("PITSTOP_FUZZ_SEEDS", &corpus).arg(&corpus).arg(format!("-max_total_time={seconds}"));
    program.args(["-timeout=10", "-malloc_limit_mb=64", "-rss_limit_mb=512", "-print_final_stats=1"]);
    program.arg(format!("-artifact_prefix={}/{}-", found.display(), target));
    let out = program.output().map_err(|e| Failure::new(format!("{}: {e}", target)))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n"));
    }
    let figure = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let kept = fs::read_dir(&corpus).map(Iterator::count).unwrap_or_default();
    Ok(json!({
        "target": target,
        "ok": out.status.success(),
        "executed": figure("stat::number_of_executed_units:").unwrap_or_default(),
        "peak_mib": figure("stat::peak_rss_mb:"),
        "kept": kept,
        "secs": tenths(started.elapsed()),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_become_a_wish() {
        let of = |text: &str| parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let wish = of("isotp --seconds 3 --json").unwrap();
        assert_eq!(wish, Wish { targets: vec!["isotp".to_owned()], seconds: 3, list: false, json: true });
        for wrong in ["--second 3", "--seconds", "--seconds 0", "--seconds x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    /// A target that is built and never run, or named and not built, would go unnoticed.
    #[test]
    fn every_target_has_its_file_and_its_program() {
        let folder = workspace().join("fuzz");
        let quoted = |text: &str, before: &str| -> BTreeSet<String> {
            let parts = text.split(before).skip(1);
            parts.filter_map(|part| part.split('"').next().map(str::to_owned)).collect()
        };
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let named = quoted(&read("src/lib.rs"), "Target { name: \"");
        let built = quoted(&read("Cargo.toml"), "path = \"fuzz_targets/");
        let files = fs::read_dir(folder.join("fuzz_targets")).unwrap().map(|entry| entry.unwrap().file_name());
        let files: BTreeSet<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(built, files);
        assert_eq!(named.iter().map(|name| format!("{name}.rs")).collect::<BTreeSet<_>>(), files);
        for name in &named {
            assert!(read(&format!("fuzz_targets/{name}.rs")).contains(&format!("run(\"{name}\", data)")), "{name}");
        }
    }
}
