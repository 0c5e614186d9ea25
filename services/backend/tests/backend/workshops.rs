//! Packages for workshops: what is in one, as a vehicle judges it, and how one is withdrawn.

use std::collections::BTreeMap;
use std::path::Path;

use pitstop_backend::offline::{Package, PackageOptions};
use pitstop_bundle::package::{Contents, Member, Side, TAR_BLOCK, padding};
use pitstop_types::{EcuId, HardwareId, Vin};
use pitstop_uptane::{Approval, Generation, OfflineFiles, Vehicle, VerifyError, verify_offline};
use serde_json::json;

use crate::support::{VIN, World, facts};
use crate::with_world;

const DAY: u64 = 86_400;

async fn release(world: &World, version: &str, counter: u64) -> String {
    let (_, bundle) = world.try_upload(&world.tcu_bundle(version, counter)).await;
    let body = json!({ "name": version, "bundles": [bundle["id"]], "facts": facts() });
    let id = world.post("/api/v1/releases", body).await["id"].as_str().unwrap().to_owned();
    world.post(&format!("/api/v1/releases/{id}/publish"), json!({})).await;
    id
}

fn options(world: &World, release: &str, name: &str) -> PackageOptions {
    PackageOptions {
        release: release.to_owned(),
        keys: world.backend.dir.offline_keys(),
        vin: None,
        lifetime_secs: 30 * DAY,
        out: world.folder.path().join(name),
    }
}

/// The metadata, and the bundle's bytes.
fn unpack(path: &Path) -> (OfflineFiles, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let mut contents = Contents::new(bytes.len() as u64).unwrap();
    let (mut files, mut rest) = (OfflineFiles::default(), bytes.as_slice());
    loop {
        let (block, behind) = rest.split_first_chunk::<TAR_BLOCK>().unwrap();
        let member = contents.header(block).unwrap();
        let (data, behind) = behind.split_at(member.length() as usize);
        rest = &behind[padding(member.length()) as usize..];
        match member {
            Member::Metadata { side: Side::Director, name, .. } => files.director.insert(name, data.to_vec()),
            Member::Metadata { side: Side::Image, name, .. } => files.image.insert(name, data.to_vec()),
            Member::Bundle { .. } => {
                assert!(rest.iter().all(|&byte| byte == 0));
                return (files, data.to_vec());
            }
        };
    }
}

fn vehicle() -> Vehicle {
    Vehicle {
        vin: Vin::new(VIN).unwrap(),
        ecus: BTreeMap::from([(EcuId::tcu(), HardwareId::new("tcu-a1").unwrap())]),
        floors: BTreeMap::new(),
    }
}

fn factory(world: &World) -> Generation {
    let root = |name| String::from_utf8(world.backend.roots[name].clone()).unwrap();
    Generation::initial(root("director"), root("image"))
}

fn judge(world: &World, trusted: &Generation, package: &Package) -> (Result<Approval, VerifyError>, Generation) {
    let (files, _) = unpack(&package.file);
    let (result, generation) = verify_offline(&vehicle(), trusted.clone(), &files, Some(world.now()));
    (result.map(|approval| approval.into_inner()), generation)
}

#[test]
fn a_package_is_what_a_vehicle_takes_without_a_network() {
    with_world(|world| async move {
        let release = release(&world, "5.1.0", 2).await;
        let package = world.backend.offline_package(&options(&world, &release, "one.tar")).await.unwrap();
        assert_eq!((package.version.as_str(), package.expires), ("5.1.0", world.now() + 30 * DAY as i64));
        let (files, bundle) = unpack(&package.file);
        assert_eq!(bundle, std::fs::read(world.folder.path().join("tcu-5.1.0.raucb")).unwrap());
        assert!(files.director.contains_key("1.root.json") && files.image.contains_key("1.root.json"));
        let (approval, _) = judge(&world, &factory(&world), &package);
        let decision = approval.unwrap().decision.unwrap();
        assert_eq!((decision.update, decision.ecus.len()), (package.update.clone(), 1));
        assert!(package.update.is_workshop());
        // Vehicles on the road are told which packages are good.
        let device = world.device(VIN).await;
        let (_, served) = device.get("/v1/device/metadata/director/offline-snapshot.json").await;
        let packed: serde_json::Value = serde_json::from_slice(&files.director["offline-snapshot.json"]).unwrap();
        assert_eq!(served, packed);
    });
}

#[test]
fn the_next_package_for_the_same_hardware_withdraws_the_one_before() {
    with_world(|world| async move {
        let release = release(&world, "5.1.0", 2).await;
        let first = world.backend.offline_package(&options(&world, &release, "one.tar")).await.unwrap();
        world.pass(10);
        let second = world.backend.offline_package(&options(&world, &release, "two.tar")).await.unwrap();
        let (result, after) = judge(&world, &factory(&world), &second);
        result.unwrap();
        assert!(matches!(judge(&world, &after, &first).0, Err(VerifyError::Rollback { .. })));
        world.pass(31 * DAY as i64);
        assert!(matches!(judge(&world, &after, &second).0, Err(VerifyError::Expired { .. })));
    });
}

#[test]
fn without_the_offline_keys_or_a_published_bundle_there_is_no_package() {
    with_world(|world| async move {
        let release = release(&world, "5.1.0", 2).await;
        let mut wrong = options(&world, &release, "one.tar");
        wrong.keys = world.backend.dir.keys();
        assert!(world.backend.offline_package(&wrong).await.is_err());
        assert!(world.backend.offline_package(&options(&world, "r-none", "two.tar")).await.is_err());
        let (_, bundle) = world.try_upload(&world.tcu_bundle("5.2.0", 3)).await;
        let body = json!({ "name": "draft", "bundles": [bundle["id"]], "facts": facts() });
        let draft = world.post("/api/v1/releases", body).await["id"].as_str().unwrap().to_owned();
        assert!(world.backend.offline_package(&options(&world, &draft, "three.tar")).await.is_err());
        assert!(!world.backend.dir.offline_snapshot().exists());
    });
}
