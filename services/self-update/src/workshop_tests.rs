//! The workshop's interface on a peer-to-peer bus, beside the campaign's at the same object.

use pitstop_boot_env::{BootEnv, boot_decision};
use pitstop_dbus::WorkshopProxy;
use pitstop_runtime::operation;
use pitstop_types::SlotName;
use zbus::Connection;

use super::*;
use crate::service::tests::{Bench, pair, slots, stage};

async fn workshop(client: &Connection) -> WorkshopProxy<'static> {
    WorkshopProxy::builder(client).destination("io.pitstop.Test").build().await.unwrap()
}

async fn staged(proxy: &WorkshopProxy<'_>, client: &Connection) {
    let path = proxy.stage("w-1", 1).await.unwrap();
    operation::wait(client, "SelfUpdate", &path, |_| {}).await.unwrap();
}

fn held(bench: &Bench) -> Vec<String> {
    bench.peers.held.lock().unwrap().clone()
}

#[tokio::test]
async fn a_workshops_update_goes_through_without_the_drivers_answer() {
    let bench = Bench::new();
    bench.peers.choices.lock().unwrap().clear();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert_eq!(proxy.get_update().await.unwrap(), (String::new(), String::new(), String::new()));
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::WrongPhase(_))));
    staged(&proxy, &client).await;
    assert_eq!(proxy.get_update().await.unwrap(), ("w-1".into(), "staged".into(), "2.0".into()));
    proxy.activate("w-1").await.unwrap();
    assert_eq!(held(&bench), ["w-1"], "before the next start tries it");
    proxy.reboot("w-1").await.unwrap();
    assert!(bench.path("rebooted").exists());
    assert_eq!(held(&bench), ["w-1"], "over the restart the vehicle stays where it is");

    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert_eq!(proxy.get_update().await.unwrap().1, "trial");
    assert_eq!(held(&bench), ["w-1"]);
    proxy.mark_good("w-1").await.unwrap();
    proxy.commit("w-1").await.unwrap();
    proxy.commit("w-1").await.unwrap();
    assert!(held(&bench).is_empty());
    assert_eq!(proxy.get_update().await.unwrap().1, "committed");
}

/// Nothing of `w-1` is tried by the next start, and the vehicle drives.
async fn check_disarmed(bench: &Bench, proxy: &WorkshopProxy<'_>, phase: &str) {
    assert_eq!(proxy.get_update().await.unwrap().1, phase);
    let vars = bench.env().load().unwrap();
    assert_eq!(vars.primary().map(SlotName::as_str), Some("A"), "{phase}: no later start may try it");
    assert!(held(bench).is_empty(), "{phase}");
    assert!(!bench.path("rebooted").exists(), "{phase}");
}

#[tokio::test]
async fn a_moving_or_unheld_vehicle_is_not_restarted_and_not_held() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    let safe = |standstill, inhibited| *bench.peers.safe.lock().unwrap() = (standstill, inhibited);
    staged(&proxy, &client).await;
    tokio::time::pause();
    for (standstill, inhibited) in [(false, true), (true, false)] {
        safe(standstill, inhibited);
        assert!(matches!(proxy.activate("w-1").await, Err(OtaError::NotSafe(_))));
        check_disarmed(&bench, &proxy, "staged").await;
        // What changes between the two calls.
        safe(true, true);
        proxy.activate("w-1").await.unwrap();
        safe(standstill, inhibited);
        assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::NotSafe(_))));
        check_disarmed(&bench, &proxy, "rolled-back").await;
        // The image is still there.
        staged(&proxy, &client).await;
    }
    safe(true, true);
    proxy.activate("w-1").await.unwrap();
    // The command takes real time.
    tokio::time::resume();
    proxy.reboot("w-1").await.unwrap();
    assert!(bench.path("rebooted").exists());
}

