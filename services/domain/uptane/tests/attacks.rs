//! The attacks of the Uptane standard's threat list, one test each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use pitstop_types::{ReleaseCounter, Vin};
use pitstop_uptane::{
    Envelope, ImageTarget, MAX_IMAGE_TARGETS, MAX_SMALL, PairingRole, Repository, Role, Scheme, SignError, Signer,
    Targets, Vehicle, Verification, VerifyError, sign, strict,
};
use serde_json::json;
use world::*;

const BOTH: [Repository; 2] = [Repository::Director, Repository::Image];

#[test]
fn a_good_cycle_decides_target_and_fallback_of_each_ecu() {
    for scheme in [Scheme::Ed25519, Scheme::EcdsaP256] {
        let world = World::with(scheme);
        let mut trace = Vec::new();
        let (result, generation) = world.traced(&world.initial(), vehicle(), NOW, &mut trace);
        let decision = result.unwrap().decision.unwrap();
        assert_eq!(decision.ecus.len(), 2);
        let bcm = decision.ecu(&ecu("bcm")).unwrap();
        assert_eq!((bcm.target.version.as_str(), bcm.target.counter), ("2.0.0", ReleaseCounter(4)));
        assert_eq!(bcm.fallback.as_ref().unwrap().version.as_str(), "1.0.0");
        let one = |repo| {
            ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"].map(|file| format!("{repo} {file}"))
        };
        assert_eq!(trace, [one("director"), one("image")].concat());
        // Nothing new: only roots and timestamps are asked for, and the files stay as they are.
        trace.clear();
        let (again, same) = world.traced(&generation, vehicle(), NOW, &mut trace);
        assert!(again.unwrap().decision.is_some());
        assert_eq!((trace.len(), same), (4, generation));
    }
}

#[test]
fn a_director_that_wants_nothing_gives_no_decision() {
    let mut world = World::new();
    world.director.targets = Targets::director(n(1), at(NOW + DAY), vin(), None);
    let (result, _) = world.cycle(&world.initial(), vehicle(), NOW);
    assert_eq!(result.unwrap().decision, None);
}

#[test]
fn stored_bytes_are_the_served_bytes() {
    let world = World::new();
    let generation = world.trusted();
    let served = world.image.files(Repository::Image, None);
    assert_eq!(generation.image.get("targets").unwrap().as_bytes(), served["1.targets.json"]);
    assert_eq!(generation.image.get("timestamp").unwrap().as_bytes(), served["timestamp.json"]);
}

#[test]
fn without_the_time_nothing_is_valid() {
    let world = World::new();
    for now in [None, Some(0), Some(-5)] {
        assert_eq!(Verification::new(vehicle(), world.initial(), now).unwrap_err(), VerifyError::TimeUnknown);
    }
}

#[test]
fn replay_of_another_vehicles_files_is_refused_with_and_without_targets() {
    let other = Vehicle { vin: Vin::new("WP0ZZZ99ZTS392125").unwrap(), ..vehicle() };
    let mut world = World::new();
    assert_eq!(name(world.cycle(&world.initial(), other.clone(), NOW).0), "Replay");
    world.director.targets = Targets::director(n(1), at(NOW + DAY), vin(), None);
    assert_eq!(name(world.cycle(&world.initial(), other, NOW).0), "Replay");
    let mut world = World::new();
    world.director.targets.vin = None;
    assert_eq!(world.outcome(), "Replay");
}

#[test]
fn a_freeze_ends_when_any_role_expires() {
    for repository in BOTH {
        for role in Role::ALL {
            let mut world = World::new();
            let trusted = world.trusted();
            let expiry = world.repo(repository).expires[&role];
            assert!(world.cycle(&trusted, vehicle(), NOW + DAY - 1).0.is_ok());
            assert_eq!(name(world.cycle(&trusted, vehicle(), expiry).0), "Expired");
            // The same for a device that has stored nothing yet.
            assert_eq!(name(world.cycle(&world.initial(), vehicle(), expiry).0), "Expired");
        }
    }
}

