//! The network is lost in the middle of the download.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use pitstop_dbus::DownloaderProxy;
use pitstop_end_to_end::world::Options;
use tokio::time::sleep;

use crate::drive::{Drive, Release, all_run};

/// Slow enough that the server can be taken away in the middle; and no long pauses, since the outage is short.
const SETTINGS: &str = "rate_limit_bytes_per_sec = 4000000\nback_off_cap_secs = 2\n";
/// More than sockets hold: what lies in their buffers arrives after the server has died.
const BULK: usize = 24 << 20;
/// How long the server stays away.
const OUTAGE: Duration = Duration::from_secs(10);
/// What may be fetched twice.
const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_download_goes_on_after_the_server_was_away_for_ten_seconds() -> anyhow::Result<()> {
    let options = Options { tcu_bulk_bytes: BULK, ..Options::default() };
    let mut drive = Drive::start_with(options, &[("etc/pitstop/downloader.toml", SETTINGS)]).await?;
    let all = bundle_bytes(&drive)?;
    let downloader = DownloaderProxy::new(&drive.world.connection).await?;
    let public = public_address(&drive)?;
    let update = drive.begin_update().await?;
    while downloader.get_usage().await?.fetched < all / 4 {
        sleep(Duration::from_millis(50)).await;
    }

    drive.world.backend.kill();
    ensure!(TcpStream::connect(public).is_err(), "the server still answers");
    sleep(Duration::from_secs(1)).await;
    let at_the_kill = downloader.get_usage().await?.fetched;
    ensure!(at_the_kill >= all / 4 && at_the_kill < all * 3 / 4, "{at_the_kill} of {all} bytes is not the middle");
    sleep(OUTAGE - Duration::from_secs(1)).await;
    // What lay in the sockets' buffers is still taken in, no more.
    let at_the_return = downloader.get_usage().await?.fetched;
    ensure!(at_the_return < all, "everything had been sent before the server went away");
    drive.world.backend.restart().await?;

    drive.until_phase("awaiting-consent", Duration::from_secs(40)).await?;
    let log = std::fs::read_to_string(drive.world.dir.join("log/downloader.err"))?;
    let resumed =
        log.lines().filter_map(|line| line.split_once("going on at byte ")).any(|(_, at)| !at.starts_with("0 "));
    ensure!(resumed, "no download went on where it had stopped:\n{log}");
    let fetched = downloader.get_usage().await?.fetched;
    ensure!((all..=all + MIB).contains(&fetched), "{fetched} bytes were fetched for bundles of {all}");
    drive.ctl_ok(&["approve"])?;
    let end = drive.until_ended(&update, Duration::from_secs(40)).await?;
    ensure!(end.end == "all-new", "{end:?}");
    all_run(Release::New, &drive.world.versions().await?, &[])
}

/// Bytes of all bundles this update needs: the new ones and those to go back to.
fn bundle_bytes(drive: &Drive) -> anyhow::Result<u64> {
    let firmware = &drive.world.firmware;
    firmware.before.iter().chain(&firmware.after).map(|file| Ok(std::fs::metadata(file)?.len())).sum()
}

fn public_address(drive: &Drive) -> anyhow::Result<SocketAddr> {
    let public = drive
        .world
        .backend
        .ready
        .get("public")
        .and_then(|public| public.as_str())
        .context("the backend told no public address")?;
    let public = public.trim_start_matches("https://").trim_end_matches('/');
    public.parse().with_context(|| format!("{public} is no address"))
}
