//! One emulated TCU through its updates, driven as a person would drive it, by `pitstopctl`.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cuts::{Cut, Cuts, Part};
use super::host::Host;
use super::instant;
use super::machine::{Console, Machine, Options};
use super::shell::Shell;
use super::{ANSWER_LIMIT, BOOT_LIMIT, LOOK, named_slot};
use crate::image::{AFTER, Paths};
use crate::shell::{Failure, Outcome};

/// Longest one update may take, cuts and fall-backs included.
const STORY_LIMIT: Duration = Duration::from_secs(25 * 60);
/// How long the vehicle is given to hear of the campaign, before it is told to check.
const HINT_PATIENCE: Duration = Duration::from_secs(45);
/// How long a shell may be silent before the machine is looked at again: it may hang, and its watchdog bites after 30 s.
const SILENCE: Duration = Duration::from_secs(20);
const RECORD: &str = "(setsid candump -L can0 vcan1 >> /data/frames.log 2>/dev/null &)";

pub struct Story {
    paths: Paths,
    machine: Machine,
    shell: Shell,
    phase: String,
    started: Instant,
    /// How long the first start took.
    first_start: Duration,
    cuts: Option<Cuts>,
    /// Restarts that the TCU made by itself.
    pub restarts: u32,
    journal: PathBuf,
    /// The file system that the update under way writes into slot B.
    pub new_software: PathBuf,
    /// Whether candump is to be there after each start.
    recording: bool,
    disturbance: Option<Disturbance>,
}

/// What a machine may have beside what every TCU has.
#[derive(Debug, Default)]
pub struct Extras {
    /// Where every write to the disk is recorded.
    pub log: Option<PathBuf>,
    /// More disks, read-only: vdb, vdc, ...
    pub disks: Vec<PathBuf>,
}

/// What goes wrong while the control units are flashed.
struct Disturbance {
    command: String,
    /// How often it is still to happen.
    left: usize,
    /// What the command said each time.
    said: Vec<String>,
}

/// Leaves the token as the factory does, and starts what the first boot would start by itself.
pub fn provisioning(token: &str) -> String {
    format!("printf %s '{token}' > /data/config/claim-token && systemctl start tcu-provision.service")
}

impl Story {
    /// Starts a TCU as it leaves the factory.
    pub fn begin(paths: &Paths, cuts: Option<Cuts>) -> Result<Self, Failure> {
        Self::begin_with(paths, cuts, &Extras::default())
    }

    /// The same with more than every TCU has.
    pub fn begin_with(paths: &Paths, cuts: Option<Cuts>, extras: &Extras) -> Result<Self, Failure> {
        let started = Instant::now();
        let dir = paths.dir.join("scenario");
        let journal = dir.join("journal.txt");
        let options = Options { dir, fresh: true, console: Console::Log, disks: extras.disks.clone() };
        let machine = Machine::start_recorded(paths, &options, extras.log.as_deref())?;
        eprintln!("==> starting (console: {})", machine.console_log().display());
        let shell = machine.up(BOOT_LIMIT)?;
        let mut story = Self {
            paths: paths.clone(),
            machine,
            shell,
            phase: String::new(),
            started,
            first_start: started.elapsed(),
            cuts,
            restarts: 0,
            journal,
            new_software: paths.slot(AFTER),
            recording: false,
            disturbance: None,
        };
        let slot = story.slot();
        story.say(&format!("slot {slot}"));
        Ok(story)
    }

    /// From now on, while control units are flashed, this command is given so many times, one look after the other.
    pub fn disturb_flashing(&mut self, command: &str, times: usize) {
        self.disturbance = Some(Disturbance { command: command.to_owned(), left: times, said: Vec::new() });
    }

    /// What these commands said.
    pub fn disturbed(&self) -> &[String] {
        self.disturbance.as_ref().map_or(&[], |disturbance| &disturbance.said)
    }

    fn disturb(&mut self) {
        if let Some(now) = self.disturbance.as_mut().filter(|now| now.left > 0) {
            now.left -= 1;
            let said = self.shell.must(&now.command, ANSWER_LIMIT).unwrap_or_else(|failure| failure.text);
            now.said.push(said);
            self.say("disturbed");
        }
    }

    pub fn say(&self, text: &str) {
        eprintln!("    {:>4} s  {text}", self.started.elapsed().as_secs());
    }

    /// Cuts made so far.
    pub fn cuts(&self) -> &[Cut] {
        self.cuts.as_ref().map_or(&[], |cuts| &cuts.made)
    }

