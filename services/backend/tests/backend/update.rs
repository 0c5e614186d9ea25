//! One update of one vehicle, as its manifests and reports tell it.

use std::collections::BTreeMap;

use pitstop_types::{EcuId, HardwareId, Vin};
use pitstop_uptane::{Generation, MemorySigner, Scheme, Vehicle, Verification};
use serde_json::{Value, json};

use crate::support::{Device, VIN};
use crate::{OTHER, offered, with_world};

#[test]
fn an_update_goes_from_upload_to_proven_success() {
    with_world(|world| async move {
        let (mut device, campaign, update) = offered(&world).await;
        let (_, next) = device.get("/v1/device/next").await;
        assert_eq!(next["update"], update.as_str());
        // The Director's targets for this vehicle: two targets, two fallbacks, the order, the VIN.
        let (_, timestamp) = device.get("/v1/device/metadata/director/timestamp.json").await;
        let version = timestamp["signed"]["meta"]["snapshot.json"]["version"].as_u64().unwrap();
        let (status, targets) = device.get(&format!("/v1/device/metadata/director/{version}.targets.json")).await;
        assert_eq!(status, 200);
        let signed = &targets["signed"];
        assert_eq!(signed["vin"], VIN);
        assert_eq!(signed["x-pitstop"]["update"], update.as_str());
        assert_eq!(signed["x-pitstop"]["conditions"], json!(["parked"]));
        let listed = signed["targets"].as_object().unwrap();
        let roles = |role: &str| listed.values().filter(|target| target["custom"]["role"] == role).count();
        assert_eq!((listed.len(), roles("target"), roles("fallback")), (4, 2, 2));
        for (path, target) in listed {
            let sha256 = target["hashes"]["sha256"].as_str().unwrap();
            let (status, link) = device.post("/v1/device/link", &json!({ "sha256": sha256 })).await;
            assert_eq!(status, 200, "{link}");
            let bytes = world.client().get(link["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
            assert_eq!(pitstop_types::Digest::of(&bytes).to_string(), sha256, "{path}");
        }
        device.tell(&update, json!({ "phase": "fetching" })).await;
        assert_eq!(world.state(VIN).await.0, "downloading");
        device.tell(&update, json!({ "phase": "activating" })).await;
        // The vehicle's word is not proof.
        device.tell(&update, json!({ "phase": "reported", "result": "all-new" })).await;
        assert_eq!(world.state(VIN).await.0, "verifying");
        device.set("2.0");
        assert_eq!(device.report(&world).await, None);
        assert_eq!(world.state(VIN).await.0, "succeeded");
        world.backend.tick().await.unwrap();
        let view = world.get(&format!("/api/v1/campaigns/{campaign}")).await;
        assert_eq!(view["state"], "done", "{view}");
        assert_eq!(view["progress"]["states"]["succeeded"], 1);
    });
}

#[test]
fn the_vehicles_own_verification_accepts_what_is_served() {
    with_world(|world| async move {
        let (device, campaign, update) = offered(&world).await;
        let root = |repository| std::fs::read_to_string(world.backend.dir.root_metadata(repository)).unwrap();
        let ecus = ["tcu", "bcm", "adas"];
        let ecus = ecus.map(|ecu| (EcuId::new(ecu).unwrap(), HardwareId::new(format!("{ecu}-a1")).unwrap()));
        let vehicle = |vin| Vehicle { vin: Vin::new(vin).unwrap(), ecus: ecus.clone().into(), floors: BTreeMap::new() };
        let start = || Generation::initial(root("director"), root("image"));
        let mut verification = Verification::new(vehicle(VIN), start(), Some(world.now())).unwrap();
        feed(&device, &mut verification).await.unwrap();
        let (approval, generation) = verification.finish().unwrap();
        let decision = approval.into_inner().decision.unwrap();
        assert_eq!((decision.update.as_str(), decision.campaign.as_str()), (update.as_str(), campaign.as_str()));
        assert_eq!(decision.check(), Ok(()));
        let versions = decision.ecus.iter().map(|part| {
            (part.ecu.to_string(), part.target.version.to_string(), part.fallback.as_ref().unwrap().version.to_string())
        });
        let expected = ["adas", "bcm"].map(|ecu| (ecu.to_owned(), "2.0".to_owned(), "1.0".to_owned()));
        assert_eq!(versions.collect::<Vec<_>>(), expected);
        // The same files for another vehicle, and later than they are good for.
        let mut other = Verification::new(vehicle(OTHER), start(), Some(world.now())).unwrap();
        assert!(feed(&device, &mut other).await.is_err());
        let mut late = Verification::new(vehicle(VIN), generation, Some(world.now() + 2 * 86_400)).unwrap();
        assert!(feed(&device, &mut late).await.is_err());
    });
}

/// Fetches what the verification asks for from the device listener.
async fn feed(device: &Device, verification: &mut Verification) -> Result<(), pitstop_uptane::VerifyError> {
    while let Some(fetch) = verification.poll_fetch() {
        let path = format!("{}/v1/device/metadata/{}/{}", device.url, fetch.repository, fetch.file);
        let answer = device.client.get(path).send().await.unwrap();
        let found = answer.status() == 200;
        let bytes = answer.bytes().await.unwrap().to_vec();
        verification.handle_file(found.then_some(bytes))?;
    }
    Ok(())
}

#[test]
fn a_roll_back_is_believed_when_the_signed_manifest_says_the_same() {
    with_world(|world| async move {
        let (mut device, _, update) = offered(&world).await;
        let end = json!({ "phase": "stopped", "result": "all-old", "error": "CheckFailed", "text": "the check routine failed",
            "ecus": [{ "ecu": "bcm", "error": "FlashFailed" }] });
        device.tell(&update, end).await;
        assert_eq!(world.state(VIN).await.0, "verifying");
        device.report(&world).await;
        let (state, reason) = world.state(VIN).await;
        assert_eq!(state, "rolled_back");
        assert!(reason.contains("CheckFailed") && reason.contains("bcm"), "{reason}");
        let timeline = world.get(&format!("/api/v1/vehicles/{VIN}/timeline")).await;
        assert!(timeline["transitions"].as_array().unwrap().len() >= 3, "{timeline}");
    });
}

#[test]
fn a_manifest_inside_a_report_proves_as_well_and_is_taken_once() {
    with_world(|world| async move {
        let (mut device, _, update) = offered(&world).await;
        device.set("2.0");
        let manifest: Value = serde_json::from_slice(&device.manifest(world.now())).unwrap();
        device.tell(&update, json!({ "phase": "reported", "result": "all-new", "manifest": manifest })).await;
        assert_eq!(world.state(VIN).await.0, "succeeded");
        device.tell(&update, json!({ "phase": "reported", "result": "all-new", "manifest": manifest })).await;
        let timeline = world.get(&format!("/api/v1/vehicles/{VIN}/timeline")).await;
        let refused = |event: &&Value| event["kind"] == "manifest-refused";
        assert_eq!(timeline["events"].as_array().unwrap().iter().filter(refused).count(), 0);
    });
}

#[test]
fn what_the_driver_or_the_vehicle_refuses_ends_there() {
    with_world(|world| async move {
        let (mut device, _, update) = offered(&world).await;
        device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
        assert_eq!(world.state(VIN).await.0, "declined");
        assert_eq!(device.report(&world).await, None, "it is not offered again");
    });
    with_world(|world| async move {
        let (device, _, _) = offered(&world).await;
        // An order that was refused whole names no update.
        let item = json!([{ "seq": 1, "update": null, "phase": "refused", "result": "refused", "error": "Replay" }]);
        assert_eq!(device.post("/v1/device/status", &item).await.0, 200);
        let (state, reason) = world.state(VIN).await;
        assert_eq!(state, "refused");
        assert!(reason.contains("Replay"), "{reason}");
    });
}

#[test]
fn manifests_that_are_not_what_they_say_change_nothing() {
    with_world(|world| async move {
        let (mut device, _, _) = offered(&world).await;
        let vin = Vin::new(VIN).unwrap();
        let before = world.backend.repo.vehicle(&vin).await.unwrap().unwrap();
        let replayed = device.manifest(world.now());
        assert_eq!(device.put(replayed.clone()).await.0, 200);
        let code = |body: &Value| body["error"]["code"].as_str().unwrap_or_default().to_owned();
        let (status, body) = device.put(replayed).await;
        assert_eq!((status.as_u16(), code(&body).as_str()), (422, "Replay"));
        let stranger = MemorySigner::generate(Scheme::EcdsaP256).unwrap();
        let forged = device.manifest_by(&stranger, world.now());
        assert_eq!(code(&device.put(forged).await.1), "Signature");
        let mut edited: Value = serde_json::from_slice(&device.manifest(world.now())).unwrap();
        edited["signed"]["ecu_version_manifests"]["bcm"]["signed"]["version"] = "2.0".into();
        assert_eq!(code(&device.put(edited.to_string().into_bytes()).await.1), "Signature");
        device.runs.push(("brakes".into(), None));
        let unknown = device.manifest(world.now());
        assert_eq!(code(&device.put(unknown).await.1), "EcuUnknown");
        device.runs.truncate(2);
        let missing = device.manifest(world.now());
        assert_eq!(code(&device.put(missing).await.1), "EcuMissing");
        for rubbish in
            [Vec::new(), b"{}".to_vec(), b"[1]".to_vec(), vec![0xff; 100], vec![b'['; 60_000], vec![b'x'; 70_000]]
        {
            assert_eq!(code(&device.put(rubbish).await.1), "Malformed");
        }
        // The server closes the connection with its answer: the next request must not be sent on it.
        let request = device.client.put(format!("{}/v1/device/manifest", device.url)).header("connection", "close");
        let request = request.body(vec![b' '; 2 << 20]);
        // The answer may be cut off with the rest of the body.
        assert!(request.send().await.map_or(true, |answer| answer.status() == 413));
        let after = world.backend.repo.vehicle(&vin).await.unwrap().unwrap();
        assert_eq!(after.report_counter, before.report_counter + 1, "only the good one counted");
        assert_eq!(world.state(VIN).await.0, "offered");
        // Still served.
        device.runs.push(("adas".into(), Some("1.0".into())));
        device.report(&world).await;
    });
}
