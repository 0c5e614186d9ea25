//! The backend over its real listeners, with devices that hold real keys.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a panic is the report")]

mod support;

use std::collections::BTreeMap;

use pitstop_types::{EcuId, HardwareId, Vin};
use pitstop_uptane::{Generation, MemorySigner, Scheme, Vehicle, Verification};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Device, VIN, World, answer, facts, tls};

const OTHER: &str = "WP0ZZZ99ZTS392125";

fn many() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs on a runtime of its own, as the program does.
fn with_world<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    many().block_on(async { test(World::new().await).await });
}

async fn offered(world: &World) -> (Device, String, String) {
    let release = world.release().await;
    let mut device = world.device(VIN).await;
    device.report(world).await;
    let campaign = world.campaign(json!({ "name": "c", "release": release, "conditions": ["parked"] })).await;
    let update = device.report(world).await.unwrap();
    (device, campaign, update)
}

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
        let request = device.client.put(format!("{}/v1/device/manifest", device.url)).body(vec![b' '; 2 << 20]);
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

#[test]
fn one_vehicles_certificate_opens_nothing_of_another() {
    with_world(|world| async move {
        let (mut device, _, _) = offered(&world).await;
        let mut other = world.device(OTHER).await;
        // Its own VIN over its own certificate, but the other's manifest.
        let foreign = device.manifest(world.now());
        assert_eq!(other.put(foreign).await.0, 422);
        other.report(&world).await;
        let vin = Vin::new(VIN).unwrap();
        let bcm = world.backend.repo.bundles().await.unwrap();
        let sha256 = bcm.values().next().unwrap().sha256.clone();
        let (status, body) = other.post("/v1/device/link", &json!({ "sha256": sha256 })).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("not-assigned")));
        // A link made for one device does not open under another's name.
        let (_, link) = device.post("/v1/device/link", &json!({ "sha256": sha256 })).await;
        let stolen = link["url"].as_str().unwrap().replace(&device.id, &other.id);
        assert_eq!(world.client().get(stolen).send().await.unwrap().status(), 403);
        assert!(world.backend.repo.ecus(&vin).await.unwrap().iter().any(|ecu| ecu.ecu == EcuId::tcu()));
    });
}

#[test]
fn without_a_certificate_of_ours_the_device_listener_is_closed() {
    with_world(|world| async move {
        let device = world.device(VIN).await;
        let ca = std::fs::read_to_string(world.backend.dir.tls().join("server-ca.pem")).unwrap();
        let bare = tls(&ca, None).get(format!("{}/v1/device/next", device.url)).send().await;
        assert!(bare.is_err() || bare.unwrap().status() != 200);
        // The server's own certificate is no client's.
        let read = |name: &str| std::fs::read_to_string(world.backend.dir.tls().join(name)).unwrap();
        let wrong = tls(&ca, Some((&read("server.pem"), &read("server.key"))));
        assert!(wrong.get(format!("{}/v1/device/next", device.url)).send().await.is_err());
        // The broker client's certificate is of the right authority and names no vehicle.
        let broker = tls(&ca, Some((&read("mqtt-client.pem"), &read("mqtt-client.key"))));
        let (status, body) = answer(broker.get(format!("{}/v1/device/next", device.url))).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("device-unknown")));
    });
}

#[test]
fn a_blocked_vehicle_is_served_nothing_until_it_is_admitted_again() {
    with_world(|world| async move {
        let (mut device, _, _) = offered(&world).await;
        let sha256 = world.backend.repo.bundles().await.unwrap().values().next().unwrap().sha256.clone();
        let (_, link) = device.post("/v1/device/link", &json!({ "sha256": sha256 })).await;
        let path = format!("/api/v1/vehicles/{VIN}/authorisation");
        world.post(&path, json!({ "authorised": false, "reason": "stolen" })).await;
        for path in ["/v1/device/next", "/v1/device/metadata/director/timestamp.json"] {
            let (status, body) = device.get(path).await;
            assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("not-authorised")), "{path}");
        }
        let manifest = device.manifest(world.now());
        assert_eq!(device.put(manifest).await.0, 403);
        assert_eq!(world.client().get(link["url"].as_str().unwrap()).send().await.unwrap().status(), 403);
        assert_eq!(world.call(Method::POST, &path, json!({ "authorised": true, "reason": " " })).await.0, 400);
        world.post(&path, json!({ "authorised": true, "reason": "found" })).await;
        device.report(&world).await;
    });
}

