//! A diagnostic tester that nobody here wrote reads the TCU while most of the update stack is away.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use pitstop_dbus::{SelfUpdateProxy, UdsServerProxy};
use pitstop_end_to_end::world::VIN;
use serde_json::Value;

use crate::drive::Drive;

#[tokio::test]
async fn a_tester_reads_the_tcu_without_manager_link_and_downloader() -> anyhow::Result<()> {
    let mut drive = Drive::start(&[]).await?;
    for service in ["manager", "backend-link", "downloader"] {
        drive.world.tcu.stop_service(service).await?;
    }
    let slots = SelfUpdateProxy::new(&drive.world.connection).await?;
    let booted = slots.get_slots().await?.into_iter().find(|slot| slot.booted).context("no slot is booted")?;
    let release = slots.get_release(&booted.name).await?;
    let server = UdsServerProxy::new(&drive.world.connection).await?;

    let read = read_tcu(server.port().await?, server.logical_address().await?)?;
    for (did, wanted) in [
        ("F188", release.software_number.as_str()),
        ("F189", booted.version.as_str()),
        ("F18C", "TCU-2026-000001"),
        ("F190", VIN),
        ("F1EF", "R155 PITSTOP 0001;R156 PITSTOP 0001"),
    ] {
        ensure!(read[did] == wanted, "{did} is {}, wanted is {wanted:?}", read[did]);
    }
    let sessions = [&read["session"], &read["extended"], &read["session_again"]];
    ensure!(sessions == [1, 3, 1], "the sessions were {sessions:?}");
    ensure!(release.version == booted.version, "{release:?} and {booted:?}");
    Ok(())
}

fn read_tcu(port: u16, address: u16) -> anyhow::Result<Value> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../peers/read_tcu.py");
    let mut command = Command::new(python()?);
    let done = command.arg(script).args([port.to_string(), address.to_string()]).output().context("starting Python")?;
    ensure!(done.status.success(), "read_tcu.py: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).context("reading what read_tcu.py printed")
}

/// The interpreter of the peers' environment.
pub fn python() -> anyhow::Result<PathBuf> {
    if let Some(python) = std::env::var_os("PITSTOP_PEERS_PYTHON") {
        return Ok(python.into());
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|folder| folder.join("peers/bin/python")).find(|python| python.is_file());
    found.context("the Python peers are missing; run: cargo xtask setup")
}
