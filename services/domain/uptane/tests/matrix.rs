//! Mutations of every file, field by field: signed again by the right key with parents that agree, so that only the sense of
//! the field can refuse it; and the same left unsigned, which any field must refuse.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use pitstop_uptane::{Repository, Signer};
use serde_json::{Value, json};
use world::*;

const BOTH: [Repository; 2] = [Repository::Director, Repository::Image];

type Change = fn(&mut Value);

fn rename(map: &mut Value, from: &str, to: &str) {
    let map = map.as_object_mut().unwrap();
    let value = map.remove(from).unwrap();
    map.insert(to.to_owned(), value);
}

/// Changes that spoil any role's file.
const HEAD: [(&str, Change); 14] = [
    ("type of another role", |p| p["_type"] = json!("root")),
    ("type capitalised", |p| p["_type"] = json!("Targets")),
    ("no type", |p| drop(p.as_object_mut().unwrap().remove("_type"))),
    ("no version", |p| drop(p.as_object_mut().unwrap().remove("version"))),
    ("version 0", |p| p["version"] = json!(0)),
    ("version negative", |p| p["version"] = json!(-1)),
    ("version text", |p| p["version"] = json!("1")),
    ("version list", |p| p["version"] = json!([1])),
    ("no expiry", |p| drop(p.as_object_mut().unwrap().remove("expires"))),
    ("expiry number", |p| p["expires"] = json!(1)),
    ("expiry with offset", |p| p["expires"] = json!("2030-01-01T00:00:00+00:00")),
    ("spec version 2", |p| p["spec_version"] = json!("2.0.0")),
    ("no spec version", |p| drop(p.as_object_mut().unwrap().remove("spec_version"))),
    ("payload emptied", |p| *p = json!({})),
];

const TIMESTAMP: [(&str, Change); 6] = [
    ("no meta", |p| p["meta"] = json!({})),
    ("two entries", |p| p["meta"]["other.json"] = p["meta"]["snapshot.json"].clone()),
    ("renamed entry", |p| rename(&mut p["meta"], "snapshot.json", "Snapshot.json")),
    ("no hashes", |p| drop(p["meta"]["snapshot.json"].as_object_mut().unwrap().remove("hashes"))),
    ("hash in capitals", |p| {
        let upper = p["meta"]["snapshot.json"]["hashes"]["sha256"].as_str().unwrap().to_uppercase();
        p["meta"]["snapshot.json"]["hashes"]["sha256"] = json!(upper);
    }),
    ("snapshot version 0", |p| p["meta"]["snapshot.json"]["version"] = json!(0)),
];

const SNAPSHOT: [(&str, Change); 4] = [
    ("targets not listed", |p| p["meta"] = json!({})),
    ("targets under another name", |p| rename(&mut p["meta"], "targets.json", "targets")),
    ("targets version text", |p| p["meta"]["targets.json"]["version"] = json!("1")),
    ("meta a list", |p| p["meta"] = json!([])),
];

const BCM: &str = "bcm/2.0.0.raucb";