#[test]
fn a_claim_is_good_once_for_one_vehicle_and_a_new_device_replaces_the_old() {
    with_world(|world| async move {
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let token = claim["claim_token"].as_str().unwrap();
        let (device, request) = Device::asking(VIN, token);
        let mut other_vehicle = request.clone();
        other_vehicle["vin"] = OTHER.into();
        assert_eq!(world.provision(&other_vehicle).await.0, 403);
        let mut other_key = request.clone();
        other_key["identity"]["keyid"] = "0".repeat(64).into();
        assert_eq!(world.provision(&other_key).await.0, 400);
        let mut no_csr = request.clone();
        no_csr["csr_pem"] = "x".into();
        assert_eq!(world.provision(&no_csr).await.0, 400);
        let (status, first) = world.provision(&request).await;
        assert_eq!(status, 200, "refused tries do not use the token up");
        assert_eq!(world.provision(&request).await.0, 403);
        let mut old = device.provisioned(&first);
        old.report(&world).await;
        let mut new = world.device(VIN).await;
        let manifest = old.manifest(world.now());
        assert_eq!(old.put(manifest).await.0, 403, "the old certificate speaks for no vehicle now");
        new.report(&world).await;
        let late = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        world.pass(8 * 86_400);
        let (_, request) = Device::asking(VIN, late["claim_token"].as_str().unwrap());
        assert_eq!(world.provision(&request).await.0, 403, "an old token has expired");
    });
}

#[test]
fn a_download_resumes_by_range_and_its_link_expires() {
    with_world(|world| async move {
        let (device, _, _) = offered(&world).await;
        let bundle = world.backend.repo.bundles().await.unwrap().into_values().next().unwrap();
        let (_, link) = device.post("/v1/device/link", &json!({ "sha256": bundle.sha256 })).await;
        let url = link["url"].as_str().unwrap();
        let get = |range: &'static str| world.client().get(url).header("range", range);
        let whole = world.client().get(url).send().await.unwrap().bytes().await.unwrap();
        let part = get("bytes=100-").send().await.unwrap();
        assert_eq!(part.status(), 206);
        let tag = part.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(
            part.headers()["content-range"],
            format!("bytes 100-{}/{}", bundle.length - 1, bundle.length).as_str()
        );
        assert_eq!(part.bytes().await.unwrap(), whole.slice(100..));
        let ok = get("bytes=5-9").header("if-range", &tag).send().await.unwrap();
        assert_eq!(ok.bytes().await.unwrap(), whole.slice(5..10));
        let changed = get("bytes=5-9").header("if-range", "\"other\"").send().await.unwrap();
        assert_eq!((changed.status().as_u16(), changed.bytes().await.unwrap().len()), (200, whole.len()));
        assert_eq!(get("bytes=999999999-").send().await.unwrap().status(), 416);
        assert_eq!(world.client().get(url).header("if-none-match", &tag).send().await.unwrap().status(), 304);
        assert_eq!(world.client().get(url).header("if-match", "\"x\"").send().await.unwrap().status(), 412);
        assert_eq!(world.client().get(url.replace("sig=", "sig=00")).send().await.unwrap().status(), 403);
        assert_eq!(world.client().get(url.split('?').next().unwrap()).send().await.unwrap().status(), 400);
        world.pass(3601);
        let (status, body) = answer(world.client().get(url)).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("link-expired")));
    });
}

#[test]
fn only_bundles_signed_for_us_are_taken_within_the_limit() {
    many().block_on(async {
        let world = World::with(|settings| settings.limits.bundle_bytes = 300_000).await;
        let good = world.upload("bcm", "1.0", 1).await;
        assert_eq!((good["hardware"].as_str(), good["counter"].as_u64()), (Some("bcm-a1"), Some(1)));
        let path = world.folder.path().join("bcm-1.0.raucb");
        assert_eq!(world.try_upload(&path).await.1["id"], good["id"], "the same file again is the same bundle");
        let bytes = std::fs::read(&path).unwrap();
        let bad = world.folder.path().join("bad");
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 3] ^= 1;
        for (content, status) in [
            (vec![0; 100_000], 422),
            (bytes[..bytes.len() / 2].to_vec(), 422),
            (flipped, 422),
            (Vec::new(), 422),
            (vec![0; 300_001], 413),
        ] {
            std::fs::write(&bad, content).unwrap();
            let (found, body) = world.try_upload(&bad).await;
            assert_eq!(found, status, "{body}");
        }
        // Another file that claims to be the same version of the same hardware.
        let other = world.bundle("bcm", "1.0", 2);
        assert_eq!(world.try_upload(&other).await.0, 409);
        assert_eq!(std::fs::read_dir(world.backend.dir.uploads()).unwrap().count(), 0, "nothing is left over");
        assert_eq!(std::fs::read_dir(world.backend.dir.objects()).unwrap().count(), 1);
    });
}

