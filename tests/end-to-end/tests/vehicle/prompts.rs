//! The driver says "later", then names a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use pitstop_dbus::HmiProxy;

use crate::drive::{Drive, Release, all_run};

const SOON: Duration = Duration::from_secs(15);
/// How far ahead the update is put, in seconds.
const AHEAD: u64 = 5;

#[tokio::test]
async fn an_update_is_put_off_then_scheduled_and_starts_at_that_time() -> anyhow::Result<()> {
    let mut drive =
        Drive::start(&[("etc/pitstop/manager.toml", "ask_again_secs = 2\ncondition_poll_secs = 1\n")]).await?;
    let update = drive.begin_update().await?;
    drive.until_phase("awaiting-consent", SOON).await?;

    let put_off = now();
    drive.ctl_ok(&["defer"])?;
    drive.until_phase("deferred", SOON).await?;
    let (code, nothing) = drive.ctl(&["approve"])?;
    ensure!(code == 4, "a prompt that was answered is still open: {nothing}");
    drive.until_phase("awaiting-consent", SOON).await?;
    ensure!(now() >= put_off + 2, "asked again too early");
    until_prompt_is_open(&mut drive).await?;

    let due = now() + AHEAD;
    drive.ctl_ok(&["schedule", &rfc3339(due), &update])?;
    drive.until_phase("scheduled", SOON).await?;
    let hmi = HmiProxy::new(&drive.world.connection).await?;
    let answer = hmi.get_answer(&update).await?;
    ensure!(
        (answer.choice.as_str(), answer.at, answer.origin.as_str()) == ("at", i64::try_from(due)?, "command-line"),
        "{answer:?}"
    );
    all_run(Release::Old, &drive.world.versions().await?, &[])?;
    drive.until("the start", SOON, |status, _| status.phase != "scheduled").await?;
    ensure!(now() >= due, "started {} s early", due - now());

    let end = drive.until_ended(&update, Duration::from_secs(40)).await?;
    ensure!(end.end == "all-new", "{end:?}");
    all_run(Release::New, &drive.world.versions().await?, &[])
}

async fn until_prompt_is_open(drive: &mut Drive) -> anyhow::Result<()> {
    for _ in 0..100 {
        if drive.ctl_ok(&["prompt"])?.as_array().is_some_and(|open| open.len() == 1) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("no prompt is open although the driver is asked")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The instant as `date` writes it, so that pitstopctl's reader has a peer.
fn rfc3339(unix_secs: u64) -> String {
    let at = format!("@{unix_secs}");
    let words = ["-u", "--date", at.as_str(), "+%Y-%m-%dT%H:%M:%SZ"];
    pitstop_end_to_end::process::run("date".as_ref(), &words).unwrap_or_default().trim().to_owned()
}