/// Changes of a targets file, the refusal in the Director's file, and in the Image repository's.
const TARGETS: [(&str, Change, &str, &str); 19] = [
    ("no targets", |p| drop(p.as_object_mut().unwrap().remove("targets")), "Malformed", "Malformed"),
    ("targets emptied", |p| p["targets"] = json!({}), "Malformed", "TargetMismatch"),
    ("length", |p| p["targets"][BCM]["length"] = json!(1), "TargetMismatch", "TargetMismatch"),
    ("length negative", |p| p["targets"][BCM]["length"] = json!(-1), "Malformed", "Malformed"),
    ("no length", |p| drop(p["targets"][BCM].as_object_mut().unwrap().remove("length")), "Malformed", "Malformed"),
    ("hash", |p| p["targets"][BCM]["hashes"]["sha256"] = json!("00".repeat(32)), "TargetMismatch", "TargetMismatch"),
    ("sha512", |p| p["targets"][BCM]["hashes"]["sha512"] = json!("00".repeat(64)), "TargetMismatch", "TargetMismatch"),
    (
        "sha512 in capitals",
        |p| p["targets"][BCM]["hashes"]["sha512"] = json!("AB".repeat(64)),
        "Malformed",
        "Malformed",
    ),
    ("sha512 short", |p| p["targets"][BCM]["hashes"]["sha512"] = json!("ab"), "Malformed", "Malformed"),
    ("no hashes", |p| drop(p["targets"][BCM].as_object_mut().unwrap().remove("hashes")), "Malformed", "Malformed"),
    ("hashes emptied", |p| p["targets"][BCM]["hashes"] = json!({}), "Malformed", "Malformed"),
    ("unknown hash only", |p| p["targets"][BCM]["hashes"] = json!({"md5": "00"}), "Malformed", "Malformed"),
    ("no custom", |p| drop(p["targets"][BCM].as_object_mut().unwrap().remove("custom")), "Malformed", "TargetMismatch"),
    (
        "counter",
        |p| p["targets"][BCM]["custom"]["shall_match"]["release_counter"] = json!(5),
        "TargetMismatch",
        "TargetMismatch",
    ),
    (
        "version",
        |p| p["targets"][BCM]["custom"]["shall_match"]["sw_version"] = json!("2.0.1"),
        "TargetMismatch",
        "TargetMismatch",
    ),
    (
        "manifest hash",
        |p| p["targets"][BCM]["custom"]["shall_match"]["rauc_manifest_hash"] = json!("00".repeat(32)),
        "TargetMismatch",
        "TargetMismatch",
    ),
    (
        "unknown field",
        |p| p["targets"][BCM]["custom"]["shall_match"]["rxswin"] = json!({}),
        "TargetMismatch",
        "TargetMismatch",
    ),
    ("path upwards", |p| rename(&mut p["targets"], BCM, "../bcm/2.raucb"), "Malformed", "Malformed"),
    ("path absolute", |p| rename(&mut p["targets"], BCM, "/bcm/2.raucb"), "Malformed", "Malformed"),
];

/// Changes that only the Director's file knows.
const DIRECTOR: [(&str, Change, &str); 22] = [
    ("other vin", |p| p["vin"] = json!("WP0ZZZ99ZTS392125"), "Replay"),
    ("no vin", |p| drop(p.as_object_mut().unwrap().remove("vin")), "Replay"),
    ("vin malformed", |p| p["vin"] = json!("x"), "Malformed"),
    ("no order", |p| drop(p.as_object_mut().unwrap().remove("x-pitstop")), "Malformed"),
    ("delegations", |p| p["delegations"] = json!({"keys": {}, "roles": []}), "Malformed"),
    ("facts missing", |p| drop(p["x-pitstop"].as_object_mut().unwrap().remove("facts")), "Malformed"),
    ("fact blank", |p| p["x-pitstop"]["facts"]["purpose"] = json!(" "), "Malformed"),
    ("update id a path", |p| p["x-pitstop"]["update"] = json!("../u"), "Malformed"),
    ("too many conditions", |p| p["x-pitstop"]["conditions"] = json!(vec!["a"; 33]), "Malformed"),
    ("install_by past", |p| p["x-pitstop"]["install_by"] = json!(1), "InstallBy"),
    ("install_by text", |p| p["x-pitstop"]["install_by"] = json!("soon"), "Malformed"),
    ("ecu unknown", |p| rename(&mut p["targets"][BCM]["custom"]["ecus"], "bcm", "ghost"), "BadEcuId"),
    ("ecu id a path", |p| rename(&mut p["targets"][BCM]["custom"]["ecus"], "bcm", "../bcm"), "Malformed"),
    ("no ecus", |p| p["targets"][BCM]["custom"]["ecus"] = json!({}), "Malformed"),
    ("ecu swapped", |p| rename(&mut p["targets"][BCM]["custom"]["ecus"], "bcm", "tcu"), "BadHardwareId"),
    ("hardware", |p| p["targets"][BCM]["custom"]["ecus"]["bcm"]["hardware_id"] = json!("bcm-b1"), "BadHardwareId"),
    ("two targets", |p| p["targets"]["bcm/1.0.0.raucb"]["custom"]["role"] = json!("target"), "BadEcuId"),
    ("two fallbacks", |p| p["targets"][BCM]["custom"]["role"] = json!("fallback"), "BadEcuId"),
    ("fallback alone", |p| drop(p["targets"].as_object_mut().unwrap().remove(BCM)), "BadEcuId"),
    ("role unknown", |p| p["targets"][BCM]["custom"]["role"] = json!("maybe"), "Malformed"),
    ("two roles for one ecu", |p| p["targets"][BCM]["custom"]["ecus"]["bcm"]["role"] = json!("both"), "BadEcuId"),
    (
        "shall_match hardware",
        |p| p["targets"][BCM]["custom"]["shall_match"]["hardware_ids"] = json!(["bcm-b1"]),
        "BadHardwareId",
    ),
];

