//! Campaigns over several vehicles.

use pitstop_backend::model::Vehicle;
use pitstop_backend::store::Change;
use pitstop_types::Vin;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{VIN, facts};
use crate::{OTHER, offered, with_world};

const DAY: i64 = 86_400;

#[test]
fn a_vehicle_that_cannot_have_it_is_told_apart_with_the_reason() {
    with_world(|world| async move {
        let release = world.release().await;
        // Runs a version of which no bundle is known: there would be no way back. It stays planned, a workshop may mend that.
        let mut device = world.device(VIN).await;
        device.runs[1].1 = Some("0.7".into());
        device.report(&world).await;
        // Registered only: stays planned, it may still come.
        world.post("/api/v1/vehicles", json!({ "vin": OTHER })).await;
        let mut current = world.device("WP0ZZZ99ZTS392126").await;
        current.set("2.0");
        current.report(&world).await;
        let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
        device.report(&world).await;
        let (state, reason) = world.state(VIN).await;
        assert_eq!(state, "planned");
        assert!(reason.contains("no fallback") && reason.contains("bcm"), "{reason}");
        let path = format!("/api/v1/vehicles/{VIN}/eligibility?release={release}");
        let why = world.get(&path).await;
        assert_eq!((why["eligible"].as_bool(), why["reason"].as_str()), (Some(false), Some(reason.as_str())));
        assert_eq!(world.state(OTHER).await.0, "planned");
        let (state, reason) = world.state("WP0ZZZ99ZTS392126").await;
        assert!(state == "excluded" && reason.contains("already"), "{reason}");
        world.backend.tick().await.unwrap();
        assert_eq!(
            world.get(&format!("/api/v1/campaigns/{campaign}")).await["state"],
            "running",
            "not every one has ended"
        );
        // The workshop brought it to a known version: it is looked at again.
        device.runs[1].1 = Some("1.0".into());
        assert!(device.report(&world).await.is_some());
        assert_eq!(world.state(VIN).await.0, "offered");
    });
}

#[test]
fn a_vehicle_that_was_kept_out_all_the_time_is_no_failure_and_the_campaign_ends() {
    with_world(|world| async move {
        let release = world.release().await;
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        let blocked = json!({ "authorised": false, "reason": "stolen" });
        world.post(&format!("/api/v1/vehicles/{VIN}/authorisation"), blocked).await;
        let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
        assert_eq!(world.state(VIN).await.0, "planned");
        world.backend.tick().await.unwrap();
        let path = format!("/api/v1/campaigns/{campaign}");
        assert_eq!(world.get(&path).await["state"], "running");
        world.pass(15 * 86_400);
        world.backend.tick().await.unwrap();
        let (state, reason) = world.state(VIN).await;
        assert!(state == "excluded" && reason.contains("stolen"), "{state}: {reason}");
        let view = world.get(&path).await;
        assert_eq!((view["state"].as_str(), view["progress"]["failures"].as_u64()), (Some("done"), Some(0)), "{view}");
    });
}

#[test]
fn a_resumed_campaign_grants_the_whole_time_to_come_for_it_again() {
    with_world(|world| async move {
        let release = world.release().await;
        world.device(VIN).await.report(&world).await;
        let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
        let path = format!("/api/v1/campaigns/{campaign}");
        world.pass(DAY);
        world.post(&format!("{path}/pause"), Value::Null).await;
        world.pass(14 * DAY);
        world.backend.tick().await.unwrap();
        world.post(&format!("{path}/resume"), Value::Null).await;
        for days in [0, 13] {
            world.pass(days * DAY);
            world.backend.tick().await.unwrap();
            assert_eq!(world.state(VIN).await.0, "planned", "{days} days after");
        }
        assert_eq!(world.get(&path).await["progress"]["failures"], 0);
        world.pass(2 * DAY);
        world.backend.tick().await.unwrap();
        assert_eq!(world.state(VIN).await.0, "timed_out");
    });
}

#[test]
fn what_was_offered_before_a_pause_is_signed_in_it_and_its_clock_goes_on() {
    with_world(|world| async move {
        let (mut device, campaign, update) = offered(&world).await;
        world.post(&format!("/api/v1/campaigns/{campaign}/pause"), Value::Null).await;
        world.pass(DAY);
        assert_eq!(device.report(&world).await, Some(update));
        world.pass(7 * DAY);
        world.backend.tick().await.unwrap();
        assert_eq!(world.state(VIN).await.0, "timed_out");
    });
}