#[tokio::test]
async fn a_restart_that_fails_holds_the_vehicle_no_longer_and_leaves_no_slot_to_be_tried() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    // The command touches this file, which leads nowhere.
    std::os::unix::fs::symlink(bench.path("none").join("none"), bench.path("rebooted")).unwrap();
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::Internal(_))));
    check_disarmed(&bench, &proxy, "rolled-back").await;
    std::fs::remove_file(bench.path("rebooted")).unwrap();
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    proxy.reboot("w-1").await.unwrap();
    assert_eq!(held(&bench), ["w-1"], "over the restart");
}

#[tokio::test]
async fn an_activation_that_fails_halfway_is_taken_back_or_keeps_the_vehicle_held() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    // The first copy, which the boot script reads, can be written; the second cannot, and then again can.
    let copy = bench.path("grubenv.copy");
    std::fs::remove_file(&copy).unwrap();
    std::fs::create_dir(&copy).unwrap();
    assert!(matches!(proxy.activate("w-1").await, Err(OtaError::BootEnvironment(_))));
    assert_eq!(held(&bench), ["w-1"], "the next start may try it");
    std::fs::remove_dir(&copy).unwrap();
    assert!(!proxy.roll_back("w-1").await.unwrap());
    check_disarmed(&bench, &proxy, "rolled-back").await;
}

/// Until vehicle-state is back and knows.
async fn until_held_by(bench: &Bench, owners: &[&str]) {
    // The slots' thread answers in real time, while the service's own pauses take none.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if held(bench) == owners {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("held by {:?}, not by {owners:?}", held(bench));
}

#[tokio::test]
async fn a_workshops_hold_that_no_record_knows_is_let_go_after_the_start() {
    let bench = Bench::new();
    *bench.peers.held.lock().unwrap() = ["w-lost", "u1", "w-replaced"].map(str::to_owned).to_vec();
    *bench.peers.away.lock().unwrap() = 4;
    let (_, _server, _client) = bench.boot().await;
    tokio::time::pause();
    until_held_by(&bench, &["u1"]).await;
}

#[tokio::test]
async fn a_hold_that_was_taken_for_an_activation_that_never_came_is_let_go_after_the_start() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    staged(&workshop(&client).await, &client).await;
    // The power went between the two.
    bench.peers.held.lock().unwrap().push("w-1".to_owned());
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert!(held(&bench).is_empty());
    // One that was activated keeps it, whenever the service starts.
    proxy.activate("w-1").await.unwrap();
    let (_, _server, client) = bench.boot().await;
    assert_eq!(workshop(&client).await.get_update().await.unwrap().1, "trial");
    assert_eq!(held(&bench), ["w-1"]);
}

#[tokio::test]
async fn a_release_that_could_not_be_said_is_said_as_soon_as_it_can_be() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    *bench.peers.away.lock().unwrap() = 3;
    assert!(!proxy.roll_back("w-1").await.unwrap());
    assert_eq!(held(&bench), ["w-1"]);
    tokio::time::pause();
    until_held_by(&bench, &[]).await;
}

#[tokio::test]
async fn stagings_that_failed_leave_no_results_behind() {
    let bench = Bench::new();
    bench.peers.refuse();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    let mut paths = Vec::new();
    for attempt in 1..=3 {
        let path = proxy.stage("w-1", attempt).await.unwrap();
        let ended = operation::wait(&client, "SelfUpdate", &path, |_| {}).await;
        assert!(matches!(ended, Err(OtaError::BadBundle(_))), "{ended:?}");
        paths.push(path);
    }
    let stored = std::fs::read_dir(bench.path("state").join("operations")).map_or(0, |files| files.count());
    assert_eq!(stored, 0, "nobody would acknowledge them");
    for path in paths.iter().take(2) {
        let gone = operation::wait(&client, "SelfUpdate", path, |_| {}).await;
        assert!(gone.as_ref().is_err_and(OtaError::is_gone), "{path}: {gone:?}");
    }
}