fn edited(repository: Repository, role: &'static str, change: Change) -> String {
    let mut world = World::new();
    world.edit = Some(Box::new(move |repo, name, payload| {
        if repo == repository && name == role {
            change(payload);
        }
    }));
    world.refusal()
}

#[test]
fn every_header_field_of_every_role_is_judged() {
    for repository in BOTH {
        for role in ["timestamp", "snapshot", "targets"] {
            for (what, change) in HEAD {
                assert_eq!(edited(repository, role, change), "Malformed", "{repository} {role}: {what}");
            }
        }
    }
}

#[test]
fn every_field_of_timestamp_and_snapshot_is_judged() {
    for repository in BOTH {
        for (what, change) in TIMESTAMP {
            assert_eq!(edited(repository, "timestamp", change), "Malformed", "{repository} timestamp: {what}");
        }
        for (what, change) in SNAPSHOT {
            assert_eq!(edited(repository, "snapshot", change), "Malformed", "{repository} snapshot: {what}");
        }
    }
}

#[test]
fn every_field_of_targets_is_judged_in_both_repositories() {
    for (what, change, director, image) in TARGETS {
        assert_eq!(edited(Repository::Director, "targets", change), director, "director: {what}");
        assert_eq!(edited(Repository::Image, "targets", change), image, "image: {what}");
    }
}

#[test]
fn every_field_of_the_directors_order_is_judged() {
    for (what, change, expected) in DIRECTOR {
        assert_eq!(edited(Repository::Director, "targets", change), expected, "{what}");
    }
}

#[test]
fn fields_that_nobody_knows_are_ignored_but_signed() {
    let mut world = World::new();
    world.edit = Some(Box::new(|_, _, payload| payload["x-other"] = json!({"a": [1, "\u{e9}\n\"\\"]})));
    assert_eq!(world.outcome(), "accepted");
    world.serve = Some(Box::new(|_, _, bytes| {
        Some(String::from_utf8(bytes?).unwrap().replace("x-other", "x-0ther").into_bytes())
    }));
    assert_ne!(world.outcome(), "accepted");
}

/// The same bytes with another payload and the old signature.
#[test]
fn no_field_can_be_changed_without_the_key() {
    let all = HEAD.iter().copied();
    let targets = TARGETS.iter().map(|&(what, change, _, _)| (what, change));
    for repository in BOTH {
        for (role, changes) in [
            ("timestamp.json", all.clone().chain(TIMESTAMP).collect::<Vec<_>>()),
            ("1.snapshot.json", all.clone().chain(SNAPSHOT).collect()),
            ("1.targets.json", all.clone().chain(targets.clone()).collect()),
        ] {
            for (what, change) in changes {
                let mut world = World::new();
                world.serve = Some(Box::new(move |repo, file, bytes| {
                    let mut whole: Value = serde_json::from_slice(&bytes?).unwrap();
                    if repo == repository && file == role {
                        change(&mut whole["signed"]);
                    }
                    Some(serde_json::to_vec(&whole).unwrap())
                }));
                // A file that grew is refused for its length already.
                let expected: &[&str] =
                    if role == "timestamp.json" { &["UnmetThreshold"] } else { &["MixAndMatch", "Oversized"] };
                let refusal = world.refusal();
                assert!(expected.contains(&refusal.as_str()), "{repository} {role}: {what}: {refusal}");
            }
        }
    }
}

