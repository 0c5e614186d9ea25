//! The TCU updated by a tester over DoIP, with tools that nobody here wrote, while everything that serves the network is masked.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::LOOK;
use super::host::Host;
use super::machine::DIAGNOSTIC_PORT;
use super::scenario;
use super::story::{Extras, Story};
use crate::image::{AFTER, Paths};
use crate::setup;
use crate::shell::{Failure, Outcome, output, workspace};

/// What a workshop does without.
const AWAY: &str = "pitstop-manager pitstop-backend-link pitstop-downloader";
/// The TCU's logical address, as uds-server's defaults have it.
const ADDRESS: u16 = 0x1100;
/// How long the tester waits for an answer: the bundle is verified meanwhile, by an emulated processor.
const PATIENCE_SECS: u64 = 900;
/// From the restart to the end of the trial.
const TRIAL_LIMIT: Duration = Duration::from_secs(400);

pub fn tell(paths: &Paths, as_json: bool) -> Outcome {
    let extras = Extras::default();
    scenario::tell_by(paths, ("workshop", "/status"), as_json, &extras, |story, host| follow(paths, story, host))
}

fn follow(paths: &Paths, story: &mut Story, host: &mut Host) -> Result<Value, Failure> {
    let made = host.ask(&format!("package {}", paths.bundle(AFTER).display()))?;
    let package = made["package"].as_str().unwrap_or_default().to_owned();
    story.must(&format!("systemctl mask --runtime --now {AWAY}"))?;
    story.say("in the workshop; a tester is connected");
    let refused = tester(paths, &["program", "restart"])?;
    let download = format!("download={package}");
    let steps = tester(paths, &["program", "authenticate", &download, "verify", "restart"])?;
    story.say("the package is in the other slot, and the restart is asked for");
    let deadline = Instant::now() + TRIAL_LIMIT;
    let mut status = String::new();
    while Instant::now() < deadline && !status.contains("wish=kept") {
        story.watch_power(host)?;
        // Nobody answers while it starts.
        let told = tester(paths, &["status"]).unwrap_or(Value::Null);
        let said = told[0]["ok"].as_str().unwrap_or_default().to_owned();
        if !said.is_empty() && said != status {
            story.say(&said);
            status = said;
        }
        std::thread::sleep(LOOK);
    }
    let version = tester(paths, &["version"])?[0]["ok"].clone();
    let slot = story.slot();
    // securityAccessDenied or authenticationRequired without a tester's certificate, and every step taken with it.
    let ok = refused[1]["nrc"].is_number()
        && steps.as_array().is_some_and(|steps| steps.len() == 5 && steps.iter().all(|step| step["nrc"].is_null()))
        && steps[3]["ok"] == 0
        && status.contains("wish=kept")
        && slot == "B"
        && version == AFTER.name;
    Ok(json!({ "ok": ok, "refused": refused, "steps": steps, "status": status, "slot": slot, "version": version }))
}

/// Takes steps with udsoncan over doipclient; what came of each.
fn tester(paths: &Paths, steps: &[&str]) -> Result<Value, Failure> {
    let python = setup::peers()?;
    let mut command = Command::new(python);
    command.env("PITSTOP_PATIENCE_SECS", PATIENCE_SECS.to_string());
    command.arg(workspace().join("tests/peers/workshop.py"));
    command.args([DIAGNOSTIC_PORT.to_string(), ADDRESS.to_string()]);
    command.args([paths.tester().join("tester.cert.pem"), paths.tester().join("tester.key.pem")]).args(steps);
    let said = output(command.stderr(std::process::Stdio::null()))?;
    serde_json::from_str(&said).map_err(|e| Failure::new(format!("workshop.py: {e}: {said}")))
}