#[tokio::test]
async fn neither_path_reaches_the_others_update() {
    let bench = Bench::new();
    let (ota, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    macro_rules! refused {
        ($($call:expr),*) => { $(assert!(matches!($call.await, Err(OtaError::InvalidArgument(_))));)* };
    }
    refused!(proxy.activate("u1"), proxy.reboot("u1"), proxy.mark_good("u1"), proxy.commit("u1"));
    refused!(proxy.stage("u1", 1), proxy.roll_back("u1"));
    refused!(
        ota.activate("w-1"),
        ota.reboot("w-1"),
        ota.mark_good("w-1"),
        ota.commit("w-1"),
        ota.mark_other_bad("w-1")
    );
    refused!(ota.stage("w-1", "1.0", 1), ota.roll_back("w-1"), ota.lease("ota", "w-1", 60), ota.release_lease("w-1"));
}

#[tokio::test]
async fn the_second_of_the_two_paths_is_told_that_the_slots_are_busy() {
    let bench = Bench::new();
    let (ota, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    proxy.check().await.unwrap();
    stage(&ota, &client, "1.0", 1).await.unwrap();
    assert!(matches!(proxy.check().await, Err(OtaError::Busy(_))));
    assert!(matches!(proxy.stage("w-1", 1).await, Err(OtaError::Busy(_))));
    // And after a restart, while the campaign's update is under way.
    ota.activate("u1").await.unwrap();
    let (ota, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert!(matches!(proxy.stage("w-1", 1).await, Err(OtaError::Busy(_))));
    ota.roll_back("u1").await.unwrap();
    proxy.check().await.unwrap();

    let bench = Bench::new();
    let (ota, _server, client) = bench.boot().await;
    staged(&workshop(&client).await, &client).await;
    assert!(matches!(ota.stage("u1", "1.0", 1).await, Err(OtaError::Busy(_))));
    workshop(&client).await.activate("w-1").await.unwrap();
    let (ota, _server, client) = bench.boot().await;
    assert!(matches!(ota.stage("u1", "1.0", 1).await, Err(OtaError::Busy(_))), "the workshop's trial is on");
    assert!(workshop(&client).await.roll_back("w-1").await.unwrap());
}

#[tokio::test]
async fn the_same_package_is_written_again_after_it_was_rolled_back() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    for _ in 0..2 {
        staged(&proxy, &client).await;
        assert_eq!(proxy.get_update().await.unwrap().1, "staged", "under the same number too");
        assert!(!proxy.roll_back("w-1").await.unwrap());
    }
}

#[tokio::test]
async fn a_fall_back_lets_the_vehicle_go() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    proxy.reboot("w-1").await.unwrap();
    boot_decision(&bench.env(), &pair()); // the new slot starts and hangs
    let (ota, _server, client) = bench.boot().await;
    assert_eq!(workshop(&client).await.get_update().await.unwrap().1, "fell-back");
    assert_eq!(slots(&ota).await, ["A good 1.0 booted primary", "B bad 2.0"]);
    assert!(held(&bench).is_empty());
}

#[tokio::test]
async fn a_roll_back_of_the_trial_restarts_into_the_old_slot_and_then_lets_go() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert!(proxy.roll_back("w-1").await.unwrap());
    proxy.reboot("w-1").await.unwrap();
    assert_eq!(held(&bench), ["w-1"]);
    let (ota, _server, client) = bench.boot().await;
    assert_eq!(slots(&ota).await, ["A good 1.0 booted primary", "B bad 2.0"]);
    assert_eq!(workshop(&client).await.get_update().await.unwrap().1, "rolled-back");
    assert!(held(&bench).is_empty());
}

#[tokio::test]
async fn the_object_serves_what_the_contract_says() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let served = pitstop_runtime::testing::introspect(&client, &pitstop_dbus::object_path("SelfUpdate")).await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.Workshop", &served), Vec::<String>::new());
}
