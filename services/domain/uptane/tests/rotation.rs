//! Roots: thresholds, rotation from N to N+1, and what a bad root is refused for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use pitstop_uptane::{Generation, MemorySigner, Repository, Role, RootBuilder, Scheme, SignedFile, Signer, sign};
use serde_json::{Value, json};
use world::*;

const BOTH: [Repository; 2] = [Repository::Director, Repository::Image];

fn keys(count: usize) -> Vec<MemorySigner> {
    (0..count).map(|_| key(Scheme::Ed25519)).collect()
}

/// A world whose `repository` has `count` root keys of which `threshold` must sign.
fn world_with(repository: Repository, count: usize, threshold: u64) -> World {
    let mut world = World::new();
    let repo = world.repo(repository);
    repo.keys.root = keys(count);
    repo.keys.root_threshold = threshold;
    repo.roots.clear();
    let root = repo.next_root(repository, &[]);
    repo.roots.push(root);
    world
}

/// A second root with new root keys, signed by the first `old` of the old keys and the first `new` of the new ones.
fn rotate(world: &mut World, repository: Repository, count: usize, threshold: u64, old: usize, new: usize) {
    let repo = world.repo(repository);
    let before = std::mem::replace(&mut repo.keys.root, keys(count));
    repo.keys.root_threshold = threshold;
    let root = repo.root(repository, n(2), at(NOW + 365 * DAY));
    let signers = before.iter().take(old).chain(repo.keys.root.iter().take(new)).map(|key| key as &dyn Signer);
    let signed = sign(&root, &signers.collect::<Vec<_>>()).unwrap();
    repo.roots.push(signed);
}

#[test]
fn a_new_root_needs_the_thresholds_of_the_old_one_and_of_itself() {
    for repository in BOTH {
        // old count and threshold, new count and threshold, old and new signatures, outcome
        for (old, new, signed, expected) in [
            ((1, 1), (1, 1), (1, 1), "accepted"),
            ((1, 1), (1, 1), (0, 1), "UnmetThreshold"),
            ((1, 1), (1, 1), (1, 0), "UnmetThreshold"),
            ((5, 3), (5, 3), (3, 3), "accepted"),
            ((5, 3), (5, 3), (2, 3), "UnmetThreshold"),
            ((5, 3), (5, 3), (3, 2), "UnmetThreshold"),
            ((1, 1), (5, 3), (1, 3), "accepted"),
            ((1, 1), (5, 3), (1, 2), "UnmetThreshold"),
            ((5, 3), (1, 1), (3, 1), "accepted"),
            ((5, 3), (1, 1), (2, 1), "UnmetThreshold"),
        ] {
            let mut world = world_with(repository, old.0, old.1);
            let initial = world.initial();
            rotate(&mut world, repository, new.0, new.1, signed.0, signed.1);
            let outcome = name(world.cycle(&initial, vehicle(), NOW).0);
            assert_eq!(outcome, expected, "{repository} {old:?} {new:?} {signed:?}");
        }
    }
}

#[test]
fn roots_are_followed_one_by_one_and_an_expired_one_between_does_not_matter() {
    let mut world = World::new();
    let initial = world.initial();
    for step in 0..3 {
        let repo = &mut world.image;
        repo.expires.insert(Role::Root, if step < 2 { NOW - DAY } else { NOW + DAY });
        let before = std::mem::replace(&mut repo.keys.root, keys(1));
        let root = repo.next_root(Repository::Image, &[&before[0]]);
        repo.roots.push(root);
    }
    let (result, after) = world.cycle(&initial, vehicle(), NOW);
    assert!(result.is_ok(), "{result:?}");
    assert!(after.image.get("root").unwrap().contains("\"version\":4"));
    // Without the last one the device ends on an expired root.
    world.image.roots.pop();
    assert_eq!(name(world.cycle(&initial, vehicle(), NOW).0), "Expired");
}