#[test]
fn an_old_set_is_a_rollback_and_leaves_the_store_byte_for_byte() {
    for repository in BOTH {
        let mut world = World::new();
        let old = world.repo(repository).files(repository, None);
        world.repo(repository).bump();
        let trusted = world.trusted();
        world.serve =
            Some(Box::new(move |repo, file, bytes| if repo == repository { old.get(file).cloned() } else { bytes }));
        let (result, after) = world.cycle(&trusted, vehicle(), NOW);
        assert_eq!(name(result), "Rollback");
        assert_eq!(after, trusted);
    }
}

#[test]
fn each_role_going_back_one_version_is_a_rollback() {
    for repository in BOTH {
        for role in ["timestamp", "snapshot", "targets"] {
            let mut world = World::new();
            world.repo(repository).bump();
            let trusted = world.trusted();
            if role == "targets" {
                // Timestamp and snapshot go on; the targets they list go back.
                world.repo(repository).version += 1;
            }
            world.edit = Some(Box::new(move |repo, name, payload| {
                if repo == repository && name == role {
                    payload["version"] = json!(1);
                }
            }));
            if role == "snapshot" {
                // The timestamp goes on and lists a snapshot that went back.
                world.repo(repository).version += 1;
            }
            let (result, after) = world.cycle(&trusted, vehicle(), NOW);
            assert_eq!(name(result), "Rollback", "{repository} {role}");
            if role == "targets" {
                assert_eq!(after.director.get("targets"), trusted.director.get("targets"));
            } else {
                // CVE-2025-2888: a timestamp that lists an older snapshot is not kept either.
                assert_eq!(after, trusted);
            }
        }
    }
}

#[test]
fn a_role_that_vanishes_from_the_snapshot_is_refused() {
    let mut world = World::new();
    let supplier = key(Scheme::Ed25519);
    let role = Targets::image(n(1), at(NOW + DAY));
    world.image.targets.delegate("supplier", [supplier.public()], 1, &["gps/*"], false).unwrap();
    world.image.delegated.push(("supplier".into(), role, vec![supplier]));
    let trusted = world.trusted();
    world.image.version += 1;
    world.image.delegated.clear();
    assert_eq!(name(world.cycle(&trusted, vehicle(), NOW).0), "MixAndMatch");
}

#[test]
fn mixing_files_of_two_times_is_refused() {
    for repository in BOTH {
        for role in ["snapshot", "targets"] {
            let mut world = World::new();
            let old = world.repo(repository).files(repository, None);
            world.repo(repository).targets.header.expires = at(NOW + 2 * DAY);
            *world.repo(repository).expires.get_mut(&Role::Snapshot).unwrap() += 1;
            let file = format!("1.{role}.json");
            world.serve =
                Some(Box::new(
                    move |repo, name, bytes| {
                        if repo == repository && name == file { old.get(name).cloned() } else { bytes }
                    },
                ));
            assert_eq!(world.refusal(), "MixAndMatch", "{repository} {role}");
        }
    }
}

#[test]
fn the_same_timestamp_version_with_other_content_is_left_alone() {
    let mut world = World::new();
    let trusted = world.trusted();
    world.director.expires.insert(Role::Timestamp, NOW + 30 * DAY);
    let (result, after) = world.cycle(&trusted, vehicle(), NOW);
    assert!(result.is_ok());
    assert_eq!(after, trusted);
    assert_eq!(name(world.cycle(&trusted, vehicle(), NOW + DAY).0), "Expired");
}

#[test]
fn one_repositorys_files_do_not_pass_for_the_others() {
    let mut world = World::new();
    let image = world.image.files(Repository::Image, None);
    world.serve = Some(Box::new(
        move |repo, file, bytes| if repo == Repository::Director { image.get(file).cloned() } else { bytes },
    ));
    assert_eq!(world.refusal(), "UnmetThreshold");
    // Even with the same keys: the root is bound to its repository.
    let world = World::new();
    let root = String::from_utf8(world.image.roots[0].bytes.clone()).unwrap();
    let confused = pitstop_uptane::Generation::initial(root.clone(), root);
    assert_eq!(name(world.cycle(&confused, vehicle(), NOW).0), "StoreCorrupt");
}

#[test]
fn a_director_alone_can_install_nothing() {
    let mut world = World::new();
    let path = "bcm/9.raucb";
    world.director.targets.targets.remove("bcm/2.0.0.raucb");
    world.director.targets.list_director(path, directed("bcm", "9.0.0", 9, PairingRole::Target)).unwrap();
    assert_eq!(world.outcome(), "TargetMismatch");
}