    /// Makes the TCU known to the backend, which then has its first signed report.
    pub fn provision(&mut self, token: &str) -> Outcome {
        self.must(&provisioning(token))?;
        self.say("provisioned with keys in the TPM");
        self.must("pitstopctl --json check").map(drop)
    }

    /// A command that must succeed.
    pub fn must(&mut self, command: &str) -> Result<String, Failure> {
        self.shell.must(command, ANSWER_LIMIT)
    }

    fn json(&mut self, command: &str) -> Result<Value, Failure> {
        let text = self.must(command)?;
        serde_json::from_str(text.trim()).map_err(|e| Failure::new(format!("{command}: {e}\n{text}")))
    }

    /// The slot that runs, as the boot loader named it.
    pub fn slot(&mut self) -> String {
        named_slot(&self.must("cat /proc/cmdline").unwrap_or_default()).to_owned()
    }

    /// The version in the running slot's own file system.
    pub fn release(&mut self) -> Result<String, Failure> {
        Ok(self.must("sed -n 's/^VERSION=//p' /etc/pitstop-release")?.trim().to_owned())
    }

    /// Identifier and version of each control unit, read from it.
    pub fn ecus(&mut self) -> Result<Value, Failure> {
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

    /// From now on candump writes down what passes on the kernel's CAN interfaces, after a restart too. A cut of the power may take
    /// what it wrote last.
    pub fn record_frames(&mut self) -> Outcome {
        self.recording = true;
        self.must(&format!("rm -f /data/frames.log; {RECORD}")).map(drop)
    }

    /// Frames that candump saw, by interface.
    pub fn frames(&mut self) -> Result<Value, Failure> {
        let mut count = |interface: &str, id: &str| {
            // Diagnostic requests only: what the vehicle broadcasts says nothing of the update.
            let counted = self.must(&format!("grep -c ' {interface} {id}#' /data/frames.log || true"))?;
            Ok::<u64, Failure>(counted.trim().parse().unwrap_or_default())
        };
        Ok(json!({ "can0": count("can0", "7E0")?, "vcan1": count("vcan1", "7E1")? }))
    }

    /// Transitions in the journal, each with its fields. Over all starts: a cut may come after the last one.
    pub fn transitions(&mut self) -> Result<u64, Failure> {
        let counted = self.must("journalctl -u pitstop-manager -o json --no-pager | grep -c '\"PHASE\"' || true")?;
        Ok(counted.trim().parse().unwrap_or_default())
    }

    /// Answers the prompt and watches until the vehicle says that the update has ended; answers the history's entry.
    pub fn until_ended(&mut self, host: &mut Host) -> Result<Value, Failure> {
        let known = self.json("pitstopctl --json history")?.as_array().map_or(0, Vec::len);
        let deadline = Instant::now() + STORY_LIMIT;
        let hint = Instant::now() + HINT_PATIENCE;
        let mut told_to_check = false;
        if let Some(cuts) = &mut self.cuts {
            cuts.begin(self.first_start);
        }
        while Instant::now() < deadline {
            self.watch_power(host)?;
            if let Ok(status) = self.json("pitstopctl --json status") {
                self.look(&status);
            }
            if self.phase == "idle" && !told_to_check && Instant::now() > hint {
                self.say("no hint heard; telling the vehicle to check");
                told_to_check = self.must("pitstopctl --json check").is_ok();
            }
            let history = self.json("pitstopctl --json history").unwrap_or(Value::Null);
            if history.as_array().is_some_and(|entries| entries.len() > known) {
                self.say(&format!("the update ended: {}", history[0]["end"].as_str().unwrap_or_default()));
                // What is left of the cuts is for another update.
                if let Some(cuts) = &mut self.cuts {
                    cuts.end();
                }
                return Ok(history[0].clone());
            }
            std::thread::sleep(LOOK);
        }
        Err(Failure::new(format!("the update did not end; phase {:?}", self.phase)))
    }

    /// Follows restarts, and cuts the power when its time has come.
    pub fn watch_power(&mut self, host: &mut Host) -> Outcome {
        loop {
            if self.machine.restarted()? {
                self.restarted("the TCU restarts");
            } else if let Some(left) = self.cuts.as_ref().and_then(Cuts::due_in).filter(|left| *left < LOOK * 2) {
                // A look takes seconds, and the trial is no longer than that.
                std::thread::sleep(left);
                self.cut(host, false)?;
            } else if self.shell.run("true", SILENCE).is_ok() {
                return Ok(());
            }
            self.rise(host)?;
        }
    }

    fn restarted(&mut self, text: &str) {
        self.restarts += 1;
        self.say(text);
        if let Some(cuts) = &mut self.cuts {
            cuts.restarted(self.restarts);
        }
    }

    fn enters(&mut self, part: Part) {
        if let Some(cuts) = &mut self.cuts {
            cuts.enters(part);
        }
    }

    /// What no start may change.
    pub fn standing(&mut self) -> Result<Value, Failure> {
        let (ecus, slot, release) = (self.ecus()?, self.slot(), self.release()?);
        let (slots, history) = (self.json("pitstopctl --json slots")?, self.json("pitstopctl --json history")?);
        Ok(json!({ "ecus": ecus, "slot": slot, "release": release, "slots": slots, "history": history }))
    }

    /// Cuts the power of the running TCU, and again in the start that follows.
    pub fn cut_a_start(&mut self, host: &mut Host, later: Duration) -> Outcome {
        self.machine.power_on()?;
        std::thread::sleep(later);
        self.machine.power_on()?;
        self.say("the power was cut, and again in the start after it");
        self.rise(host)
    }

    fn cut(&mut self, host: &mut Host, starting: bool) -> Outcome {
        let Some(cuts) = &mut self.cuts else { return Ok(()) };
        self.machine.cut();
        if cuts.ecus {
            host.ask("power off")?;
        }
        let left = instant::judge(&self.paths, &self.machine.disk(), &self.new_software);
        let left = left.map(|seen| (seen.phase, seen.starts.first().cloned().unwrap_or_default()));
        let left = left.map_err(|failure| failure.text);
        if cuts.ecus {
            host.ask("power on")?;
        }
        self.machine.power_on()?;
        let whom = if cuts.ecus { " of TCU and ECUs" } else { "" };
        let when = if starting { " while the TCU was starting" } else { "" };
        let what = match &left {
            Ok((phase, slot)) => format!("phase {phase} on the disk, slot {slot} next"),
            Err(trouble) => format!("the disk is not good: {trouble}"),
        };
        cuts.make(left, starting);
        self.say(&format!("the power{whom} was cut{when}: {what}"));
        Ok(())
    }

    /// Waits for the services, unless the power is to go before, or the machine restarts meanwhile.
    fn rise(&mut self, host: &mut Host) -> Outcome {
        // Each start has its own time; all of them together are bound as the story is.
        let last = Instant::now() + STORY_LIMIT;
        let mut deadline = Instant::now() + BOOT_LIMIT;
        while Instant::now() < deadline.min(last) {
            let left = self.cuts.as_ref().and_then(Cuts::due_in);
            if let Ok(shell) = self.machine.up(left.unwrap_or(LOOK * 5).min(LOOK * 5)) {
                self.shell = shell;
                if self.restarts > 0 {
                    self.enters(Part::Trial);
                }
                let slot = self.slot();
                self.say(&format!("slot {slot}"));
                if self.recording {
                    // Only counted at the end: an update does not fail for it.
                    let _ = self.shell.run(RECORD, ANSWER_LIMIT);
                }
                return Ok(());
            }
            if self.machine.restarted()? {
                self.restarted("the TCU restarts again");
                deadline = Instant::now() + BOOT_LIMIT;
            } else if self.cuts.as_ref().and_then(Cuts::due_in).is_some_and(|left| left.is_zero()) {
                self.cut(host, true)?;
                deadline = Instant::now() + BOOT_LIMIT;
            }
        }
        Err(Failure::new(format!("the TCU does not come up; see {}", self.machine.console_log().display())))
    }

    fn look(&mut self, status: &Value) {
        let phase = status["phase"].as_str().unwrap_or_default().to_owned();
        if phase != self.phase {
            self.say(&format!("{phase} {}", status["blocked"]));
            if phase == "activating" {
                self.enters(Part::Activation);
            }
            self.phase = phase;
        }
        if self.phase == "activating" {
            self.disturb();
        }
        if status["open_prompts"].as_u64().unwrap_or_default() > 0
            && self.shell.run("pitstopctl approve", ANSWER_LIMIT).is_ok_and(|a| a.code == 0)
        {
            self.say("answered: now");
        }
    }

    /// Puts the journal beside the disk, for who looks for the reason.
    pub fn keep_journal(&mut self) {
        let told = self.shell.run("journalctl -b --no-pager -n 400 -o short-precise", ANSWER_LIMIT);
        let text = told.map_or_else(|failure| failure.text, |answer| answer.text);
        match fs::write(&self.journal, text) {
            Ok(()) => eprintln!("    the TCU's journal: {}", self.journal.display()),
            Err(error) => eprintln!("    {}: {error}", self.journal.display()),
        }
    }

    pub fn finish(mut self) -> Outcome {
        self.shell.send("systemctl poweroff")?;
        self.machine.wait_for_end(ANSWER_LIMIT)
    }
}
