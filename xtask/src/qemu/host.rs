//! What stands around the emulated TCU, as `pitstop-qemu-host` runs it: backend, broker, simulated control units.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::machine::dependent;
use crate::image::{BEFORE, ECU_CAN, ECU_DOIP, Paths};
use crate::shell::{Failure, Outcome, output, target_dir};

/// The programs around the TCU.
pub struct Host {
    program: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The vehicle's one-time token.
    pub token: String,
}

impl Host {
    pub fn start(paths: &Paths) -> Result<Self, Failure> {
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

    /// Says one word with its arguments, and takes the answer.
    pub fn ask(&mut self, word: &str) -> Result<Value, Failure> {
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