#[test]
fn an_image_repository_alone_directs_nothing() {
    let mut world = World::new();
    world.image.targets.list_image("bcm/9.raucb", image("bcm", "9.0.0", 9)).unwrap();
    let (result, _) = world.cycle(&world.initial(), vehicle(), NOW);
    assert_eq!(result.unwrap().decision.unwrap().ecu(&ecu("bcm")).unwrap().target.version.as_str(), "2.0.0");
}

#[test]
fn an_old_image_that_both_repositories_list_is_refused_below_the_floor() {
    for part in ["tcu", "bcm"] {
        let world = World::new();
        let mut raised = vehicle();
        raised.floors.insert(ecu(part), ReleaseCounter(9));
        assert_eq!(name(world.cycle(&world.initial(), raised, NOW).0), "ImageRollback");
    }
    // The fallback may stand on the floor itself: equal is allowed.
    assert!(World::new().cycle(&World::new().initial(), vehicle(), NOW).0.is_err(), "other keys");
}

#[test]
fn a_directors_keys_alone_cannot_order_an_old_image_back_that_is_still_listed_above_the_floor() {
    // What is given as target and as fallback is the other way round; and the same counter under another version.
    for (counters, expected) in [((4, 3), "accepted"), ((3, 3), "accepted"), ((3, 4), "ImageRollback")] {
        let mut world = World::new();
        let pairs = [("2.0.0", counters.0, PairingRole::Target), ("1.0.0", counters.1, PairingRole::Fallback)];
        for (version, counter, role) in pairs {
            let path = format!("bcm/{version}.raucb");
            world.director.targets.targets.remove(&path);
            world.image.targets.targets.remove(&path);
            world.director.targets.list_director(&path, directed("bcm", version, counter, role)).unwrap();
            world.image.targets.list_image(&path, image("bcm", version, counter)).unwrap();
        }
        assert_eq!(world.outcome(), expected, "{counters:?}");
    }
    let mut swapped = World::new();
    swapped.edit = Some(Box::new(|repository, role, payload| {
        if repository == Repository::Director && role == "targets" {
            payload["targets"]["tcu/1.0.0.raucb"]["custom"]["role"] = json!("target");
            payload["targets"]["tcu/2.0.0.raucb"]["custom"]["role"] = json!("fallback");
        }
    }));
    let error = swapped.cycle(&swapped.initial(), vehicle(), NOW).0.unwrap_err();
    let (counter, running) = (ReleaseCounter(1), ReleaseCounter(2));
    assert_eq!(error, VerifyError::OlderImage { ecu: ecu("tcu"), counter, running });
    assert_eq!(swapped.refusal(), "ImageRollback");
}

#[test]
fn endless_and_oversized_files_are_refused_before_they_are_read() {
    for repository in BOTH {
        for file in ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"] {
            let mut world = World::new();
            world.serve = Some(Box::new(move |repo, name, bytes| {
                if repo == repository && name == file { Some(vec![b' '; 9 * 1024 * 1024]) } else { bytes }
            }));
            assert_eq!(world.refusal(), "Oversized", "{repository} {file}");
        }
    }
    let machine = Verification::new(vehicle(), World::new().initial(), Some(NOW)).unwrap();
    assert_eq!(machine.poll_fetch().unwrap().limit, MAX_SMALL);
}

/// Entries as short as they can be, in a file of about `length` bytes.
fn lean_targets(length: usize) -> Targets {
    let mut targets = Targets::image(n(1), at(NOW + DAY));
    // One entry has 320 bytes.
    for counter in 0..length as u64 / 320 {
        let lean = ImageTarget { sha512: None, ..image("b", "1", counter) };
        targets.list_image(&format!("b/{counter}"), lean).unwrap();
    }
    targets
}

#[test]
fn the_largest_genuine_targets_are_read_and_larger_ones_are_never_signed() {
    let signer = key(Scheme::Ed25519);
    let file = sign(&lean_targets(MAX_IMAGE_TARGETS - 2 * MAX_SMALL), &[&signer]).unwrap();
    assert!(file.bytes.len() > MAX_IMAGE_TARGETS - 4 * MAX_SMALL, "{}", file.bytes.len());
    Envelope::parse(&file.bytes, MAX_IMAGE_TARGETS).unwrap();
    assert!(matches!(sign(&lean_targets(2 * MAX_IMAGE_TARGETS), &[&signer]), Err(SignError::Refused(_))));
}

