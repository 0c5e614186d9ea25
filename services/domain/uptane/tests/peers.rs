//! Files made by python-tuf (see `vectors/make.py`), read by us; and files made by us, for others to read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use std::collections::BTreeMap;

use pitstop_uptane::{Generation, Repository, Role, Targets, Verification};
use world::*;

const ROOT: &str = include_str!("vectors/root.json");
const TIMESTAMP: &str = include_str!("vectors/timestamp.json");
const SNAPSHOT: &str = include_str!("vectors/snapshot.json");
const TARGETS: &str = include_str!("vectors/targets.json");

#[test]
fn files_that_python_tuf_signed_with_three_kinds_of_keys_verify() {
    let mut world = World::new();
    world.director.targets = Targets::director(n(1), at(NOW + DAY), vin(), None);
    let director = world.director.files(Repository::Director, None);
    let image =
        BTreeMap::from([("timestamp.json", TIMESTAMP), ("5.snapshot.json", SNAPSHOT), ("7.targets.json", TARGETS)]);
    let director_root = String::from_utf8(director["1.root.json"].clone()).unwrap();
    let trusted = Generation::initial(director_root, ROOT.to_owned());
    let mut machine = Verification::new(vehicle(), trusted, Some(NOW)).unwrap();
    while let Some(fetch) = machine.poll_fetch() {
        let bytes = match fetch.repository {
            Repository::Director => director.get(&fetch.file).cloned(),
            Repository::Image => image.get(fetch.file.as_str()).map(|text| text.as_bytes().to_vec()),
        };
        machine.handle_file(bytes).unwrap_or_else(|error| panic!("{}: {error}", fetch.file));
    }
    let (approval, _) = machine.finish().unwrap();
    assert_eq!(approval.image_targets_version, 7);
}

/// The threshold is three of three: each signature in turn is needed.
#[test]
fn each_of_the_three_kinds_of_signatures_counts() {
    let director = World::new();
    let director_root = String::from_utf8(director.director.roots[0].bytes.clone()).unwrap();
    for index in 0..3 {
        let mut root: serde_json::Value = serde_json::from_str(ROOT).unwrap();
        let signature = root["signatures"][index]["sig"].as_str().unwrap().to_owned();
        let last = if signature.ends_with('0') { '1' } else { '0' };
        let spoilt = format!("{}{last}", &signature[..signature.len() - 1]);
        root["signatures"][index]["sig"] = serde_json::json!(spoilt);
        let trusted = Generation::initial(director_root.clone(), root.to_string());
        let error = Verification::new(vehicle(), trusted, Some(NOW)).unwrap_err();
        assert!(error.to_string().contains("2 good signatures"), "{error}");
    }
}

/// Writes a whole world for a look with other tools: `PITSTOP_WRITE_WORLD=DIR cargo test -p pitstop-uptane --test peers -- --ignored`.
#[test]
#[ignore = "writes files for other tools"]
#[allow(clippy::disallowed_methods, reason = "on request, for other tools")]
fn write_a_world() {
    let folder = std::path::PathBuf::from(std::env::var("PITSTOP_WRITE_WORLD").unwrap());
    let mut world = World::with(pitstop_uptane::Scheme::EcdsaP256);
    let supplier = key(pitstop_uptane::Scheme::Ed25519);
    let role = Targets::image(n(1), at(NOW + DAY));
    let public = pitstop_uptane::Signer::public(&supplier).clone();
    world.image.targets.delegate("supplier", [&public], 1, &["gps/*"], true).unwrap();
    world.image.delegated.push(("supplier".into(), role, vec![supplier]));
    for repository in [Repository::Director, Repository::Image] {
        world.repo(repository).expires.insert(Role::Timestamp, NOW + 300 * DAY);
        let below = folder.join(repository.as_str());
        std::fs::create_dir_all(&below).unwrap();
        for (name, bytes) in world.repo(repository).files(repository, None) {
            std::fs::write(below.join(name), bytes).unwrap();
        }
    }
}