#[test]
fn a_gap_a_repetition_and_a_rollback_of_roots_are_refused() {
    for (version, expected) in [(3, "MixAndMatch"), (1, "Rollback"), ((1 << 53), "MixAndMatch")] {
        let mut world = World::new();
        let initial = world.initial();
        let repo = &world.director;
        let root = repo.root(Repository::Director, n(version), at(NOW + DAY));
        let signed = sign(&root, &[&repo.keys.root[0]]).unwrap();
        world.serve = Some(Box::new(move |repo, file, bytes| {
            if repo == Repository::Director && file == "2.root.json" { Some(signed.bytes.clone()) } else { bytes }
        }));
        let (result, after) = world.cycle(&initial, vehicle(), NOW);
        assert_eq!(name(result), expected);
        assert_eq!(after, initial);
    }
}

#[test]
fn a_root_that_makes_no_sense_is_refused_even_when_all_keys_signed_it() {
    type Spoil = fn(&mut Value);
    fn first_role(p: &mut Value) -> &mut Value {
        &mut p["roles"]["targets"]
    }
    let cases: [(&str, Spoil, &str); 13] = [
        ("threshold 0", |p| first_role(p)["threshold"] = json!(0), "Malformed"),
        ("threshold negative", |p| first_role(p)["threshold"] = json!(-1), "Malformed"),
        ("threshold above the keys", |p| first_role(p)["threshold"] = json!(2), "Malformed"),
        ("role missing", |p| drop(p["roles"].as_object_mut().unwrap().remove("targets")), "Malformed"),
        (
            "key listed twice",
            |p| first_role(p)["keyids"] = json!([first_role(p)["keyids"][0], first_role(p)["keyids"][0]]),
            "Malformed",
        ),
        ("no keys", |p| first_role(p)["keyids"] = json!([]), "Malformed"),
        ("key unknown", |p| first_role(p)["keyids"] = json!(["00".repeat(32)]), "Malformed"),
        (
            "key id is not the hash",
            |p| {
                let (id, key) =
                    p["keys"].as_object().unwrap().iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
                p["keys"][&"11".repeat(32)] = key;
                let _ = id;
            },
            "Malformed",
        ),
        ("not consistent", |p| p["consistent_snapshot"] = json!(false), "Malformed"),
        ("no binding", |p| drop(p.as_object_mut().unwrap().remove("x-uptane")), "RepositoryConfusion"),
        ("bound to nothing known", |p| p["x-uptane"]["repo"] = json!("other"), "Malformed"),
        ("type", |p| p["_type"] = json!("targets"), "Malformed"),
        ("bound to the other", |p| p["x-uptane"]["repo"] = json!("image"), "RepositoryConfusion"),
    ];
    for (what, spoil, expected) in cases {
        let mut world = World::new();
        let repo = &world.director;
        let mut root = serde_json::to_value(repo.root(Repository::Director, n(2), at(NOW + DAY))).unwrap();
        spoil(&mut root);
        let bytes = envelope(&root, &[&repo.keys.root[0]]);
        world.serve = Some(Box::new(move |repo, file, served| {
            if repo == Repository::Director && file == "2.root.json" { Some(bytes.clone()) } else { served }
        }));
        assert_eq!(world.refusal(), expected, "{what}");
    }
}

#[test]
fn one_key_under_two_ids_counts_once() {
    let mut world = World::new();
    let key = &world.director.keys.root[0];
    let (id, mut twin) = (key.public().id(), key.public().json().clone());
    twin["x-note"] = json!("the same key again");
    let twin = pitstop_uptane::PublicKey::from_json(&twin).unwrap();
    assert_ne!(twin.id(), id);
    let mut root = serde_json::to_value(world.director.root(Repository::Director, n(2), at(NOW + DAY))).unwrap();
    root["keys"][twin.id().to_string()] = twin.json().clone();
    root["roles"]["root"] = json!({ "keyids": [id, twin.id()], "threshold": 2 });
    let mut whole: Value = serde_json::from_slice(&envelope(&root, &[key])).unwrap();
    let mut second = whole["signatures"][0].clone();
    second["keyid"] = json!(twin.id());
    whole["signatures"].as_array_mut().unwrap().push(second);
    let bytes = serde_json::to_vec(&whole).unwrap();
    world.serve = Some(Box::new(move |repo, file, served| {
        if repo == Repository::Director && file == "2.root.json" { Some(bytes.clone()) } else { served }
    }));
    assert_eq!(world.refusal(), "UnmetThreshold");
}