#[test]
fn signatures_that_do_not_count_are_refused_by_name() {
    type Spoil = fn(&mut Value);
    let cases: [(&str, Spoil, &str); 10] = [
        ("none", |s| *s = json!([]), "Unsigned"),
        ("no list", |s| *s = json!({}), "Malformed"),
        ("twice", |s| *s = json!([s[0], s[0]]), "BadKeyId"),
        ("unknown key", |s| s[0]["keyid"] = json!("00".repeat(32)), "UnmetThreshold"),
        ("key id in capitals", |s| s[0]["keyid"] = json!("AB".repeat(32)), "BadKeyId"),
        ("key id short", |s| s[0]["keyid"] = json!("ab"), "BadKeyId"),
        ("empty", |s| s[0]["sig"] = json!(""), "UnmetThreshold"),
        ("not hexadecimal", |s| s[0]["sig"] = json!("zz"), "Malformed"),
        ("endless", |s| s[0]["sig"] = json!("ab".repeat(4000)), "Malformed"),
        ("seventeen", |s| *s = json!(vec![s[0].clone(); 17]), "Malformed"),
    ];
    for repository in BOTH {
        for (what, spoil, expected) in cases {
            let mut world = World::new();
            world.serve = Some(Box::new(move |repo, file, bytes| {
                let mut whole: Value = serde_json::from_slice(&bytes?).unwrap();
                if repo == repository && file == "timestamp.json" {
                    spoil(&mut whole["signatures"]);
                }
                Some(serde_json::to_vec(&whole).unwrap())
            }));
            assert_eq!(world.refusal(), expected, "{repository}: {what}");
        }
    }
}

#[test]
fn another_roles_key_does_not_sign_for_this_role() {
    for repository in BOTH {
        for other in 0..3 {
            let mut world = World::new();
            let repo = world.repo(repository);
            let timestamp = payload(&repo.files(repository, None)["timestamp.json"]);
            let signer: &dyn Signer = [&repo.keys.snapshot, &repo.keys.targets, &repo.keys.root[0]][other];
            let forged = envelope(&timestamp, &[signer]);
            world.serve = Some(Box::new(move |repo, file, bytes| {
                if repo == repository && file == "timestamp.json" { Some(forged.clone()) } else { bytes }
            }));
            assert_eq!(world.refusal(), "UnmetThreshold", "{repository} {other}");
        }
    }
}

#[test]
fn a_file_that_is_not_what_its_parent_lists_is_refused_even_where_the_parent_lists_no_hash() {
    fn listed<'p>(payload: &'p mut Value, file: &str) -> &'p mut Value {
        &mut payload["meta"][file]
    }
    type Listing = fn(&mut Value);
    let cases: [(&str, &str, Listing, &str); 6] = [
        ("timestamp", "snapshot.json", |m| m["version"] = json!(2), "MixAndMatch"),
        ("snapshot", "targets.json", |m| m["version"] = json!(2), "MixAndMatch"),
        ("snapshot", "targets.json", |m| *m = json!({ "version": 2 }), "MixAndMatch"),
        ("snapshot", "targets.json", |m| *m = json!({ "version": 1, "length": 60_000 }), "MixAndMatch"),
        ("snapshot", "targets.json", |m| *m = json!({ "version": 1, "length": 10 }), "Oversized"),
        ("snapshot", "targets.json", |m| *m = json!({ "version": 1 }), "accepted"),
    ];
    for repository in BOTH {
        for (parent, file, listing, expected) in cases {
            let mut world = World::new();
            world.edit = Some(Box::new(move |repo, role, payload| {
                if repo == repository && role == parent {
                    listing(listed(payload, file));
                }
            }));
            // The files are signed anew for each cycle, with Ed25519 to the same bytes.
            let first = world.repo(repository).files(repository, None)[&format!("1.{file}")].clone();
            world.serve = Some(Box::new(move |repo, name, bytes| {
                if repo == repository && name == format!("2.{file}") { Some(first.clone()) } else { bytes }
            }));
            assert_eq!(world.refusal(), expected, "{repository} {parent}: {file}");
        }
    }
}
