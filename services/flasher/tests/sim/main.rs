//! The flasher against simulated ECUs: whole jobs, faults, kills.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

#[path = "../common/mod.rs"]
mod common;
mod kills;
mod world;

use std::sync::Arc;

use common::{Content, Stand, vehicle};
use pitstop_dbus::OtaError;
use pitstop_flasher::ports::Role;
use pitstop_flashing::Vehicle;
use pitstop_store::cut::Disk;
use pitstop_types::EcuId;
use world::{SimLinks, World, content};

const U: &str = "u-1";
const OLD: &str = "1.0.0";
const NEW: &str = "2.0.0";
const KILOBYTES: usize = 24;

pub fn contents(vehicle: &Vehicle, ecu: &str, kilobytes: usize) -> (Content, Content) {
    let ecu = &vehicle.ecus[&EcuId::new(ecu).unwrap()];
    (content(ecu, OLD, kilobytes), content(ecu, NEW, kilobytes))
}

/// A service with admitted bundles for every ECU.
pub async fn stand(vehicle: Vehicle, world: &Arc<World>, disk: &Disk, kilobytes: usize) -> Stand {
    let stand = Stand::new(vehicle.clone(), Arc::new(SimLinks::new(world)), Arc::new(disk.storage())).await;
    for ecu in vehicle.ecus.keys() {
        let (old, new) = contents(&vehicle, ecu.as_str(), kilobytes);
        stand.admit(ecu.as_str(), Role::Target, new);
        stand.admit(ecu.as_str(), Role::Fallback, old);
    }
    stand
}

async fn start() -> (Stand, Arc<World>) {
    let world = World::new(&vehicle(), OLD, KILOBYTES);
    (stand(vehicle(), &world, &Disk::new(), KILOBYTES).await, world)
}