#[test]
fn an_online_key_that_was_rotated_away_signs_nothing_more() {
    for repository in BOTH {
        for role in [Role::Timestamp, Role::Snapshot, Role::Targets] {
            let mut world = World::new();
            let trusted = world.trusted();
            let stolen = world.repo(repository).files(repository, None);
            let repo = world.repo(repository);
            let slot = match role {
                Role::Timestamp => &mut repo.keys.timestamp,
                Role::Snapshot => &mut repo.keys.snapshot,
                _ => &mut repo.keys.targets,
            };
            *slot = key(Scheme::Ed25519);
            let root = repo.next_root(repository, &[]);
            repo.roots.push(root);
            // The old set is still served beside the new root.
            let old = move |repo: Repository, file: &str, bytes: Option<Vec<u8>>| {
                if repo == repository && !file.contains("root") { stolen.get(file).cloned() } else { bytes }
            };
            world.serve = Some(Box::new(old));
            let (result, half) = world.cycle(&trusted, vehicle(), NOW);
            assert_eq!(name(result), "UnmetThreshold", "{repository} {role}");
            world.serve = None;
            world.repo(repository).bump();
            assert!(world.cycle(&half, vehicle(), NOW).0.is_ok(), "{repository} {role}");
        }
    }
}

#[test]
fn more_signatures_than_needed_and_a_bad_one_among_good_ones_do_no_harm() {
    let world = world_with(Repository::Director, 5, 3);
    let mut root: Value = serde_json::from_slice(&world.director.roots[0].bytes).unwrap();
    root["signatures"][0]["sig"] = json!("00".repeat(64));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let spoilt = Generation::initial(root.to_string(), text(&world.image.roots[0].bytes));
    assert_eq!(name(world.cycle(&spoilt, vehicle(), NOW).0), "accepted");
    for index in [1, 2] {
        root["signatures"][index]["sig"] = json!("00".repeat(64));
    }
    let spoilt = Generation::initial(root.to_string(), text(&world.image.roots[0].bytes));
    assert_eq!(name(world.cycle(&spoilt, vehicle(), NOW).0), "StoreCorrupt");
}

#[test]
fn an_endless_chain_of_roots_ends_the_asking_and_goes_on_next_time() {
    let mut world = World::new();
    let initial = world.initial();
    let repo = &mut world.director;
    for version in 2..=1100 {
        let root = repo.root(Repository::Director, n(version), at(NOW + DAY));
        repo.roots.push(SignedFile { version, ..sign(&root, &[&repo.keys.root[0]]).unwrap() });
    }
    let mut trace = Vec::new();
    let (result, after) = world.traced(&initial, vehicle(), NOW, &mut trace);
    assert!(result.is_ok());
    assert_eq!(trace.iter().filter(|line| line.starts_with("director") && line.ends_with("root.json")).count(), 1024);
    let (_, last) = world.cycle(&after, vehicle(), NOW);
    assert!(last.director.get("root").unwrap().contains("\"version\":1100,"));
}

#[test]
fn what_the_builder_makes_must_make_sense() {
    let key = key(Scheme::Ed25519);
    let builder = || RootBuilder::new(Repository::Image, n(1), at(NOW)).role(Role::Root, [key.public()], 1);
    assert!(builder().build().is_err(), "roles missing");
    let full = |threshold| {
        builder()
            .role(Role::Timestamp, [key.public()], 1)
            .role(Role::Snapshot, [key.public()], 1)
            .role(Role::Targets, [key.public()], threshold)
            .build()
    };
    assert!(full(1).is_ok());
    assert!(full(0).is_err());
    assert!(full(2).is_err());
}
