//! Tools that look on while an update runs: busctl, which nobody here wrote, and pitstopctl.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::drive::{Drive, Release, all_run};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn busctl_and_pitstopctl_answer_while_an_update_runs() -> anyhow::Result<()> {
    let mut drive = Drive::start(&[]).await?;
    let update = drive.begin_update().await?;
    drive.until_phase("awaiting-consent", SOON).await?;
    before_the_start(&drive, &update)?;
    let approved = drive.ctl_ok(&["approve"])?;
    ensure!(approved["update"] == update.as_str(), "{approved}");

    drive.until_phase("activating", SOON).await?;
    let members = introspect(&drive)?;
    for member in ["Check", "Cancel", "GetStatus", "GetHistory", "Phase", "Update", "Transition", "StepChanged"] {
        ensure!(members.lines().any(|line| line.starts_with(&format!(".{member} "))), "no {member} in\n{members}");
    }
    let phase = members.lines().find(|line| line.starts_with(".Phase ")).unwrap_or_default();
    ensure!(!phase.contains("idle") && !phase.contains("\"\""), "introspected too late: {phase}");
    let status = drive.ctl_ok(&["status"])?;
    ensure!(status.to_string().contains(&update), "{status}");

    let end = drive.until_ended(&update, Duration::from_secs(40)).await?;
    ensure!(end.end == "all-new", "{end:?}");
    let history = drive.ctl_ok(&["history"])?;
    ensure!(history.as_array().is_some_and(|all| all.len() == 1), "{history}");
    ensure!(history.to_string().contains("all-new"), "{history}");
    all_run(Release::New, &drive.world.versions().await?, &[])
}

fn before_the_start(drive: &Drive, update: &str) -> anyhow::Result<()> {
    let prompts = drive.ctl_ok(&["prompt"])?;
    let prompt = prompts.get(0).context("no prompt is open")?;
    ensure!(prompt["update"] == update, "{prompt}");
    for (words, least) in [(&["ecus"], 5), (&["slots"], 2), (&["signals"], 6), (&["history"], 0)] {
        let value = drive.ctl_ok(words)?;
        let found = value.as_array().with_context(|| format!("{words:?} printed {value}"))?;
        ensure!(found.len() >= least, "{words:?} printed {value}");
    }
    let status = drive.ctl_ok(&["status"])?;
    ensure!(status.to_string().contains("awaiting-consent"), "{status}");
    Ok(())
}

fn introspect(drive: &Drive) -> anyhow::Result<String> {
    let address = format!("--address={}", drive.world.bus.address);
    let words = [address.as_str(), "--no-pager", "introspect", "io.pitstop.Ota1.Manager", "/io/pitstop/Ota1/Manager"];
    let done = Command::new("busctl").args(words).output().context("starting busctl")?;
    ensure!(done.status.success(), "busctl: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}
