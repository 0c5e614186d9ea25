//! Who may speak as which vehicle.

use pitstop_backend::model::{Claim, Vehicle};
use pitstop_backend::store::Change;
use pitstop_types::{Digest, EcuId, Vin};
use reqwest::Method;
use serde_json::json;

use crate::support::{Device, VIN, answer, tls};
use crate::{OTHER, offered, with_world};

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
fn a_claim_is_good_for_one_vehicle_and_one_device_and_a_new_device_replaces_the_old() {
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
        let (_, second_device) = Device::asking(VIN, token);
        assert_eq!(world.provision(&second_device).await.0, 403);
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
fn a_device_that_lost_the_answer_asks_again_and_no_second_device_is_made() {
    with_world(|world| async move {
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let (device, request) = Device::asking(VIN, claim["claim_token"].as_str().unwrap());
        let (_, lost) = world.provision(&request).await;
        // Another request, of the same key.
        let again = device.asking_again(&request);
        assert_ne!(again["csr_pem"], request["csr_pem"]);
        let (status, answer) = world.provision(&again).await;
        assert_eq!((status.as_u16(), &answer["device_id"]), (200, &lost["device_id"]));
        let mut device = device.provisioned(&answer);
        device.report(&world).await;
        let vin = Vin::new(VIN).unwrap();
        let before = world.backend.repo.vehicle(&vin).await.unwrap().unwrap();
        assert_eq!(world.provision(&again).await.0, 200);
        let after = world.backend.repo.vehicle(&vin).await.unwrap().unwrap();
        assert_eq!(Vehicle { last_seen: before.last_seen, ..after }, before, "counters stay");
        device.report(&world).await;
        let events = world.backend.repo.events(&vin, 100).await.unwrap();
        let texts: Vec<&str> = events.iter().filter(|e| e.kind == "provisioned").map(|e| e.text.as_str()).collect();
        assert_eq!(texts, ["the same device asked again", "the same device asked again", "first device"]);
        let log = world.backend.repo.audit(0, 100).await.unwrap();
        let actions: Vec<&str> = log.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["register", "provision", "provision-again", "provision-again"]);
    });
}

#[test]
fn a_used_claim_is_refused_to_other_keys_and_after_its_time_and_to_a_device_that_was_replaced() {
    with_world(|world| async move {
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let token = claim["claim_token"].as_str().unwrap();
        let (_, request) = Device::asking(VIN, token);
        let (_, foreign) = Device::asking(VIN, token);
        assert_eq!(world.provision(&request).await.0, 200);
        for part in ["csr_pem", "identity"] {
            let mut mixed = request.clone();
            mixed[part] = foreign[part].clone();
            assert_eq!(world.provision(&mixed).await.0, 403, "{part}");
        }
        let mut no_request = request.clone();
        no_request["csr_pem"] = "x".into();
        assert_eq!(world.provision(&no_request).await.0, 403);
        world.pass(8 * 86_400);
        assert_eq!(world.provision(&request).await.0, 403, "the token has expired");
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let (_, request) = Device::asking(VIN, claim["claim_token"].as_str().unwrap());
        assert_eq!(world.provision(&request).await.0, 200);
        world.device(VIN).await;
        assert_eq!(world.provision(&request).await.0, 403, "another device is in its place");
    });
}

#[test]
fn a_blocked_device_gets_no_certificate_again() {
    with_world(|world| async move {
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let (_, request) = Device::asking(VIN, claim["claim_token"].as_str().unwrap());
        assert_eq!(world.provision(&request).await.0, 200);
        let path = format!("/api/v1/vehicles/{VIN}/authorisation");
        world.post(&path, json!({ "authorised": false, "reason": "stolen" })).await;
        let (status, body) = world.provision(&request).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("not-authorised")));
        world.post(&path, json!({ "authorised": true, "reason": "found" })).await;
        assert_eq!(world.provision(&request).await.0, 200);
    });
}

#[test]
fn a_token_used_before_its_device_was_kept_stays_used() {
    with_world(|world| async move {
        let claim = world.post("/api/v1/vehicles", json!({ "vin": VIN })).await;
        let (_, request) = Device::asking(VIN, claim["claim_token"].as_str().unwrap());
        let old = Claim {
            token_hash: Digest::of(b"old token").to_string(),
            vin: Vin::new(VIN).unwrap(),
            expires_at: world.now() + 1000,
            used_at: Some(world.now()),
            issued: None,
        };
        world.backend.repo.apply(vec![Change::AddClaim(old)]).await.unwrap();
        let mut again = request.clone();
        again["token"] = "old token".into();
        assert_eq!(world.provision(&again).await.0, 403);
        assert_eq!(world.provision(&request).await.0, 200);
    });
}