async fn versions(stand: &Stand) -> Vec<String> {
    let rows = stand.proxy().await.read_versions(&[]).await.unwrap();
    rows.into_iter().map(|row| format!("{} {} {}{}", row.ecu, row.hardware, row.version, row.error_name)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_ecu_gets_new_software_and_the_versions_are_read_back() {
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    assert_eq!(
        versions(&stand).await,
        ["adas adas-a1 1.0.0", "bcm bcm-a1 1.0.0", "gateway gateway-a1 1.0.0", "tpms tpms-a1 1.0.0"]
    );
    for ecu in ["adas", "gateway"] {
        stand.end(flasher.stage(U, ecu, OLD, 1).await).await.unwrap();
        assert_eq!(world.version(ecu).as_deref(), Some(OLD));
    }
    for ecu in ["adas", "tpms", "gateway", "bcm"] {
        let data = stand.end(flasher.activate(U, ecu, OLD, 1).await).await.unwrap();
        assert_eq!(String::try_from(data["version"].clone()).unwrap(), NEW);
    }
    for ecu in ["adas", "gateway", "bcm", "tpms"] {
        stand.end(flasher.commit(U, ecu, 1).await).await.unwrap();
        stand.end(flasher.commit(U, ecu, 2).await).await.expect("repeatable");
    }
    assert_eq!(
        versions(&stand).await,
        ["adas adas-a1 2.0.0", "bcm bcm-a1 2.0.0", "gateway gateway-a1 2.0.0", "tpms tpms-a1 2.0.0"]
    );
    for (ecu, bank) in [("adas", 1), ("gateway", 1), ("bcm", 0), ("tpms", 0)] {
        let (_, new) = contents(&vehicle(), ecu, KILOBYTES);
        assert!(world.holds(ecu, bank, &new), "{ecu}");
        assert_eq!(world.ecu(ecu).content().flash().boot().trial, None, "{ecu} is committed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_rolled_back_and_a_flashed_ecu_gets_its_fallback() {
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    stand.end(flasher.stage(U, "adas", OLD, 1).await).await.unwrap();
    for ecu in ["adas", "bcm", "tpms"] {
        stand.end(flasher.activate(U, ecu, OLD, 1).await).await.unwrap();
        assert_eq!(world.version(ecu).as_deref(), Some(NEW));
    }
    // Going back needs no consent: the driver's answer may have been withdrawn.
    stand.safety.consent.store(false, std::sync::atomic::Ordering::SeqCst);
    for ecu in ["tpms", "bcm", "adas"] {
        stand.end(flasher.roll_back(U, ecu, 1).await).await.unwrap();
        assert_eq!(world.version(ecu).as_deref(), Some(OLD), "{ecu}");
        stand.end(flasher.roll_back(U, ecu, 2).await).await.expect("repeatable");
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_software_is_a_failed_check_and_the_fallback_brings_the_ecu_back() {
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    world.add_fault("bcm", "reject-check");
    for attempt in [1, 2] {
        let end = stand.end(flasher.activate(U, "bcm", OLD, attempt).await).await;
        assert!(matches!(end, Err(OtaError::CheckFailed(_))), "{end:?}");
        assert_eq!(world.version("bcm"), None, "it waits in its bootloader");
    }
    let rows = flasher.read_versions(&["bcm".into()]).await.unwrap();
    assert_eq!((rows[0].version.as_str(), rows[0].error_name.as_str()), ("", ""));
    stand.end(flasher.roll_back(U, "bcm", 1).await).await.unwrap();
    assert_eq!(world.version("bcm").as_deref(), Some(OLD));
}

#[tokio::test(start_paused = true)]
async fn faults_that_pass_are_survived() {
    let faults = [
        "reset:36:2",
        "reset:36:5",
        "reset:31:3",
        "reset:37:1",
        "drop:36",
        "drop:34",
        "drop:31",
        "drop:27",
        "hang:1",
        "hang:3",
    ];
    let refusals = [
        "nrc:36:21:3",
        "nrc:31:94:2",
        "nrc:36:24:1",
        "nrc:36:72:2",
        "nrc:36:71:1",
        "nrc:34:70:1",
        "nrc:34:33:1",
        "nrc:36:7f:1",
        "nrc:31:22:2",
    ];
    for fault in faults.into_iter().chain(refusals) {
        let (stand, world) = start().await;
        let flasher = stand.proxy().await;
        for ecu in ["bcm", "tpms"] {
            world.add_fault(ecu, fault);
            let end = stand.end(flasher.activate(U, ecu, OLD, 1).await).await;
            assert!(end.is_ok(), "{ecu} {fault}: {end:?}");
            assert_eq!(world.version(ecu).as_deref(), Some(NEW), "{ecu} {fault}");
        }
        world.add_fault("adas", fault);
        let end = stand.end(flasher.stage(U, "adas", OLD, 1).await).await;
        assert!(end.is_ok(), "adas {fault}: {end:?}");
        stand.end(flasher.activate(U, "adas", OLD, 1).await).await.unwrap();
        assert_eq!(world.version("adas").as_deref(), Some(NEW), "adas {fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_that_stay_are_named() {
    let cases = [
        ("nrc:36:72", "FlashFailed"),
        ("nrc:34:31", "EcuRefused"),
        ("nrc:27:36", "EcuRefused"),
        ("nrc:10:22", "EcuRefused"),
        ("hang", "EcuNotResponding"),
    ];
    for (fault, name) in cases {
        let (stand, world) = start().await;
        world.add_fault("bcm", fault);
        let end = stand.end(stand.proxy().await.activate(U, "bcm", OLD, 1).await).await;
        assert_eq!(end.as_ref().err().map(OtaError::short_name), Some(name), "{fault}: {end:?}");
        // Mended and rolled back, it is as it was.
        world.ecu("bcm").clear_faults();
        stand.end(stand.proxy().await.roll_back(U, "bcm", 1).await).await.unwrap();
        assert_eq!(world.version("bcm").as_deref(), Some(OLD), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ecu_that_was_disrupted_and_not_erased_is_only_read_on_the_way_back() {
    let (stand, world) = start().await;
    // It stays: whoever asked for another seed would be refused again.
    world.add_fault("bcm", "nrc:27:36");
    let end = stand.end(stand.proxy().await.activate(U, "bcm", OLD, 1).await).await;
    assert!(matches!(end, Err(OtaError::EcuRefused(_))), "{end:?}");
    stand.end(stand.proxy().await.roll_back(U, "bcm", 1).await).await.expect("it runs the old software still");
    assert_eq!((world.version("bcm").as_deref(), world.ecu("bcm").state()), (Some(OLD), "application"));
}

#[tokio::test(start_paused = true)]
async fn another_version_than_expected_is_refused_and_nothing_is_erased() {
    let (stand, world) = start().await;
    let before = world.ecu("bcm").content().flash().digests();
    let end = stand.end(stand.proxy().await.activate(U, "bcm", "1.9.0", 1).await).await;
    assert!(matches!(end, Err(OtaError::UnexpectedSoftware(_))), "{end:?}");
    assert_eq!(world.ecu("bcm").content().flash().digests(), before);
}

#[tokio::test(start_paused = true)]
async fn without_consent_or_safety_the_ecu_is_only_read() {
    use std::sync::atomic::Ordering::SeqCst;
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    let before = world.ecu("bcm").content().flash().digests();
    stand.safety.consent.store(false, SeqCst);
    let end = stand.end(flasher.activate(U, "bcm", OLD, 1).await).await;
    assert_eq!(end, Err(OtaError::NoConsent("no answer".into())));
    stand.safety.consent.store(true, SeqCst);
    stand.safety.safe.store(false, SeqCst);
    for path in [flasher.activate(U, "bcm", OLD, 2).await, flasher.activate(U, "tpms", OLD, 1).await] {
        assert_eq!(stand.end(path).await, Err(OtaError::NotSafe("it drives".into())));
    }
    assert_eq!(world.ecu("bcm").content().flash().digests(), before);
    assert_eq!(world.ecu("bcm").state(), "application");
    // What runs the wanted software already needs no leave: there is nothing to do.
    assert!(stand.end(flasher.roll_back(U, "bcm", 1).await).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_car_that_drives_may_be_staged_and_not_activated() {
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    stand.safety.safe.store(false, std::sync::atomic::Ordering::SeqCst);
    stand.end(flasher.stage(U, "adas", OLD, 1).await).await.expect("staging is done while driving");
    let end = stand.end(flasher.activate(U, "adas", OLD, 1).await).await;
    assert!(matches!(end, Err(OtaError::NotSafe(_))), "{end:?}");
    assert_eq!(world.version("adas").as_deref(), Some(OLD));
}

#[tokio::test(start_paused = true)]
async fn a_staging_that_is_cancelled_ends_so_and_can_be_done_again() {
    let (stand, world) = start().await;
    let flasher = stand.proxy().await;
    let path = flasher.stage(U, "adas", OLD, 1).await.unwrap();
    let operation = pitstop_dbus::OperationProxy::builder(&stand.client)
        .destination("io.pitstop.Ota1.Flasher")
        .path(path.clone())
        .build()
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    operation.cancel().await.unwrap();
    assert!(matches!(stand.end(Ok(path)).await, Err(OtaError::Cancelled(_))));
    stand.end(flasher.stage(U, "adas", OLD, 2).await).await.unwrap();
    stand.end(flasher.activate(U, "adas", OLD, 1).await).await.unwrap();
    assert_eq!(world.version("adas").as_deref(), Some(NEW));
}

#[tokio::test(start_paused = true)]
async fn on_one_bus_one_ecu_transfers_while_the_other_erases() {
    let text = std::fs::read_to_string(common::overlay().join("etc/pitstop/vehicle.toml")).unwrap();
    let text = text
        + "\n[[ecu]]\nid = \"bcm2\"\nhardware = \"bcm-a1\"\nbus = \"can0\"\nrequest = 0x7E2\nresponse = 0x7EA\nbanks = \"single\"\nprofile = \"bcm\"\n";
    let vehicle = Vehicle::read(&text).unwrap();
    let timed = async |ecus: &[&str], size: usize| {
        let world = World::new(&vehicle, OLD, size);
        let stand = stand(vehicle.clone(), &world, &Disk::new(), size).await;
        let flasher = stand.proxy().await;
        let started = tokio::time::Instant::now();
        let mut paths = Vec::new();
        for ecu in ecus {
            paths.push(flasher.activate(U, ecu, OLD, 1).await);
        }
        for path in paths {
            stand.end(path).await.unwrap();
        }
        for ecu in ecus {
            assert_eq!(world.version(ecu).as_deref(), Some(NEW));
        }
        let order = world.wire("can0").transfers.lock().unwrap().clone();
        (started.elapsed(), order)
    };
    // The longer transfer makes the other ECU wait longer than its session lasts without a tester (S3server, 5 s).
    for size in [128, 184] {
        let (alone, _) = timed(&["bcm"], size).await;
        let (together, order) = timed(&["bcm", "bcm2"], size).await;
        // Transfers take turns as wholes, so the order changes hands once (and once more for each segment after a check).
        let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 4, "{changes} changes: {order:?}");
        // Start and erase of one pass while the other transfers, and are not repeated after it.
        assert!(together < alone * 2 - std::time::Duration::from_secs(1), "alone {alone:?}, together {together:?}");
    }
}
