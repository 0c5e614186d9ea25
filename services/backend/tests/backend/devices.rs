//! Who may speak as which vehicle.

use pitstop_types::{EcuId, Vin};
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
