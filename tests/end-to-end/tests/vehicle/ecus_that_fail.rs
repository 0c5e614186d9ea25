//! Control units that fail once, and one that dies.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::drive::{Drive, Release, all_run};

const BCM_PROFILE: &str = include_str!("../../../../rootfs-overlay/usr/lib/pitstop/profiles/bcm.toml");
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_ecu_that_fails_its_check_once_is_written_again() -> anyhow::Result<()> {
    let mut drive = Drive::start(&[]).await?;
    let fault = json!({ "command": "fault", "ecu": "bcm", "fault": "reject-check:1" });
    drive.world.simulator.control(&fault).await?;
    let update = drive.begin_update().await?;
    drive.until_phase("awaiting-consent", SOON).await?;
    drive.ctl_ok(&["approve"])?;
    let end = drive.until_ended(&update, Duration::from_secs(60)).await?;
    ensure!(end.end == "all-new", "{end:?}");
    all_run(Release::New, &drive.world.versions().await?, &[])?;
    let log = std::fs::read_to_string(drive.world.dir.join("log/flasher.err"))?;
    let erased = log.lines().filter(|line| line.contains("ecu=bcm") && line.contains("phase=erasing")).count();
    ensure!(erased == 2, "bcm was erased {erased} times, not twice:\n{log}");
    Ok(())
}

#[tokio::test]
async fn an_ecu_that_dies_while_it_is_written_is_named_for_the_workshop() -> anyhow::Result<()> {
    // It is waited for in each of seven attempts: as long as suits a bus ten times as fast.
    let profile = BCM_PROFILE.replace("boot_ms = 5000", "boot_ms = 500");
    ensure!(profile != BCM_PROFILE, "the profile tells another time to boot");
    let settings =
        [("etc/pitstop/manager.toml", "read_back_secs = 3\n"), ("usr/lib/pitstop/profiles/bcm.toml", profile.as_str())];
    let mut drive = Drive::start(&settings).await?;
    let update = drive.begin_update().await?;
    drive.until_phase("awaiting-consent", SOON).await?;
    drive.ctl_ok(&["approve"])?;
    let half_written = drive.until("bcm half written", Duration::from_secs(30), |_, steps| {
        steps
            .iter()
            .any(|step| step.ecu == "bcm" && step.state == "activating" && step.done > 0 && step.done < step.total)
    });
    half_written.await?;
    drive.world.simulator.control(&json!({ "command": "power", "ecu": "bcm", "on": false })).await?;

    let end = drive.until_ended(&update, Duration::from_secs(150)).await?;
    ensure!(end.end == "needs-workshop", "{end:?}");
    ensure!(end.error_text.contains("bcm"), "the control unit is not named: {end:?}");
    let versions = drive.world.versions().await?;
    all_run(Release::Old, &versions, &["bcm"])?;
    ensure!(versions.iter().any(|ecu| ecu.id == "bcm" && ecu.version.is_empty()), "{versions:?}");
    Ok(())
}
