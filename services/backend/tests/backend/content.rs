//! Bundles, releases, and their delivery.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{World, answer, facts};
use crate::{many, offered, with_world};

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