#[test]
fn a_vehicle_with_another_campaigns_update_is_waited_for_and_then_has_the_whole_time() {
    for comes in [true, false] {
        with_world(|world| async move {
            let (mut device, _, update) = offered(&world).await;
            device.tell(&update, json!({ "phase": "deferred" })).await;
            let release = world.release_of("bcm", "3.0", 3).await;
            let campaign = world.campaign(json!({ "name": "next", "release": release })).await;
            world.pass(15 * DAY);
            world.backend.tick().await.unwrap();
            let (state, reason) = world.state(VIN).await;
            assert!(state == "planned" && reason.contains(&update), "{state}: {reason}");
            let view = world.get(&format!("/api/v1/campaigns/{campaign}")).await;
            assert_eq!(view["state"], "running", "{view}");
            world.pass(13 * DAY);
            device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
            world.pass(13 * DAY);
            world.backend.tick().await.unwrap();
            assert_eq!(world.state(VIN).await.0, "planned");
            if comes {
                assert!(device.report(&world).await.is_some());
            } else {
                world.pass(2 * DAY);
                world.backend.tick().await.unwrap();
            }
            assert_eq!(world.state(VIN).await.0, if comes { "offered" } else { "timed_out" });
        });
    }
}

#[test]
fn a_vehicle_that_is_being_updated_is_judged_by_what_it_runs_afterwards() {
    for (result, end) in [("all-new", "offered"), ("declined", "excluded")] {
        with_world(|world| async move {
            let (mut device, _, update) = offered(&world).await;
            let bundle = world.upload("bcm", "3.0", 3).await["id"].clone();
            let body =
                json!({ "name": "next", "bundles": [bundle], "facts": facts(), "allowed_from": { "bcm-a1": ["2.0"] } });
            let release = world.post("/api/v1/releases", body).await["id"].as_str().unwrap().to_owned();
            world.post(&format!("/api/v1/releases/{release}/publish"), Value::Null).await;
            world.campaign(json!({ "name": "next", "release": release })).await;
            world.backend.tick().await.unwrap();
            assert_eq!(world.state(VIN).await.0, "planned");
            if result == "all-new" {
                device.set("2.0");
                device.report(&world).await;
            }
            device.tell(&update, json!({ "phase": "stopped", "result": result })).await;
            device.report(&world).await;
            let (state, reason) = world.state(VIN).await;
            assert_eq!(state, end, "{reason}");
        });
    }
}

#[test]
fn many_vehicles_that_are_waited_for_hide_no_overdue_one() {
    with_world(|world| async move {
        let release = world.release().await;
        let vins: Vec<Vin> = (0..201).map(|n| Vin::new(format!("WP0ZZZ99ZTS{n:06}")).unwrap()).collect();
        let vehicles = vins.iter().map(|vin| Change::PutVehicle(Vehicle::new(vin.clone(), world.now())));
        world.backend.repo.apply(vehicles.collect()).await.unwrap();
        let other = json!({ "name": "other", "release": release });
        let other = world.post("/api/v1/campaigns", other).await["id"].clone();
        let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
        let busy = vins[..200].iter().map(|vin| {
            let assignment = json!({ "id": format!("u-{}", vin.as_str().to_lowercase()), "campaign": other, "vin": vin, "stage": 0, "state": "deferred",
                "reason": "", "since": world.now(), "offered_at": world.now(), "install_by": null, "claimed": null });
            Change::PutAssignment(serde_json::from_value(assignment).unwrap())
        });
        world.backend.repo.apply(busy.collect()).await.unwrap();
        world.pass(15 * DAY);
        world.backend.tick().await.unwrap();
        world.backend.tick().await.unwrap();
        let view = world.get(&format!("/api/v1/campaigns/{campaign}")).await;
        assert_eq!(view["progress"]["states"], json!({ "planned": 200, "timed_out": 1 }));
    });
}

#[test]
fn a_stage_in_which_everybody_declined_opens_no_other_and_says_so() {
    with_world(|world| async move {
        let release = world.release().await;
        let vins = [VIN, OTHER, "WP0ZZZ99ZTS392126"];
        let mut devices = Vec::new();
        for vin in vins {
            let mut device = world.device(vin).await;
            device.report(&world).await;
            devices.push(device);
        }
        let gate = json!({ "min_successes": 3, "min_success_percent": 95 });
        let stages = json!([
            { "name": "canary", "select": { "by": "list", "vins": vins[..2] }, "gate": gate },
            { "name": "rest", "select": { "by": "percent", "from": 0, "to": 100 } }
        ]);
        let campaign = world.campaign(json!({ "name": "c", "release": release, "stages": stages })).await;
        let path = format!("/api/v1/campaigns/{campaign}");
        let waits = world.get(&path).await["stages"][0]["next_shut"].clone();
        assert_eq!(waits, "gate: 0 successes, 2 needed, 2 vehicles to come");
        for device in &mut devices[..2] {
            let update = device.report(&world).await.unwrap();
            device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
        }
        world.backend.tick().await.unwrap();
        assert_eq!(world.state(vins[2]).await.0, "", "nothing has ever installed it");
        let view = world.get(&path).await;
        let why = view["stages"][0]["next_shut"].as_str().unwrap();
        assert!(view["state"] == "running" && why.contains("2 declined"), "{view}");
        assert_eq!(view["stages"][1]["next_shut"], Value::Null);
        for page in ["/".to_owned(), format!("/campaigns/{campaign}")] {
            let page = world.client().get(format!("{}{page}", world.admin_url())).bearer_auth(world.token());
            assert!(page.send().await.unwrap().text().await.unwrap().contains(why));
        }
        // What an operator does: another campaign with other vehicles first.
        world.post(&format!("{path}/abort"), Value::Null).await;
        assert_eq!(world.get(&path).await["stages"][0]["next_shut"], Value::Null);
        world.campaign(json!({ "name": "again", "release": release, "vins": [vins[2]] })).await;
        assert!(devices[2].report(&world).await.is_some());
    });
}

