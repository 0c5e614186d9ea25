//! The service is killed, and the power taken from its disk, at many points; started again, it brings the job to its end.

use std::sync::Arc;
use std::time::Duration;

use pitstop_store::cut::{Cut, Disk};
use tokio::time::Instant;

use crate::common::{Stand, vehicle};
use crate::world::World;
use crate::{KILOBYTES, NEW, OLD, U, contents, stand};

/// One life of the service in a runtime of its own: ends with `work`, or is killed at `limit`. Returns whether the work ended.
fn live(world: &Arc<World>, disk: &Disk, limit: Duration, work: impl AsyncFnOnce(Stand)) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (ended, took) = runtime.block_on(async {
        let started = Instant::now();
        let life = async {
            let stand = stand(vehicle(), world, disk, KILOBYTES).await;
            work(stand).await;
        };
        let ended = tokio::time::timeout(limit, life).await.is_ok();
        (ended, started.elapsed())
    });
    // Dropping the runtime drops every task where it stands: a SIGKILL.
    drop(runtime);
    world.passed(took);
    ended
}

/// Long enough for any job here, in virtual time.
const FOREVER: Duration = Duration::from_secs(3600);

/// Stages where there is something to stage, then activates.
async fn install(stand: &Stand, ecu: &str, attempt: u32) {
    let flasher = stand.proxy().await;
    let _ = stand.end(flasher.stage(U, ecu, OLD, attempt).await).await;
    let _ = stand.end(flasher.activate(U, ecu, OLD, attempt).await).await;
}

fn assert_new(world: &World, ecu: &str, what: &str) {
    assert_eq!(world.version(ecu).as_deref(), Some(NEW), "{what}");
    let (_, new) = contents(&vehicle(), ecu, KILOBYTES);
    let running = world.ecu(ecu).content().running();
    assert!(world.holds(ecu, running, &new), "{what}");
}

#[test]
fn killed_at_any_moment_and_started_again_the_ecu_gets_its_software() {
    for ecu in ["bcm", "adas", "tpms"] {
        let disk = Disk::new();
        let world = World::new(&vehicle(), OLD, KILOBYTES);
        let started = std::cell::Cell::new(Duration::ZERO);
        assert!(live(&world, &disk, FOREVER, async |stand| {
            let begin = Instant::now();
            install(&stand, ecu, 1).await;
            started.set(begin.elapsed());
        }));
        assert_new(&world, ecu, "undisturbed");
        let whole = started.get();
        for part in 1..32u32 {
            let (disk, world) = (Disk::new(), World::new(&vehicle(), OLD, KILOBYTES));
            let when = whole * part / 32;
            live(&world, &disk, when, async |stand| install(&stand, ecu, 1).await);
            // Power stays away between no time and longer than S3.
            world.passed(Duration::from_secs(u64::from(part % 4) * 2));
            assert!(live(&world, &disk, FOREVER, async |stand| install(&stand, ecu, 1).await));
            assert_new(&world, ecu, &format!("{ecu} killed after {when:?} of {whole:?}"));
        }
    }
}

#[test]
fn a_cut_of_the_disk_at_any_write_changes_nothing_about_the_end() {
    for ecu in ["bcm", "adas"] {
        let (disk, world) = (Disk::new(), World::new(&vehicle(), OLD, KILOBYTES));
        live(&world, &disk, FOREVER, async |stand| install(&stand, ecu, 1).await);
        let writes = disk.writes();
        assert!(writes >= 3, "{writes}");
        for cut in (0..writes).flat_map(|n| [Cut::Before(n), Cut::After(n)]) {
            let (disk, world) = (Disk::new(), World::new(&vehicle(), OLD, KILOBYTES));
            disk.plan(Some(cut));
            live(&world, &disk, FOREVER, async |stand| install(&stand, ecu, 1).await);
            disk.power_on();
            // The same requests again; one that has failed and was remembered as failed is made as another attempt.
            assert!(live(&world, &disk, FOREVER, async |stand| {
                install(&stand, ecu, 1).await;
                install(&stand, ecu, 2).await;
            }));
            assert_new(&world, ecu, &format!("{ecu} {cut:?}"));
        }
    }
}

#[test]
fn killed_while_activating_a_roll_back_leaves_nothing_chosen_for_the_next_start() {
    let started = std::cell::Cell::new(Duration::ZERO);
    let activate = async |stand: Stand| {
        let flasher = stand.proxy().await;
        let _ = stand.end(flasher.stage(U, "adas", OLD, 1).await).await;
        let begin = Instant::now();
        let _ = stand.end(flasher.activate(U, "adas", OLD, 1).await).await;
        started.set(begin.elapsed());
    };
    let (disk, world) = (Disk::new(), World::new(&vehicle(), OLD, KILOBYTES));
    assert!(live(&world, &disk, FOREVER, activate));
    let whole = started.get();
    for part in 0..=24u32 {
        let (disk, world) = (Disk::new(), World::new(&vehicle(), OLD, KILOBYTES));
        live(&world, &disk, FOREVER, async |stand| {
            let flasher = stand.proxy().await;
            stand.end(flasher.stage(U, "adas", OLD, 1).await).await.unwrap();
            let work = async { stand.end(flasher.activate(U, "adas", OLD, 1).await).await };
            let _ = tokio::time::timeout(whole * part / 24, work).await;
        });
        let rolled_back = async |stand: Stand| {
            stand.end(stand.proxy().await.roll_back(U, "adas", 1).await).await.unwrap();
        };
        assert!(live(&world, &disk, FOREVER, rolled_back));
        let boot = world.ecu("adas").content().flash().boot().clone();
        assert_eq!((boot.active, boot.trial), (0, None), "killed at {part}/24 of {whole:?}");
        assert_eq!(world.version("adas").as_deref(), Some(OLD));
    }
}
