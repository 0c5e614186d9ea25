//! A whole update of the vehicle whose TCU is emulated: backend and control units on the host, the stack in the guest, driven as a
//! person would drive it, by `pitstopctl`.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine::{Console, Machine, Options, dependent};
use super::shell::Shell;
use super::{ANSWER_LIMIT, BOOT_LIMIT};
use crate::image::{AFTER, BEFORE, ECU_CAN, ECU_DOIP, Paths};
use crate::shell::{Failure, Outcome, cargo, output, step, target_dir};

/// Longest a story may take.
const STORY_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long the vehicle is given to hear of the campaign, before it is told to check.
const HINT_PATIENCE: Duration = Duration::from_secs(30);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Runs the only story there is so far: every control unit gets new software.
pub fn run(paths: &Paths, name: &str, build: bool, as_json: bool) -> Outcome {
    if name != "happy" {
        return Err(Failure::new(format!("there is no scenario {name:?} in QEMU; known: happy")));
    }
    if build {
        let packages = [
            "pitstop-qemu-host",
            "pitstop-backend",
            "pitstop-ecu-sim",
            "pitstop-bundle-tool",
            "pitstopd",
            "pitstopctl",
        ];
        step(
            "programs of the host",
            cargo().args(["build", "--quiet"]).args(packages.map(|package| format!("--package={package}"))),
        )?;
    }
    let started = Instant::now();
    let mut host = Host::start(paths)?;
    let dir = paths.dir.join("scenario");
    let machine = Machine::start(paths, &Options { dir, fresh: true, console: Console::Log })?;
    eprintln!("==> starting (console: {})", machine.console_log().display());
    let mut story = Story { shell: machine.up(BOOT_LIMIT)?, machine, phase: String::new(), started };
    let slot = story.slot();
    story.say(&format!("slot {slot}"));
    story.must(&format!("pitstopctl --json provision {}", host.token))?;
    story.say("provisioned with keys in the TPM");
    let before = story.ecus()?;
    story.must("pitstopctl --json check")?;
    host.ask("campaign")?;
    story.say("campaign started");
    let end = story.until_ended()?;
    let (after, slot) = (story.ecus()?, story.slot());
    let backend = backend_state(&mut host);
    let tcu = story.json("cat /etc/pitstop-release | sed -n 's/^VERSION=\\(.*\\)/\"\\1\"/p'")?;
    let ok = end == "all-new" && slot == "B" && backend["state"] == "succeeded" && tcu == AFTER.name;
    let report = json!({
        "ok": ok,
        "scenario": name,
        "outcome": end,
        "slot": slot,
        "tcu": { "before": BEFORE.name, "after": tcu },
        "before": before,
        "after": after,
        "backend": backend,
        "duration_s": started.elapsed().as_secs(),
    });
    if !ok {
        let journal = story.shell.run("journalctl -b --no-pager -n 300 -o short-precise", ANSWER_LIMIT)?.text;
        let file = paths.dir.join("scenario/journal.txt");
        fs::write(&file, journal).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
        eprintln!("    the TCU's journal: {}", file.display());
    }
    story.finish()?;
    if as_json {
        println!("{report}");
    }
    if ok {
        eprintln!("    every control unit has its new software; the TCU runs slot {slot}");
        return Ok(());
    }
    Err(Failure::new(format!("the story did not end as it should: {report:#}")))
}

/// What the backend says, once it says something final.
fn backend_state(host: &mut Host) -> Value {
    let mut state = Value::Null;
    for _ in 0..30 {
        state = host.ask("state").unwrap_or_else(|e| json!({ "error": e.text }));
        if state["state"] == "succeeded" {
            break;
        }
        std::thread::sleep(LOOK);
    }
    state
}

struct Story {
    machine: Machine,
    shell: Shell,
    phase: String,
    started: Instant,
}

impl Story {
    fn say(&self, text: &str) {
        eprintln!("    {:>4} s  {text}", self.started.elapsed().as_secs());
    }

    /// A command that must succeed.
    fn must(&mut self, command: &str) -> Result<String, Failure> {
        let answer = self.shell.run(command, ANSWER_LIMIT)?;
        if answer.code == 0 {
            return Ok(answer.text);
        }
        Err(Failure::new(format!("{command}: status {}\n{}", answer.code, answer.text)))
    }

    fn json(&mut self, command: &str) -> Result<Value, Failure> {
        let text = self.must(command)?;
        serde_json::from_str(text.trim()).map_err(|e| Failure::new(format!("{command}: {e}\n{text}")))
    }

    fn slot(&mut self) -> String {
        let line = self.must("cat /proc/cmdline").unwrap_or_default();
        line.split_whitespace().find_map(|word| word.strip_prefix("rauc.slot=")).unwrap_or_default().to_owned()
    }