#[test]
fn a_campaign_stops_itself_on_failures_and_goes_on_when_told() {
    with_world(|world| async move {
        let release = world.release().await;
        let vins: Vec<String> = (0..4).map(|n| format!("WP0ZZZ99ZTS39213{n}")).collect();
        let mut devices = Vec::new();
        for vin in &vins {
            let mut device = world.device(vin).await;
            device.report(&world).await;
            devices.push(device);
        }
        let stages = json!([
            { "name": "canary", "select": { "by": "list", "vins": [vins[0], vins[1]] }, "gate": { "min_successes": 1 } },
            { "name": "rest", "select": { "by": "percent", "from": 0, "to": 100 } }
        ]);
        let stop = json!({ "max_failure_percent": 40, "min_finished": 2, "max_failures": 3 });
        let campaign = json!({ "name": "c", "release": release, "stages": stages, "stop": stop });
        let campaign = world.campaign(campaign).await;
        assert_eq!(world.state(&vins[2]).await.0, "", "the second stage is not open");
        for device in &mut devices[..2] {
            let update = device.report(&world).await.unwrap();
            device.tell(&update, json!({ "phase": "stopped", "result": "needs-workshop" })).await;
        }
        world.backend.tick().await.unwrap();
        let path = format!("/api/v1/campaigns/{campaign}");
        let view = world.get(&path).await;
        assert_eq!(view["state"], "paused", "{view}");
        assert!(view["reason"].as_str().unwrap().contains("2 failures"));
        // Mended and proven later: counted as what it is, and the gate of one success is passed.
        devices[0].set("2.0");
        devices[0].report(&world).await;
        assert_eq!(world.state(&vins[0]).await.0, "succeeded");
        assert_eq!(world.state(&vins[2]).await.0, "", "paused: no stage opens");
        world.post(&format!("{path}/resume"), json!({ "reason": "seen" })).await;
        assert_eq!(world.state(&vins[2]).await.0, "planned");
        assert!(devices[2].report(&world).await.is_some());
        // Abort: what has not begun to change a vehicle is cancelled, what has goes on.
        let update = devices[3].report(&world).await.unwrap();
        devices[3].tell(&update, json!({ "phase": "activating" })).await;
        world.post(&format!("{path}/abort"), Value::Null).await;
        assert_eq!(world.state(&vins[2]).await.0, "cancelled");
        assert_eq!(world.state(&vins[3]).await.0, "installing");
        assert_eq!(devices[2].report(&world).await, None);
        assert_eq!(devices[3].report(&world).await, Some(update));
        let (status, _) = world.call(Method::POST, &format!("{path}/resume"), Value::Null).await;
        assert_eq!(status, 409);
    });
}

#[test]
fn silence_is_an_outcome_too_and_the_truth_may_come_late() {
    with_world(|world| async move {
        let release = world.release().await;
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        let deadlines = json!({ "offer_secs": 100, "download_secs": 200, "wait_secs": 300, "install_secs": 400 });
        let campaign = world.campaign(json!({ "name": "c", "release": release, "deadlines": deadlines })).await;
        device.report(&world).await;
        world.pass(201);
        world.backend.tick().await.unwrap();
        let (state, reason) = world.state(VIN).await;
        assert_eq!(state, "timed_out");
        assert!(reason.contains("offered"), "{reason}");
        world.backend.tick().await.unwrap();
        assert_eq!(world.get(&format!("/api/v1/campaigns/{campaign}")).await["progress"]["failures"], 1);
        device.set("2.0");
        device.report(&world).await;
        assert_eq!(world.state(VIN).await.0, "succeeded");
    });
}

#[test]
fn a_withdrawn_release_is_offered_no_longer_but_stays_a_way_back() {
    with_world(|world| async move {
        let (mut device, campaign, _) = offered(&world).await;
        let releases = world.get("/api/v1/releases").await;
        let id = releases[1]["id"].as_str().unwrap().to_owned();
        world.post(&format!("/api/v1/releases/{id}/withdraw"), json!({ "reason": "rattles" })).await;
        assert_eq!(world.get(&format!("/api/v1/campaigns/{campaign}")).await["state"], "aborted");
        assert_eq!(world.state(VIN).await.0, "cancelled");
        // A vehicle that runs it must be able to leave it, with it as the way back.
        device.set("2.0");
        device.report(&world).await;
        let next = world.release_of("bcm", "3.0", 3).await;
        world.campaign(json!({ "name": "fix", "release": next })).await;
        assert!(device.report(&world).await.is_some());
    });
}
