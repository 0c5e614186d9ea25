//! Orders that are taken back or overtaken, also when the backend was cut short in the middle.

use pitstop_backend::model::{CampaignState, ReleaseState};
use pitstop_backend::store::Change;
use pitstop_types::CampaignId;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Device, VIN, World};
use crate::{OTHER, offered, with_world};

const THIRD: &str = "WP0ZZZ99ZTS392126";

/// Three vehicles that hold an order, the last of which has begun to install; the release and the campaign.
async fn three_offered(world: &World) -> ([Device; 3], String, String) {
    let release = world.release().await;
    let mut devices = [world.device(VIN).await, world.device(OTHER).await, world.device(THIRD).await];
    for device in &mut devices {
        device.report(world).await;
    }
    let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
    let mut update = String::new();
    for device in &mut devices {
        update = device.report(world).await.unwrap();
    }
    devices[2].tell(&update, json!({ "phase": "activating" })).await;
    (devices, release, campaign)
}

async fn only_the_one_that_has_begun_goes_on(world: &World, devices: &mut [Device; 3]) {
    assert_eq!(devices[0].report(world).await, None, "nothing recalled is signed");
    let (state, reason) = world.state(VIN).await;
    assert!(state == "cancelled" && reason.contains("rattles"), "{state}: {reason}");
    assert_eq!(world.state(OTHER).await.0, "offered");
    world.backend.tick().await.unwrap();
    assert_eq!(world.state(OTHER).await.0, "cancelled");
    assert!(devices[2].report(world).await.is_some());
    assert_eq!(world.state(THIRD).await.0, "installing");
}

#[test]
fn an_abort_that_was_cut_short_signs_nothing_more_and_is_finished() {
    with_world(|world| async move {
        let (mut devices, _, id) = three_offered(&world).await;
        let mut campaign = world.backend.repo.campaign(&CampaignId::new(&*id).unwrap()).await.unwrap().unwrap();
        campaign.state = CampaignState::Aborted;
        campaign.reason = "rattles".into();
        world.backend.repo.apply(vec![Change::PutCampaign(campaign)]).await.unwrap();
        only_the_one_that_has_begun_goes_on(&world, &mut devices).await;
    });
}

#[test]
fn an_abort_may_be_repeated_and_finishes_what_was_left() {
    with_world(|world| async move {
        let (_devices, _, id) = three_offered(&world).await;
        let path = format!("/api/v1/campaigns/{id}/abort");
        let mut campaign = world.backend.repo.campaign(&CampaignId::new(&*id).unwrap()).await.unwrap().unwrap();
        campaign.state = CampaignState::Aborted;
        world.backend.repo.apply(vec![Change::PutCampaign(campaign)]).await.unwrap();
        assert_eq!(world.post(&path, Value::Null).await["state"], "aborted");
        assert_eq!(world.state(VIN).await.0, "cancelled");
        assert_eq!(world.state(THIRD).await.0, "installing");
    });
}

#[test]
fn a_withdrawal_that_was_cut_short_signs_nothing_more_and_is_finished() {
    with_world(|world| async move {
        let (mut devices, id, campaign) = three_offered(&world).await;
        let mut release = world.backend.repo.release(&id).await.unwrap().unwrap();
        release.state = ReleaseState::Withdrawn;
        release.withdrawn_reason = Some("rattles".into());
        world.backend.repo.apply(vec![Change::PutRelease(release)]).await.unwrap();
        only_the_one_that_has_begun_goes_on(&world, &mut devices).await;
        let view = world.get(&format!("/api/v1/campaigns/{campaign}")).await;
        assert_eq!(view["state"], "aborted", "{view}");
    });
}

#[test]
fn a_withdrawal_may_be_repeated_and_a_draft_cannot_be_withdrawn() {
    with_world(|world| async move {
        let (_devices, id, campaign) = three_offered(&world).await;
        let mut release = world.backend.repo.release(&id).await.unwrap().unwrap();
        release.state = ReleaseState::Withdrawn;
        world.backend.repo.apply(vec![Change::PutRelease(release.clone())]).await.unwrap();
        let path = format!("/api/v1/releases/{id}/withdraw");
        assert_eq!(world.post(&path, json!({ "reason": "rattles" })).await["state"], "withdrawn");
        assert_eq!(world.get(&format!("/api/v1/campaigns/{campaign}")).await["state"], "aborted");
        release.state = ReleaseState::Draft;
        world.backend.repo.apply(vec![Change::PutRelease(release)]).await.unwrap();
        assert_eq!(world.call(Method::POST, &path, json!({ "reason": "rattles" })).await.0, 409);
    });
}