    /// Identifier and version of each control unit, read from it.
    fn ecus(&mut self) -> Result<Value, Failure> {
        let mut said = String::new();
        // After a restart the buses and the control units need a moment.
        for _ in 0..10 {
            let listed = self.json("pitstopctl --json ecus")?;
            let read = |ecu: &Value| (ecu["ecu"].as_str().unwrap_or_default().to_owned(), ecu["version"].clone());
            let all: serde_json::Map<String, Value> = listed.as_array().into_iter().flatten().map(read).collect();
            if !all.is_empty() && all.values().all(|version| version.as_str().is_some_and(|text| !text.is_empty())) {
                return Ok(Value::Object(all));
            }
            said = listed.to_string();
            std::thread::sleep(LOOK);
        }
        Err(Failure::new(format!("not every control unit tells its version: {said}")))
    }

    /// Answers the prompt and watches until the vehicle says that the update has ended.
    fn until_ended(&mut self) -> Result<String, Failure> {
        let deadline = Instant::now() + STORY_LIMIT;
        let hint = Instant::now() + HINT_PATIENCE;
        let mut told_to_check = false;
        while Instant::now() < deadline {
            if let Ok(status) = self.json("pitstopctl --json status") {
                self.look(&status);
            } else if self.machine.restarted()? {
                self.say("the TCU restarts");
                self.shell = self.machine.up(BOOT_LIMIT)?;
                let slot = self.slot();
                self.say(&format!("slot {slot}"));
            }
            if self.phase == "idle" && !told_to_check && Instant::now() > hint {
                self.say("no hint heard; telling the vehicle to check");
                told_to_check = self.must("pitstopctl --json check").is_ok();
            }
            let history = self.json("pitstopctl --json history").unwrap_or(Value::Null);
            if let Some(end) = history[0]["end"].as_str() {
                self.say(&format!("the update ended: {end}"));
                return Ok(end.to_owned());
            }
            std::thread::sleep(LOOK);
        }
        let journal =
            self.shell.run("journalctl -b --no-pager -n 60", ANSWER_LIMIT).map(|a| a.text).unwrap_or_default();
        Err(Failure::new(format!("the update did not end; phase {:?}\n{journal}", self.phase)))
    }

    fn look(&mut self, status: &Value) {
        let phase = status["phase"].as_str().unwrap_or_default().to_owned();
        if phase != self.phase {
            self.say(&format!("{phase} {}", status["blocked"]));
            self.phase = phase;
        }
        if status["open_prompts"].as_u64().unwrap_or_default() > 0
            && self.shell.run("pitstopctl approve", ANSWER_LIMIT).is_ok_and(|a| a.code == 0)
        {
            self.say("answered: now");
        }
    }

    fn finish(mut self) -> Outcome {
        self.shell.send("systemctl poweroff")?;
        self.machine.wait_for_end(ANSWER_LIMIT)
    }
}

/// The programs around the TCU.
struct Host {
    program: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    token: String,
}

impl Host {
    fn start(paths: &Paths) -> Result<Self, Failure> {
        let dir = paths.dir.join("host");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
        // A story begins with a backend that knows no vehicle.
        let backend = dir.join("backend");
        output(Command::new("cp").arg("-a").arg(paths.backend()).arg(&backend))?;
        move_paths(&backend, &paths.backend())?;
        let program = target_dir().join("debug/pitstop-qemu-host");
        let mut program = dependent(&program.display().to_string())
            .arg("--dir")
            .arg(&dir)
            .arg("--backend")
            .arg(&backend)
            .arg("--keys")
            .arg(paths.keys())
            .arg("--tcu-before")
            .arg(paths.bundle(BEFORE))
            .arg("--tcu-after")
            .arg(paths.bundle(AFTER))
            .args(["--can-port", &ECU_CAN.to_string(), "--doip-port", &ECU_DOIP.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::new(format!("cannot start pitstop-qemu-host: {e}")))?;
        let (Some(words), Some(answers)) = (program.stdin.take(), program.stdout.take()) else {
            return Err(Failure::new("pitstop-qemu-host has no pipes"));
        };
        let mut host = Self { program, words, answers: BufReader::new(answers), token: String::new() };
        let ready = host.line()?;
        host.token = ready["token"].as_str().unwrap_or_default().to_owned();
        eprintln!("    backend for a browser: {}", ready["admin"].as_str().unwrap_or_default());
        Ok(host)
    }

    fn line(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| Failure::new(format!("pitstop-qemu-host: {e}")))?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|_| Failure::new("pitstop-qemu-host ended; see target/tcu/host/log"))?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::new(error.to_owned())),
            None => Ok(answer),
        }
    }

    fn ask(&mut self, word: &str) -> Result<Value, Failure> {
        writeln!(self.words, "{word}").map_err(|e| Failure::new(format!("pitstop-qemu-host: {e}")))?;
        self.line()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The broker's configuration names its folder by absolute paths.
fn move_paths(backend: &std::path::Path, from: &std::path::Path) -> Outcome {
    let file = backend.join("mosquitto/mosquitto.conf");
    let text = fs::read_to_string(&file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let text = text.replace(&from.display().to_string(), &backend.display().to_string());
    fs::write(&file, text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}
