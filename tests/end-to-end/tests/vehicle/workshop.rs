//! A workshop updates the TCU with a tester that nobody here wrote, while everything that serves the network is away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pitstop_dbus::{SelfUpdateProxy, SlotStatus, UdsServerProxy};
use pitstop_end_to_end::firmware::{TCU_AFTER, TCU_BEFORE};
use pitstop_end_to_end::process::run;
use pitstop_end_to_end::programs::Programs;
use pitstop_end_to_end::world::VIN;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::drive::Drive;
use crate::tester::python;

/// All but the four that a workshop needs.
const AWAY: [&str; 5] = ["manager", "backend-link", "downloader", "hmi", "flasher"];
/// A short trial, and blocks small enough that their counter goes round.
const SHORT_TRIAL: &str = "trial_secs = 2\nblock_bytes = 16384\n";

/// A vehicle in a workshop.
struct Workshop {
    drive: Drive,
    /// Certificate and key of its tester.
    tester: (PathBuf, PathBuf),
    _keys: tempfile::TempDir,
}

impl Workshop {
    /// `settings`: of the workshop's part of uds-server.
    async fn open(settings: &str) -> anyhow::Result<Self> {
        let keys = tempfile::tempdir()?;
        let out = keys.path().join("tester");
        run(&Programs::find()?.bundle_tool, &["tester", "--out", text(&out)?])?;
        let testers = fs::read_to_string(out.join("testers.pem"))?;
        let settings = format!("listen = \"127.0.0.1:0\"\n[workshop]\n{settings}");
        let files =
            [("usr/lib/pitstop/testers.pem", testers.as_str()), ("etc/pitstop/uds-server.toml", settings.as_str())];
        let drive = Drive::start(&files).await?;
        Ok(Self { drive, tester: (out.join("tester.cert.pem"), out.join("tester.key.pem")), _keys: keys })
    }

    /// A package of the new release, signed with the offline keys in `keys`.
    fn package(&self, name: &str, keys: &Path) -> anyhow::Result<PathBuf> {
        let world = &self.drive.world;
        let out = world.dir.join(name);
        let folder = text(&world.backend.dir)?;
        let words = ["offline-package", "--dir", folder, "--release", &world.release, "--keys", text(keys)?];
        run(&world.programs.backend, &[&words[..], &["--out", text(&out)?]].concat())?;
        Ok(out)
    }

    fn offline_keys(&self) -> PathBuf {
        self.drive.world.backend.dir.join("offline-keys")
    }