#[test]
fn a_release_is_published_only_with_all_five_facts() {
    with_world(|world| async move {
        let id = world.upload("bcm", "2.0", 2).await["id"].clone();
        for lacking in ["purpose", "changes", "unavailable", "instructions"] {
            let mut facts = facts();
            facts[lacking] = " ".into();
            let release = world.post("/api/v1/releases", json!({ "name": "x", "bundles": [id], "facts": facts })).await;
            let path = format!("/api/v1/releases/{}/publish", release["id"].as_str().unwrap());
            assert_eq!(world.call(Method::POST, &path, Value::Null).await.0, 400, "{lacking}");
        }
        let none = world.post("/api/v1/releases", json!({ "name": "x", "bundles": [id] })).await;
        let path = format!("/api/v1/releases/{}", none["id"].as_str().unwrap());
        assert_eq!(world.call(Method::POST, &format!("{path}/publish"), Value::Null).await.0, 400);
        assert_eq!(world.get(&path).await["state"], "draft");
        let draft = json!({ "name": "c", "release": none["id"] });
        assert_eq!(world.call(Method::POST, "/api/v1/campaigns", draft).await.0, 409, "a draft cannot be offered");
    });
}

#[test]
fn a_vehicle_that_cannot_have_it_is_excluded_with_the_reason() {
    with_world(|world| async move {
        let release = world.release().await;
        // Runs a version of which no bundle is known: there would be no way back.
        let mut device = world.device(VIN).await;
        device.runs[1].1 = Some("0.7".into());
        device.report(&world).await;
        // Registered only: stays planned, it may still come.
        world.post("/api/v1/vehicles", json!({ "vin": OTHER })).await;
        let mut current = world.device("WP0ZZZ99ZTS392126").await;
        current.set("2.0");
        current.report(&world).await;
        world.campaign(json!({ "name": "c", "release": release })).await;
        let (state, reason) = world.state(VIN).await;
        assert_eq!(state, "excluded");
        assert!(reason.contains("no fallback") && reason.contains("bcm"), "{reason}");
        let path = format!("/api/v1/vehicles/{VIN}/eligibility?release={release}");
        let why = world.get(&path).await;
        assert_eq!((why["eligible"].as_bool(), why["reason"].as_str()), (Some(false), Some(reason.as_str())));
        assert_eq!(world.state(OTHER).await.0, "planned");
        let (state, reason) = world.state("WP0ZZZ99ZTS392126").await;
        assert!(state == "excluded" && reason.contains("already"), "{reason}");
        // The workshop brought it to a known version: it is looked at again.
        device.runs[1].1 = Some("1.0".into());
        assert!(device.report(&world).await.is_some());
        assert_eq!(world.state(VIN).await.0, "offered");
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
        let next = world.upload("bcm", "3.0", 3).await["id"].clone();
        let next = world.post("/api/v1/releases", json!({ "name": "fix", "bundles": [next], "facts": facts() })).await;
        let next = next["id"].as_str().unwrap();
        world.post(&format!("/api/v1/releases/{next}/publish"), Value::Null).await;
        world.campaign(json!({ "name": "fix", "release": next })).await;
        assert!(device.report(&world).await.is_some());
    });
}

