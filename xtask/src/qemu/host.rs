//! What stands around the emulated TCU, as `pitstop-qemu-host` runs it: backend, broker, simulated control units.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::machine::dependent;
use crate::image::{BEFORE, ECU_CAN, ECU_DOIP, Paths};
use crate::shell::{Failure, Outcome, output, target_dir};

/// A program that answers each line on its standard input with one line of JSON, and ends with it.
#[derive(Debug)]
pub struct Talk {
    program: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Talk {
    /// Starts a program of ours; `set` adds its arguments.
    pub fn start(name: &str, set: impl FnOnce(&mut Command)) -> Result<Self, Failure> {
        let mut command = dependent(&target_dir().join("debug").join(name).display().to_string());
        set(&mut command);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = spawned.map_err(|e| Failure::new(format!("cannot start {name}: {e}")))?;
        let (Some(words), Some(answers)) = (program.stdin.take(), program.stdout.take()) else {
            return Err(Failure::new(format!("{name} has no pipes")));
        };
        Ok(Self { program, words, answers: BufReader::new(answers), name: name.to_owned() })
    }

    /// Takes the next answer; one with `error` is a failure.
    pub fn line(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| Failure::new(format!("{}: {e}", self.name)))?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| Failure::new(format!("{} ended", self.name)))?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::new(error.to_owned())),
            None => Ok(answer),
        }
    }

    /// Says one word with its arguments, and takes the answer.
    pub fn ask(&mut self, word: &str) -> Result<Value, Failure> {
        writeln!(self.words, "{word}").map_err(|e| Failure::new(format!("{}: {e}", self.name)))?;
        self.line()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The programs around the TCU.
#[derive(Debug)]
pub struct Host {
    talk: Talk,
    /// The vehicle's one-time token.
    pub token: String,
    /// The backend's page, with what a browser needs to be let in.
    pub page: String,
}

impl Host {
    /// Logs of all of them lie in `target/tcu/host/log`.
    pub fn start(paths: &Paths) -> Result<Self, Failure> {
        let dir = paths.dir.join("host");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
        // A story begins with a backend that knows no vehicle.
        let backend = dir.join("backend");
        output(Command::new("cp").arg("-a").arg(paths.backend()).arg(&backend))?;
        move_paths(&backend, &paths.backend())?;
        let mut talk = Talk::start("pitstop-qemu-host", |program| {
            program.arg("--dir").arg(&dir).arg("--backend").arg(&backend).arg("--keys").arg(paths.keys());
            program.arg("--tcu-before").arg(paths.bundle(BEFORE));
            program.args(["--can-port", &ECU_CAN.to_string(), "--doip-port", &ECU_DOIP.to_string()]);
        })?;
        let ready = talk.line()?;
        let word = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        let (token, page) = (word("token"), word("admin"));
        eprintln!("    backend for a browser: {page}");
        Ok(Self { talk, token, page })
    }

    /// Says one word with its arguments, and takes the answer.
    pub fn ask(&mut self, word: &str) -> Result<Value, Failure> {
        self.talk.ask(word)
    }
}

/// The broker's configuration names its folder by absolute paths.
fn move_paths(backend: &std::path::Path, from: &std::path::Path) -> Outcome {
    let file = backend.join("mosquitto/mosquitto.conf");
    let text = fs::read_to_string(&file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let text = text.replace(&from.display().to_string(), &backend.display().to_string());
    fs::write(&file, text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}
