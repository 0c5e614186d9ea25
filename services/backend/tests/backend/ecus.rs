//! The list of a vehicle's ECUs, and its correction.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Device, VIN};
use crate::{offered, with_world};

fn listed(ids: &[&str]) -> Value {
    ids.iter().map(|id| json!({ "id": id, "hardware": format!("{id}-a1") })).collect()
}

async fn refusal(device: &mut Device, now: i64) -> String {
    let manifest = device.manifest(now);
    let (status, body) = device.put(manifest).await;
    assert_eq!(status, 422, "{body}");
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_list_that_no_manifest_could_equal_is_refused() {
    with_world(|world| async move {
        for list in [listed(&["bcm", "adas"]), listed(&["tcu", "bcm", "bcm"])] {
            let body = json!({ "vin": VIN, "ecus": list });
            assert_eq!(world.call(Method::POST, "/api/v1/vehicles", body).await.0, 400, "{list}");
        }
        let body = json!({ "vin": VIN, "ecus": listed(&["tcu", "bcm"]) });
        world.post("/api/v1/vehicles", body).await;
        let path = format!("/api/v1/vehicles/{VIN}/ecus");
        assert_eq!(world.call(Method::PUT, &path, listed(&["bcm"])).await.0, 400);
        assert_eq!(world.call(Method::PUT, "/api/v1/vehicles/WP0ZZZ99ZTS392125/ecus", listed(&["tcu"])).await.0, 404);
    });
}

#[test]
fn a_vehicle_with_another_ecu_is_believed_again_once_its_list_is_corrected() {
    with_world(|world| async move {
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        device.runs[2] = ("brakes".into(), Some("1.0".into()));
        assert_eq!(refusal(&mut device, world.now()).await, "EcuMissing");
        let (_, before) = device.get("/v1/device/next").await;
        let path = format!("/api/v1/vehicles/{VIN}/ecus");
        let (status, ecus) = world.call(Method::PUT, &path, listed(&["tcu", "bcm", "brakes"])).await;
        assert_eq!(status, 200, "{ecus}");
        let version =
            |id: &str| ecus.as_array().unwrap().iter().find(|ecu| ecu["ecu"] == id).unwrap()["version"].clone();
        assert_eq!(
            (version("bcm"), version("brakes")),
            ("1.0".into(), Value::Null),
            "what stays keeps what was reported"
        );
        assert_eq!(ecus.as_array().unwrap().len(), 3);
        let (_, after) = device.get("/v1/device/next").await;
        assert!(after["rev"].as_u64() > before["rev"].as_u64(), "it has to report");
        device.report(&world).await;
        let audit = world.get("/api/v1/audit").await;
        assert_eq!(audit["first_broken"], Value::Null);
        let entry =
            audit["entries"].as_array().unwrap().iter().find(|entry| entry["action"] == "correct-ecus").unwrap();
        assert_eq!(entry["detail"]["gone"], "adas (adas-a1)");
        // With no list at all the next manifest names them.
        device.runs[2] = ("adas".into(), Some("1.0".into()));
        assert_eq!(refusal(&mut device, world.now()).await, "EcuMissing");
        world.call(Method::PUT, &path, json!([])).await;
        device.report(&world).await;
    });
}

#[test]
fn a_vehicle_whose_list_was_corrected_is_waited_for_until_it_reports() {
    for list in [json!([]), listed(&["tcu", "brakes"])] {
        with_world(|world| async move {
            let release = world.release().await;
            let mut device = world.device(VIN).await;
            device.report(&world).await;
            let path = format!("/api/v1/vehicles/{VIN}/ecus");
            assert_eq!(world.call(Method::PUT, &path, list).await.0, 200);
            let campaign = world.campaign(json!({ "name": "c", "release": release })).await;
            let (state, reason) = world.state(VIN).await;
            assert!(state == "planned" && reason.contains("not yet reported"), "{state}: {reason}");
            world.backend.tick().await.unwrap();
            assert_eq!(world.get(&format!("/api/v1/campaigns/{campaign}")).await["state"], "running");
            world.call(Method::PUT, &path, json!([])).await;
            assert!(device.report(&world).await.is_some());
            assert_eq!(world.state(VIN).await.0, "offered");
        });
    }
}

#[test]
fn an_ecu_with_other_hardware_is_another_ecu() {
    with_world(|world| async move {
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        let mut list = listed(&["tcu", "bcm", "adas"]);
        list[1]["hardware"] = "bcm-b2".into();
        let (status, ecus) = world.call(Method::PUT, &format!("/api/v1/vehicles/{VIN}/ecus"), list).await;
        assert_eq!(status, 200, "{ecus}");
        let bcm = ecus.as_array().unwrap().iter().find(|ecu| ecu["ecu"] == "bcm").unwrap();
        assert_eq!((bcm["hardware"].as_str(), &bcm["version"]), (Some("bcm-b2"), &Value::Null));
    });
}

#[test]
fn an_ecu_on_which_an_update_is_under_way_stays() {
    with_world(|world| async move {
        let (mut device, _, update) = offered(&world).await;
        let path = format!("/api/v1/vehicles/{VIN}/ecus");
        let (status, body) = world.call(Method::PUT, &path, listed(&["tcu", "adas"])).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (409, Some("conflict")));
        device.tell(&update, json!({ "phase": "stopped", "result": "declined" })).await;
        assert_eq!(world.call(Method::PUT, &path, listed(&["tcu", "adas"])).await.0, 200);
    });
}