#[test]
fn operators_need_the_token_and_bad_orders_are_refused_by_name() {
    with_world(|world| async move {
        let bare = |path: &str| world.client().get(format!("{}{path}", world.admin_url()));
        for path in ["/api/v1/vehicles", "/", "/metrics", "/api/openapi.json", "/nothing"] {
            assert_eq!(bare(path).send().await.unwrap().status(), 401, "{path}");
        }
        assert_eq!(bare("/api/v1/vehicles").bearer_auth("x").send().await.unwrap().status(), 401);
        assert_eq!(bare("/healthz").send().await.unwrap().status(), 200);
        let page = bare("/").basic_auth("operator", Some(world.token())).send().await.unwrap();
        assert_eq!(page.status(), 200);
        let by_password = world.client().post(format!("{}/api/v1/vehicles", world.admin_url()));
        let by_password = by_password.basic_auth("operator", Some(world.token())).json(&json!({ "vin": VIN }));
        assert_eq!(by_password.send().await.unwrap().status(), 401, "a password only looks");
        let release = world.release().await;
        for (path, body, status) in [
            ("/api/v1/vehicles", json!({ "vin": "short" }), 400),
            ("/api/v1/vehicles", json!({ "vin": VIN, "surprise": 1 }), 400),
            ("/api/v1/vehicles", json!("x"), 400),
            ("/api/v1/releases", json!({ "name": "x", "bundles": ["b-none"] }), 400),
            ("/api/v1/campaigns", json!({ "name": "x", "release": "r-none" }), 404),
            ("/api/v1/campaigns", json!({ "name": "x", "release": release, "conditions": ["Vehicle.Speed <"] }), 400),
            ("/api/v1/campaigns", json!({ "name": "x", "release": release, "install_within_secs": 0 }), 400),
            ("/api/v1/campaigns/c-none/start", Value::Null, 404),
            ("/api/v1/campaigns/..%2f/start", Value::Null, 404),
        ] {
            let (found, answer) = world.call(Method::POST, path, body).await;
            assert_eq!(found, status, "{path}: {answer}");
            assert!(answer["error"]["code"].is_string(), "{path}: {answer}");
        }
        let huge = world.client().post(format!("{}/api/v1/campaigns", world.admin_url())).bearer_auth(world.token());
        let huge = huge.header("content-type", "application/json").body(vec![b' '; 5 << 20]);
        assert_eq!(huge.send().await.map(|answer| answer.status().as_u16()).unwrap_or(413), 413);
    });
}

#[test]
fn the_page_the_metrics_the_document_and_the_audit_log_tell_the_same_story() {
    with_world(|world| async move {
        let (_, campaign, _) = offered(&world).await;
        let text = async |path: &str| {
            let url = format!("{}{path}", world.admin_url());
            world.client().get(url).bearer_auth(world.token()).send().await.unwrap().text().await.unwrap()
        };
        let fleet = text("/").await;
        assert!(fleet.contains(VIN) && fleet.contains("offered") && !fleet.contains("<script"));
        assert!(text(&format!("/vehicles/{VIN}")).await.contains("bcm-a1"));
        assert!(text(&format!("/campaigns/{campaign}")).await.contains("running"));
        let metrics = text("/metrics").await;
        assert!(metrics.contains("pitstop_manifests_taken_total 2"), "{metrics}");
        assert!(metrics.contains("state=\"offered\"} 1"), "{metrics}");
        let document = world.get("/api/openapi.json").await;
        for path in ["/api/v1/bundles", "/api/v1/campaigns/{id}/pause", "/api/v1/vehicles/{vin}/timeline"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        assert!(
            document["paths"]["/api/v1/bundles"]["post"].is_object()
                && document["paths"]["/api/v1/bundles"]["get"].is_object()
        );
        let audit = world.get("/api/v1/audit").await;
        assert_eq!(audit["first_broken"], Value::Null);
        let actions: Vec<&str> =
            audit["entries"].as_array().unwrap().iter().filter_map(|e| e["action"].as_str()).collect();
        for action in ["upload", "publish", "register", "create-campaign", "campaign", "open-stage"] {
            assert!(actions.contains(&action), "{action}: {actions:?}");
        }
    });
}

#[test]
fn a_second_start_finds_everything_and_metadata_versions_only_grow() {
    many().block_on(async {
        let world = World::new().await;
        let (mut device, _, update) = offered(&world).await;
        let dir = world.backend.dir.clone();
        let settings = world.backend.settings.clone();
        let clock = world.backend.clock.clone();
        let vin = Vin::new(VIN).unwrap();
        let role = pitstop_backend::model::Role::Targets;
        let before = world.backend.repo.director_file(&vin, role, None).await.unwrap().unwrap().version;
        let (again, _hints) = pitstop_backend::Backend::open(dir, settings, clock).await.unwrap();
        let manifest = device.manifest(world.now());
        let answer = again.take_manifest(&device.id, &manifest).await.unwrap();
        assert_eq!(answer.update.as_deref(), Some(update.as_str()));
        assert!(answer.targets_version > before);
    });
}
