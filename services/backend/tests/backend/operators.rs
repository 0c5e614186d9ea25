//! What operators see and order.

use pitstop_types::Vin;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{VIN, World, answer};
use crate::{many, offered, with_world};

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
fn every_error_has_the_one_form_whoever_finds_it() {
    with_world(|world| async move {
        let (device, campaign, _) = offered(&world).await;
        let to = |method, path: &str| {
            world.client().request(method, format!("{}{path}", world.admin_url())).bearer_auth(world.token())
        };
        let pause = format!("/api/v1/campaigns/{campaign}/pause");
        let json = |body: &'static str| to(Method::POST, &pause).header("content-type", "application/json").body(body);
        let link = format!("{}/dl/{}?exp=x", world.public_url(), "0".repeat(64));
        for (request, status) in [
            (to(Method::GET, "/api/v1/vehicles?limit=x"), 400),
            (to(Method::GET, "/api/v1/audit?after=-1"), 400),
            (to(Method::GET, &format!("/api/v1/vehicles/{VIN}/eligibility")), 400),
            (to(Method::GET, "/api/v1/vehicles/%ff"), 400),
            (json("{"), 400),
            (json(r#"{"reason":1}"#), 400),
            (to(Method::POST, &pause).header("content-type", "text/plain").body("x"), 400),
            (to(Method::DELETE, &pause), 405),
            (to(Method::POST, "/healthz"), 405),
            (device.client.post(format!("{}/v1/device/next", device.url)), 405),
            (world.client().get(link), 400),
            (world.client().get(format!("{}/v1/provision", world.public_url())), 405),
        ] {
            let (url, method) =
                request.try_clone().unwrap().build().map(|r| (r.url().clone(), r.method().clone())).unwrap();
            let (found, answer) = answer(request).await;
            assert_eq!(found, status, "{method} {url}: {answer}");
            assert!(
                answer["error"]["code"].is_string() && answer["error"]["text"].is_string(),
                "{method} {url}: {answer}"
            );
        }
        assert_eq!(world.get(&format!("/api/v1/campaigns/{campaign}")).await["state"], "running");
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
