//! The workshop's interface on a peer-to-peer bus, beside the campaign's at the same object.

use pitstop_boot_env::boot_decision;
use pitstop_dbus::WorkshopProxy;
use pitstop_runtime::operation;
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
    *bench.peers.choice.lock().unwrap() = String::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    assert_eq!(proxy.get_update().await.unwrap(), (String::new(), String::new(), String::new()));
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::WrongPhase(_))));
    staged(&proxy, &client).await;
    assert_eq!(proxy.get_update().await.unwrap(), ("w-1".into(), "staged".into(), "2.0".into()));
    proxy.activate("w-1").await.unwrap();
    assert!(held(&bench).is_empty());
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

#[tokio::test]
async fn a_moving_or_unheld_vehicle_is_not_restarted_and_not_held() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    *bench.peers.safe.lock().unwrap() = (false, true);
    assert!(matches!(proxy.activate("w-1").await, Err(OtaError::NotSafe(_))));
    assert_eq!(proxy.get_update().await.unwrap().1, "staged", "no later start may try it");
    *bench.peers.safe.lock().unwrap() = (true, true);
    proxy.activate("w-1").await.unwrap();
    *bench.peers.safe.lock().unwrap() = (false, true);
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::NotSafe(_))));
    *bench.peers.safe.lock().unwrap() = (true, false);
    tokio::time::pause();
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::NotSafe(_))));
    assert!(!bench.path("rebooted").exists());
    assert!(held(&bench).is_empty());
}

#[tokio::test]
async fn a_restart_that_fails_holds_the_vehicle_no_longer() {
    let bench = Bench::new();
    let (_, _server, client) = bench.boot().await;
    let proxy = workshop(&client).await;
    staged(&proxy, &client).await;
    proxy.activate("w-1").await.unwrap();
    // The command touches this file, which leads nowhere.
    std::os::unix::fs::symlink(bench.path("none").join("none"), bench.path("rebooted")).unwrap();
    assert!(matches!(proxy.reboot("w-1").await, Err(OtaError::Internal(_))));
    assert!(held(&bench).is_empty());
    std::fs::remove_file(bench.path("rebooted")).unwrap();
    proxy.reboot("w-1").await.unwrap();
    assert_eq!(held(&bench), ["w-1"], "over the restart");
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