    /// Lets the tester take steps; what came of each.
    async fn tester(&self, steps: &[&str]) -> anyhow::Result<Vec<Value>> {
        let server = UdsServerProxy::new(&self.drive.world.connection).await?;
        let (port, address) = (server.port().await?.to_string(), server.logical_address().await?.to_string());
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../peers/workshop.py");
        let mut command = Command::new(python()?);
        command.arg(script).args([port, address]).args([&self.tester.0, &self.tester.1]).args(steps);
        let done = command.output().context("starting Python")?;
        ensure!(done.status.success(), "workshop.py {steps:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(serde_json::from_slice(&done.stdout)?)
    }

    /// The same where every step must come to this.
    async fn expect(&self, steps: &[(&str, Value)]) -> anyhow::Result<()> {
        let names: Vec<&str> = steps.iter().map(|(step, _)| *step).collect();
        let told = self.tester(&names).await?;
        for (told, (step, wanted)) in told.iter().zip(steps) {
            let found = if told["nrc"].is_null() { &told["ok"] } else { &told["nrc"] };
            ensure!(told["nrc"].is_null() == wanted["nrc"].is_null(), "{step}: {told}, wanted is {wanted}");
            let wanted = if wanted["nrc"].is_null() { wanted } else { &wanted["nrc"] };
            ensure!(found == wanted, "{step}: {told}, wanted is {wanted}");
        }
        Ok(())
    }

    async fn status(&self) -> anyhow::Result<String> {
        let told = self.tester(&["status"]).await?;
        let status = told.first().and_then(|step| step["ok"].as_str());
        status.map(str::to_owned).with_context(|| format!("{told:?}"))
    }

    /// Lets the machine live until the status says this.
    async fn until(&mut self, wanted: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut last = String::new();
        while Instant::now() < deadline {
            if self.drive.world.tcu.tick().await? {
                self.drive.world.wait_for_services().await?;
            }
            // Nobody answers during a restart.
            if let Ok(status) = self.status().await {
                if status.contains(wanted) {
                    return Ok(());
                }
                last = status;
            }
            sleep(Duration::from_millis(100)).await;
        }
        bail!("{wanted:?} did not come; the status is {last:?}")
    }

    /// The whole way to the restart.
    async fn install(&self, package: &Path) -> anyhow::Result<()> {
        let download = format!("download={}", text(package)?);
        let told = self.tester(&["program", "authenticate", &download, "verify", "restart", "status"]).await?;
        let good = told.get(3).is_some_and(|verified| verified["ok"] == 0);
        ensure!(good && told.iter().take(5).all(|step| step["nrc"].is_null()), "{told:?}");
        Ok(())
    }

    async fn booted(&self) -> anyhow::Result<(String, String)> {
        let slot = self.slots().await?.into_iter().find(|slot| slot.booted).context("no slot runs")?;
        Ok((slot.name, slot.version))
    }

    async fn slots(&self) -> anyhow::Result<Vec<SlotStatus>> {
        Ok(SelfUpdateProxy::new(&self.drive.world.connection).await?.get_slots().await?)
    }

    async fn signal(&self, name: &str, value: f64) -> anyhow::Result<()> {
        let order = json!({ "command": "signal", "name": name, "value": value });
        self.drive.world.simulator.control(&order).await?;
        Ok(())
    }
}

fn nrc(code: u8) -> Value {
    json!({ "nrc": code })
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

#[tokio::test]
async fn a_workshop_updates_the_tcu_without_any_network() -> anyhow::Result<()> {
    let mut workshop = Workshop::open(SHORT_TRIAL).await?;
    let package = workshop.package("update.tar", &workshop.offline_keys())?;
    workshop.drive.world.tcu.mask(&AWAY).await?;
    let download = format!("download={}", text(&package)?);
    let length = fs::metadata(&package)?.len();
    workshop
        .expect(&[
            ("program", json!(2)),
            (download.as_str(), nrc(0x34)),
            ("restart", nrc(0x34)),
            ("authenticate", json!(0x12)),
            ("restart", nrc(0x22)),
            (download.as_str(), json!(length)),
            ("verify", json!(0)),
            ("version", json!(TCU_BEFORE)),
        ])
        .await?;
    // It stands only as long as nobody pushes it.
    workshop.signal("VehicleSpeed", 30.0).await?;
    sleep(Duration::from_millis(300)).await;
    let told = workshop.tester(&["program", "authenticate", "restart", "status"]).await?;
    ensure!(told[2]["nrc"] == 0x22 && told[3]["ok"].as_str().is_some_and(|s| s.contains("error=NotSafe")), "{told:?}");
    workshop.signal("VehicleSpeed", 0.0).await?;
    sleep(Duration::from_millis(300)).await;
    workshop.expect(&[("program", json!(2)), ("authenticate", json!(0x12)), ("restart", json!(1))]).await?;

    workshop.until("wish=kept").await?;
    let slots = workshop.slots().await?;
    let kept = slots.iter().find(|slot| slot.booted).context("no slot runs")?;
    ensure!((kept.name.as_str(), kept.version.as_str(), kept.state.as_str()) == ("B", TCU_AFTER, "good"), "{slots:?}");
    ensure!(slots.iter().all(|slot| slot.booted || slot.state == "bad"), "not committed: {slots:?}");
    let told = workshop.tester(&["version", "program", "authenticate", "roll-back"]).await?;
    ensure!(told[0]["ok"] == TCU_AFTER && told[3]["nrc"] == 0x24, "{told:?}");

    // The network's side comes back, finds no fault, and tells the backend what runs.
    let world = &mut workshop.drive.world;
    world.tcu.shut_down().await;
    world.tcu.unmask();
    world.tcu.boot()?;
    world.wait_for_services().await?;
    workshop.drive.first_check().await?;
    let vehicle = workshop.drive.world.backend.rest().get(&format!("/api/v1/vehicles/{VIN}")).await?;
    let ecus = vehicle["ecus"].as_array().context("the backend knows no ECUs")?;
    let tcu = ecus.iter().find(|ecu| ecu["ecu"] == "tcu").context("the backend knows no TCU")?;
    ensure!(tcu["version"] == TCU_AFTER, "{tcu}");
    Ok(())
}

#[tokio::test]
async fn what_a_workshop_must_not_bring_is_refused_by_name_and_leaves_the_slots_alone() -> anyhow::Result<()> {
    let mut workshop = Workshop::open(SHORT_TRIAL).await?;
    let world = &workshop.drive.world;
    // Another maker's keys, under the names of ours.
    let other = world.dir.join("other-backend");
    let host = ["--host", "127.0.0.1"];
    run(&world.programs.backend, &[&["init", "--dir", text(&other)?][..], &host].concat())?;
    let foreign = workshop.package("foreign.tar", &other.join("offline-keys"))?;
    let good = workshop.package("good.tar", &workshop.offline_keys())?;
    let bytes = fs::read(&good)?;
    let made = |name: &str, bytes: &[u8]| -> anyhow::Result<PathBuf> {
        let path = world.dir.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    if let Some(byte) = flipped.get_mut(middle) {
        *byte ^= 1;
    }
    let cases = [
        (foreign, "UnmetThreshold"),
        (made("zeros.tar", &vec![0; bytes.len()])?, "BadBundle"),
        (made("flipped.tar", &flipped)?, "HashMismatch"),
        (made("half.tar", bytes.get(..middle).unwrap_or_default())?, "BadBundle"),
    ];
    workshop.drive.world.tcu.mask(&AWAY).await?;
    let before = workshop.drive.world.slot_digests()?;
    for (package, error) in cases {
        let download = format!("download={}", text(&package)?);
        let told = workshop.tester(&["program", "authenticate", &download, "verify", "restart", "status"]).await?;
        let status = told[5]["ok"].as_str().unwrap_or_default();
        ensure!(matches!(told[2]["nrc"].as_u64(), Some(0x71 | 0x72)), "{error}: {told:?}");
        ensure!(told[3]["nrc"] == 0x24 && told[4]["nrc"] == 0x22, "{error}: {told:?}");
        let again = workshop.tester(&["program", "authenticate", &download, "status"]).await?;
        ensure!(again[3]["ok"].as_str().is_some_and(|s| s.contains(error)), "{error}: {again:?}, before {status}");
    }
    ensure!(workshop.drive.world.slot_digests()? == before, "a slot was written");
    // Another's tester.
    let keys = tempfile::tempdir()?;
    run(&workshop.drive.world.programs.bundle_tool, &["tester", "--out", text(&keys.path().join("t"))?])?;
    let ours = std::mem::replace(
        &mut workshop.tester,
        (keys.path().join("t/tester.cert.pem"), keys.path().join("t/tester.key.pem")),
    );
    workshop.expect(&[("program", json!(2)), ("authenticate", nrc(0x52))]).await?;
    // And after all that the good one still goes in.
    workshop.tester = ours;
    let download = format!("download={}", text(&good)?);
    let steps = [
        ("program", json!(2)),
        ("authenticate", json!(0x12)),
        (download.as_str(), json!(bytes.len())),
        ("verify", json!(0)),
    ];
    workshop.expect(&steps).await?;
    workshop.expect(&[("program", json!(2)), ("authenticate", json!(0x12)), ("roll-back", json!(0))]).await?;
    workshop.until("wish=left").await
}

#[tokio::test]
async fn while_an_update_over_the_air_is_under_way_the_workshop_is_told_to_wait() -> anyhow::Result<()> {
    let mut workshop = Workshop::open(SHORT_TRIAL).await?;
    let package = workshop.package("update.tar", &workshop.offline_keys())?;
    workshop.drive.begin_update().await?;
    workshop.drive.until_phase("awaiting-consent", Duration::from_secs(30)).await?;
    let download = format!("download={}", text(&package)?);
    let told = workshop.tester(&["program", "authenticate", &download, "status"]).await?;
    ensure!(told[2]["nrc"] == 0x22, "{told:?}");
    ensure!(told[3]["ok"].as_str().is_some_and(|status| status.contains("error=Busy")), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_new_slot_that_is_not_well_is_left_again() -> anyhow::Result<()> {
    // The flasher is away, and this list wants it.
    let settings = "services = [\"SelfUpdate\", \"Flasher\"]\ntrial_secs = 1\nhealth_limit_secs = 3\n";
    let mut workshop = Workshop::open(settings).await?;
    let package = workshop.package("update.tar", &workshop.offline_keys())?;
    workshop.drive.world.tcu.mask(&AWAY).await?;
    workshop.install(&package).await?;
    workshop.until("wish=left;phase=rolled-back;error=Unhealthy: Flasher").await?;
    ensure!(workshop.booted().await? == ("A".to_owned(), TCU_BEFORE.to_owned()), "{:?}", workshop.slots().await?);
    ensure!(workshop.drive.world.tcu.starts >= 4, "it never ran the new slot");
    Ok(())
}

#[tokio::test]
async fn a_trial_that_is_rolled_back_or_cut_ends_on_the_old_slot_and_the_next_one_is_kept() -> anyhow::Result<()> {
    let mut workshop = Workshop::open("trial_secs = 5\n").await?;
    let package = workshop.package("update.tar", &workshop.offline_keys())?;
    workshop.drive.world.tcu.mask(&AWAY).await?;

    workshop.install(&package).await?;
    workshop.until("phase=trial").await?;
    ensure!(workshop.booted().await?.0 == "B", "{:?}", workshop.slots().await?);
    let told = workshop.tester(&["program", "authenticate", "roll-back"]).await?;
    ensure!(told[2]["ok"] == 1, "{told:?}");
    workshop.until("wish=left").await?;
    ensure!(workshop.booted().await? == ("A".to_owned(), TCU_BEFORE.to_owned()), "{:?}", workshop.slots().await?);

    workshop.install(&package).await?;
    workshop.until("phase=trial").await?;
    workshop.drive.world.tcu.cut_power();
    workshop.drive.world.tcu.boot()?;
    workshop.drive.world.wait_for_services().await?;
    workshop.until("wish=left;phase=fell-back").await?;
    ensure!(workshop.booted().await? == ("A".to_owned(), TCU_BEFORE.to_owned()), "{:?}", workshop.slots().await?);

    workshop.install(&package).await?;
    workshop.until("wish=kept").await?;
    ensure!(workshop.booted().await? == ("B".to_owned(), TCU_AFTER.to_owned()), "{:?}", workshop.slots().await?);
    // Committed is committed.
    workshop.drive.world.tcu.cut_power();
    workshop.drive.world.tcu.boot()?;
    workshop.drive.world.wait_for_services().await?;
    ensure!(workshop.booted().await?.0 == "B", "{:?}", workshop.slots().await?);
    Ok(())
}