#[test]
fn few_bytes_that_stand_for_much_memory_are_refused() {
    let mut world = World::new();
    world.edit = Some(Box::new(|repository, role, payload| {
        if repository == Repository::Image && role == "targets" {
            payload["x-other"] = json!(vec![json!({}); strict::MAX_OBJECTS]);
        }
    }));
    assert_eq!(world.refusal(), "Malformed");
}

#[test]
fn a_missing_file_is_named_and_the_next_cycle_goes_on() {
    for repository in BOTH {
        for file in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
            let mut world = World::new();
            world.serve = Some(Box::new(move |repo, name, bytes| bytes.filter(|_| repo != repository || name != file)));
            let (result, half) = world.cycle(&world.initial(), vehicle(), NOW);
            assert_eq!(name(result), "Missing");
            world.serve = None;
            // Nothing was bumped: an interrupted cycle resumes with the same versions (a stored snapshot is not "complete").
            assert!(world.cycle(&half, vehicle(), NOW).0.unwrap().decision.is_some(), "{repository} {file}");
        }
    }
}

#[test]
fn a_fast_forwarded_repository_recovers_by_a_root_with_new_keys() {
    const LAST: u64 = 1 << 53;
    for repository in BOTH {
        let mut world = World::new();
        let good = world.repo(repository).version;
        world.repo(repository).version = LAST;
        world.repo(repository).targets.header.version = n(LAST);
        let trusted = world.trusted();
        world.repo(repository).version = good + 1;
        world.repo(repository).targets.header.version = n(2);
        assert_eq!(name(world.cycle(&trusted, vehicle(), NOW).0), "Rollback");
        let repo = world.repo(repository);
        repo.keys.timestamp = key(Scheme::Ed25519);
        repo.keys.snapshot = key(Scheme::Ed25519);
        let root = repo.next_root(repository, &[]);
        repo.roots.push(root);
        // Also when the first cycle with the new root ends early: the root is kept then, and what it outdates is gone.
        world.serve = Some(Box::new(|_, file, bytes| bytes.filter(|_| file.contains("root"))));
        let (result, half) = world.cycle(&trusted, vehicle(), NOW);
        assert_eq!(name(result), "Missing");
        world.serve = None;
        for state in [trusted, half] {
            let (result, after) = world.cycle(&state, vehicle(), NOW);
            assert!(result.is_ok(), "{repository}: {result:?}");
            assert!(world.cycle(&after, vehicle(), NOW).0.is_ok());
        }
    }
}

#[test]
fn a_version_beyond_what_json_keeps_is_refused_when_it_is_read() {
    for version in [json!((1_u64 << 53) + 1), json!(u64::MAX), json!(0), json!(-1), json!(1.5), json!("1"), json!(null)]
    {
        let mut world = World::new();
        world.edit = Some(Box::new(move |repo, role, payload| {
            if repo == Repository::Director && role == "timestamp" {
                payload["version"] = version.clone();
            }
        }));
        assert_eq!(world.refusal(), "Malformed");
    }
}

#[test]
fn a_damaged_store_fails_closed() {
    let world = World::new();
    let trusted = world.trusted();
    let text = serde_json::to_string(&trusted).unwrap();
    let spoilt = text.replacen("bcm/2.0.0", "bcm/3.0.0", 1);
    let spoilt = serde_json::from_str(&spoilt).unwrap();
    assert_eq!(name(world.cycle(&spoilt, vehicle(), NOW).0), "StoreCorrupt");
    let empty = serde_json::from_str(r#"{"director":{},"image":{}}"#).unwrap();
    assert_eq!(name(world.cycle(&empty, vehicle(), NOW).0), "StoreCorrupt");
}

#[test]
fn no_flipped_byte_of_any_served_file_is_accepted() {
    for repository in BOTH {
        for role in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
            let length = World::new().repo(repository).files(repository, None)[role].len();
            let mut world = World::new();
            let initial = world.initial();
            for index in (0..length).step_by(17) {
                world.serve = Some(Box::new(move |repo, name, bytes| {
                    let mut bytes = bytes?;
                    if repo == repository
                        && name == role
                        && let Some(byte) = bytes.get_mut(index)
                    {
                        *byte ^= 0x01;
                    }
                    Some(bytes)
                }));
                assert!(world.cycle(&initial, vehicle(), NOW).0.is_err(), "{repository} {role} byte {index}");
            }
        }
    }
}