#[test]
fn a_failure_that_was_seen_and_then_mended_hides_no_later_one_from_the_stop_rule() {
    with_world(|world| async move {
        let release = world.release().await;
        let mut devices = Vec::new();
        for n in 0..4 {
            let mut device = world.device(&format!("WP0ZZZ99ZTS39213{n}")).await;
            device.report(&world).await;
            devices.push(device);
        }
        let stop = json!({ "max_failure_percent": 100, "min_finished": 1000, "max_failures": 2 });
        let campaign = world.campaign(json!({ "name": "c", "release": release, "stop": stop })).await;
        let path = format!("/api/v1/campaigns/{campaign}");
        let mut updates = Vec::new();
        for device in &mut devices {
            updates.push(device.report(&world).await.unwrap());
        }
        let broken = json!({ "phase": "stopped", "result": "needs-workshop" });
        devices[0].tell(&updates[0], broken.clone()).await;
        devices[1].tell(&updates[1], broken.clone()).await;
        world.backend.tick().await.unwrap();
        assert_eq!(world.get(&path).await["state"], "paused");
        world.post(&format!("{path}/resume"), json!({ "reason": "seen" })).await;
        world.pass(10);
        devices[0].set("2.0");
        devices[0].report(&world).await;
        devices[2].tell(&updates[2], broken.clone()).await;
        world.backend.tick().await.unwrap();
        assert_eq!(world.get(&path).await["state"], "running", "one since then");
        devices[3].tell(&updates[3], broken).await;
        world.backend.tick().await.unwrap();
        assert_eq!(world.get(&path).await["state"], "paused", "two since then");
    });
}

#[test]
fn a_new_device_proves_what_was_offered_to_the_one_before() {
    with_world(|world| async move {
        let (_, _, _) = offered(&world).await;
        let mut new = world.device(VIN).await;
        new.set("2.0");
        assert_eq!(new.report(&world).await, None);
        assert_eq!(world.state(VIN).await.0, "succeeded");
    });
}

async fn rev(device: &Device) -> u64 {
    let (status, next) = device.get("/v1/device/next").await;
    assert_eq!(status, 200, "{next}");
    next["rev"].as_u64().unwrap()
}

#[test]
fn the_number_of_the_order_grows_with_every_end_of_an_update() {
    with_world(|world| async move {
        let (mut device, _, update) = offered(&world).await;
        let before = rev(&device).await;
        device.tell(&update, json!({ "phase": "fetching" })).await;
        assert_eq!(rev(&device).await, before, "the same update is to be done");
        device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
        assert!(rev(&device).await > before, "declined");
    });
    with_world(|world| async move {
        let (mut device, _, _) = offered(&world).await;
        let before = rev(&device).await;
        device.set("2.0");
        device.report(&world).await;
        assert!(rev(&device).await > before, "succeeded");
    });
    with_world(|world| async move {
        let (device, _, _) = offered(&world).await;
        let before = rev(&device).await;
        world.pass(8 * 86_400);
        world.backend.tick().await.unwrap();
        assert_eq!(world.state(VIN).await.0, "timed_out");
        assert!(rev(&device).await > before, "timed out");
    });
}

#[test]
fn the_number_of_the_order_grows_with_an_end_behind_a_planned_update_too() {
    with_world(|world| async move {
        let (both, bcm) = (world.release().await, world.release_of("bcm", "3.0", 3).await);
        // Of adas 0.7 no bundle is known: the first campaign's update stays planned.
        let mut device = world.device(VIN).await;
        device.runs[2].1 = Some("0.7".into());
        device.report(&world).await;
        for release in [both, bcm] {
            world.campaign(json!({ "name": "c", "release": release })).await;
        }
        let update = device.report(&world).await.unwrap();
        assert_eq!(device.get("/v1/device/next").await.1["update"], update.as_str());
        let before = rev(&device).await;
        device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
        assert!(rev(&device).await > before);
    });
}

#[test]
fn the_number_of_the_order_grows_when_a_campaign_goes_on_and_when_a_vehicle_is_admitted() {
    with_world(|world| async move {
        let release = world.release().await;
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
        world.post(&format!("/api/v1/campaigns/{campaign}/pause"), Value::Null).await;
        assert_eq!(device.report(&world).await, None, "paused");
        let before = rev(&device).await;
        world.post(&format!("/api/v1/campaigns/{campaign}/resume"), Value::Null).await;
        let resumed = rev(&device).await;
        assert!(resumed > before, "the vehicle has to come again");
        let path = format!("/api/v1/vehicles/{VIN}/authorisation");
        world.post(&path, json!({ "authorised": false, "reason": "stolen" })).await;
        world.post(&path, json!({ "authorised": true, "reason": "found" })).await;
        assert!(rev(&device).await > resumed);
    });
}