#[test]
fn an_order_past_its_day_or_too_far_ahead_is_refused() {
    for (install_by, expected) in
        [(NOW, "InstallBy"), (NOW + 30 * DAY + 1, "InstallBy"), (NOW + 30 * DAY, "accepted"), (NOW + 1, "accepted")]
    {
        let mut world = World::new();
        world.director.targets.order.as_mut().unwrap().install_by = install_by;
        assert_eq!(world.outcome(), expected);
    }
}

#[test]
fn a_floor_that_a_release_demands_comes_with_the_approval() {
    let mut world = World::new();
    world.edit = Some(Box::new(|_, role, payload| {
        if role == "targets" {
            payload["targets"]["bcm/2.0.0.raucb"]["custom"]["shall_match"]["security_floor"] = json!(4);
        }
    }));
    let (result, _) = world.cycle(&world.initial(), vehicle(), NOW);
    let approval = result.unwrap();
    assert_eq!(approval.floors, [(ecu("bcm"), ReleaseCounter(4))].into());
    assert!(approval.decision.is_some());
    world.edit = Some(Box::new(|_, role, payload| {
        if role == "targets" {
            payload["targets"]["bcm/2.0.0.raucb"]["custom"]["shall_match"]["security_floor"] = json!(5);
        }
    }));
    assert_eq!(world.refusal(), "TargetMismatch");
}

#[test]
fn what_is_stored_may_be_expired_if_what_comes_is_not() {
    for repository in BOTH {
        for role in Role::ALL {
            let mut world = World::new();
            let repo = world.repo(repository);
            repo.expires.insert(role, NOW + 10);
            repo.targets.header.expires = at(if role == Role::Targets { NOW + 10 } else { NOW + 2 * DAY });
            repo.roots.clear();
            let root = repo.next_root(repository, &[]);
            repo.roots.push(root);
            let trusted = world.trusted();
            let later = NOW + 20;
            // Stored, and served to a device that has nothing stored.
            for state in [&trusted, &world.initial()] {
                assert_eq!(name(world.cycle(state, vehicle(), later).0), "Expired", "{repository} {role}");
            }
            let repo = world.repo(repository);
            repo.expires.insert(role, later + DAY);
            repo.targets.header.expires = at(later + DAY);
            repo.bump();
            if role == Role::Root {
                let root = repo.next_root(repository, &[]);
                repo.roots.push(root);
            }
            assert_eq!(name(world.cycle(&trusted, vehicle(), later).0), "accepted", "{repository} {role}");
        }
    }
}

#[test]
fn a_bundle_for_two_ecus_and_one_that_stays_are_paired_one_by_one() {
    let mut world = World::new();
    let mut vehicle = vehicle();
    vehicle.ecus.insert(ecu("twin"), hardware("bcm-a1"));
    let both = |role| pitstop_uptane::EcuPairing { hardware_id: hardware("bcm-a1"), role };
    let targets = &mut world.director.targets.targets;
    for path in ["bcm/1.0.0.raucb", "bcm/2.0.0.raucb"] {
        targets.remove(path);
    }
    let mut one = directed("bcm", "1.0.0", 3, PairingRole::Fallback);
    one.ecus.insert(ecu("twin"), both(Some(PairingRole::Both)));
    world.director.targets.list_director("bcm/1.0.0.raucb", one).unwrap();
    let two = directed("bcm", "2.0.0", 4, PairingRole::Target);
    world.director.targets.list_director("bcm/2.0.0.raucb", two).unwrap();
    let (result, _) = world.cycle(&world.initial(), vehicle, NOW);
    let decision = result.unwrap().decision.unwrap();
    let versions = |name: &str| {
        let part = decision.ecu(&ecu(name)).unwrap();
        (part.target.version.to_string(), part.fallback.as_ref().unwrap().version.to_string())
    };
    assert_eq!(versions("bcm"), ("2.0.0".into(), "1.0.0".into()));
    assert_eq!(versions("twin"), ("1.0.0".into(), "1.0.0".into()));
}
