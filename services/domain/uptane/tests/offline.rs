//! The verification of a medium (PURE-2): what the offline roles may order, and what withdraws it again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use pitstop_types::UpdateId;
use pitstop_uptane::{
    Approval, Generation, MemorySigner, OfflineFiles, OfflineSnapshot, OfflineTargets, PairingRole, Repository, Scheme,
    SignedFile, Signer, VerifyError, sign, verify_offline,
};
use serde_json::json;
use world::{DAY, NOW, World, at, directed, n, order, vehicle, vin};

/// A workshop's medium and the repositories behind it.
struct Medium {
    world: World,
    version: u64,
    targets: OfflineTargets,
    expires: i64,
}

impl Medium {
    /// The new software for `tcu`, listed in the Image repository, for every vehicle.
    fn new() -> Self {
        let mut world = World::new();
        world.director.keys.offline = Some([world::key(Scheme::Ed25519), world::key(Scheme::Ed25519)]);
        world.director.roots = vec![];
        let root = world.director.next_root(Repository::Director, &[]);
        world.director.roots.push(root);
        let mut medium = Self { world, version: 1, targets: targets(1, None), expires: NOW + DAY };
        medium.direct();
        medium
    }

    fn direct(&mut self) {
        self.targets.list("tcu/2.0.0.raucb", directed("tcu", "2.0.0", 2, PairingRole::Target)).unwrap();
    }

    fn key(&self, which: usize) -> &MemorySigner {
        &self.world.director.keys.offline.as_ref().unwrap()[which]
    }

    fn signed_targets(&self) -> SignedFile {
        sign(&self.targets, &[self.key(1) as &dyn Signer]).unwrap()
    }

    fn files(&self) -> OfflineFiles {
        let targets = self.signed_targets();
        let listed = [("tcu", &targets)];
        let snapshot = OfflineSnapshot::new(n(self.version), at(self.expires), listed).unwrap();
        let snapshot = sign(&snapshot, &[self.key(0) as &dyn Signer]).unwrap();
        let mut files = OfflineFiles::default();
        files.director.insert("tcu.json".into(), targets.bytes);
        files.director.insert("offline-snapshot.json".into(), snapshot.bytes);
        for (repo, into) in [(&self.world.director, &mut files.director), (&self.world.image, &mut files.image)] {
            into.extend(repo.roots.iter().map(|root| (root.name("root"), root.bytes.clone())));
        }
        for (name, bytes) in self.world.image.files(Repository::Image, self.world.edit.as_ref()) {
            if let Some((_, plain)) = name.split_once('.').filter(|(version, _)| version.parse::<u64>().is_ok()) {
                files.image.entry(plain.to_owned()).or_insert(bytes);
            }
        }
        files
    }

    fn read(
        &self,
        files: &OfflineFiles,
        trusted: &Generation,
        now: i64,
    ) -> (Result<Approval, VerifyError>, Generation) {
        let (result, generation) = verify_offline(&vehicle(), trusted.clone(), files, Some(now));
        (result.map(|approval| approval.into_inner()), generation)
    }

    fn outcome(&self) -> &'static str {
        world::name(self.read(&self.files(), &self.world.initial(), NOW).0)
    }
}

fn targets(version: u64, vin: Option<pitstop_types::Vin>) -> OfflineTargets {
    let mut order = order();
    order.update = UpdateId::new("w-1").unwrap();
    OfflineTargets::new(n(version), at(NOW + DAY), vin, order)
}

/// What `edit` makes of one signed file, signed again by `key`.
fn resigned(bytes: &[u8], key: &MemorySigner, edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut payload = world::payload(bytes);
    edit(&mut payload);
    world::envelope(&payload, &[key])
}

#[test]
fn a_medium_orders_what_both_repositories_list() {
    let medium = Medium::new();
    let (approval, generation) = medium.read(&medium.files(), &medium.world.initial(), NOW);
    let decision = approval.unwrap().decision.unwrap();
    assert_eq!((decision.update.as_str(), decision.ecus.len()), ("w-1", 1));
    assert_eq!(decision.ecus[0].target.version.as_str(), "2.0.0");
    // The same medium again, and an online cycle behind it, which does not forget the offline snapshot.
    assert!(medium.read(&medium.files(), &generation, NOW).0.is_ok());
    let (online, after) = medium.world.cycle(&generation, vehicle(), NOW);
    online.unwrap();
    assert_eq!(after.director.get("offline-snapshot"), generation.director.get("offline-snapshot"));
}

#[test]
fn it_may_be_for_one_vehicle_and_then_no_other_takes_it() {
    let mut medium = Medium::new();
    medium.targets = targets(1, Some(vin()));
    medium.direct();
    assert_eq!(medium.outcome(), "accepted");
    medium.targets = targets(1, Some(pitstop_types::Vin::new("WP0ZZZ99ZTS392125").unwrap()));
    medium.direct();
    assert_eq!(medium.outcome(), "Replay");
}

#[test]
fn a_withdrawn_medium_is_refused_by_who_has_seen_the_newer_list() {
    let mut medium = Medium::new();
    let old = medium.files();
    medium.version = 2;
    medium.targets = targets(2, None);
    medium.direct();
    let (new, generation) = medium.read(&medium.files(), &medium.world.initial(), NOW);
    new.unwrap();
    let (result, after) = medium.read(&old, &generation, NOW);
    assert_eq!(world::name(result), "Rollback");
    assert_eq!(after, generation);
    // A list that goes back under a higher number is an attack of its own.
    let mut back = old.clone();
    let snapshot = resigned(&old.director["offline-snapshot.json"], medium.key(0), |file| file["version"] = json!(3));
    back.director.insert("offline-snapshot.json".into(), snapshot);
    assert_eq!(world::name(medium.read(&back, &generation, NOW).0), "Rollback");
    assert!(medium.read(&medium.files(), &generation, NOW).0.is_ok(), "and the good one still works");
}

#[test]
fn expiry_counts_for_both_offline_files_and_the_listing_and_not_for_the_image_snapshot() {
    let medium = Medium::new();
    let (files, trusted) = (medium.files(), medium.world.initial());
    assert_eq!(world::name(medium.read(&files, &trusted, NOW + DAY).0), "Expired");
    assert_eq!(world::name(verify_offline(&vehicle(), trusted, &files, None).0.map(|a| a.into_inner())), "TimeUnknown");
    let mut medium = Medium::new();
    medium.expires = NOW;
    assert_eq!(medium.outcome(), "Expired");
    let mut medium = Medium::new();
    medium.world.edit = Some(Box::new(|_, role, file| {
        if role == "snapshot" {
            file["expires"] = json!("2020-01-01T00:00:00Z");
        }
    }));
    assert_eq!(medium.outcome(), "accepted");
    medium.world.edit = Some(Box::new(|_, role, file| {
        if role == "targets" {
            file["expires"] = json!("2020-01-01T00:00:00Z");
        }
    }));
    assert_eq!(medium.outcome(), "Expired");
}

#[test]
fn no_other_role_speaks_for_the_offline_ones() {
    let medium = Medium::new();
    let (good, keys) = (medium.files(), &medium.world.director.keys);
    for (name, key) in [
        ("tcu.json", &keys.targets),
        ("tcu.json", medium.key(0)),
        ("offline-snapshot.json", &keys.snapshot),
        ("offline-snapshot.json", medium.key(1)),
    ] {
        let mut files = good.clone();
        files.director.insert(name.into(), resigned(&good.director[name], key, |_| {}));
        let (result, after) = medium.read(&files, &medium.world.initial(), NOW);
        assert_eq!(world::name(result), "UnmetThreshold", "{name}");
        assert!(medium.read(&good, &after, NOW).0.is_ok(), "{name}: the device is stuck");
    }
    // The right key under the online role's type.
    let mut files = good.clone();
    let typed =
        resigned(&good.director["offline-snapshot.json"], medium.key(0), |file| file["_type"] = json!("snapshot"));
    files.director.insert("offline-snapshot.json".into(), typed);
    assert_eq!(world::name(medium.read(&files, &medium.world.initial(), NOW).0), "Malformed");
    // A root without the roles knows no offline updates.
    let mut plain = Medium::new();
    plain.world.director = World::new().director;
    let files =
        OfflineFiles { director: good.director.clone(), image: plain.world.image.files(Repository::Image, None) };
    assert!(plain.read(&files, &plain.world.initial(), NOW).0.is_err());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    type Change = fn(&Medium, &mut OfflineFiles);
    let cases: &[(&str, Change, &str)] = &[
        ("no list", |_, files| drop(files.director.remove("offline-snapshot.json")), "Missing"),
        ("no targets", |_, files| drop(files.director.remove("tcu.json")), "Missing"),
        ("no image targets", |_, files| drop(files.image.remove("targets.json")), "Missing"),
        ("no image snapshot", |_, files| drop(files.image.remove("snapshot.json")), "Missing"),
        (
            "other content under the listed version",
            |medium, files| {
                let other = resigned(&files.director["tcu.json"], medium.key(1), |file| file["note"] = json!(1));
                files.director.insert("tcu.json".into(), other);
            },
            "MixAndMatch",
        ),
        (
            "a version ahead of the list",
            |medium, files| {
                let other = resigned(&files.director["tcu.json"], medium.key(1), |file| file["version"] = json!(9));
                files.director.insert("tcu.json".into(), other);
            },
            "MixAndMatch",
        ),
        ("the repositories swapped", |_, files| std::mem::swap(&mut files.director, &mut files.image), "Missing"),
    ];
    for (what, change, expected) in cases {
        let medium = Medium::new();
        let mut files = medium.files();
        change(&medium, &mut files);
        let result = medium.read(&files, &medium.world.initial(), NOW).0;
        let name = world::name(result);
        assert!(name == *expected || (*what == "the repositories swapped" && name != "accepted"), "{what}: {name}");
    }
}

#[test]
fn the_order_must_be_a_workshops_and_an_online_one_must_not() {
    let mut medium = Medium::new();
    medium.targets = OfflineTargets::new(n(1), at(NOW + DAY), None, order());
    medium.direct();
    assert_eq!(medium.outcome(), "Malformed");
    let mut world = World::new();
    world.director.targets.order.as_mut().unwrap().update = UpdateId::new("w-1").unwrap();
    assert_eq!(world.outcome(), "Malformed");
}

#[test]
fn hardware_floor_and_listing_are_as_strict_as_with_a_network() {
    let mut medium = Medium::new();
    medium.targets = targets(1, None);
    let mut target = directed("tcu", "2.0.0", 2, PairingRole::Target);
    target.ecus.values_mut().for_each(|pairing| pairing.hardware_id = world::hardware("tcu-b1"));
    medium.targets.list("tcu/2.0.0.raucb", target).unwrap();
    assert_eq!(medium.outcome(), "BadHardwareId");
    let mut medium = Medium::new();
    medium.targets = targets(1, None);
    medium.targets.list("tcu/3.0.0.raucb", directed("tcu", "3.0.0", 3, PairingRole::Target)).unwrap();
    assert_eq!(medium.outcome(), "TargetMismatch");
    let medium = Medium::new();
    let mut high = vehicle();
    high.floors.insert(world::ecu("tcu"), pitstop_types::ReleaseCounter(3));
    let (result, _) = verify_offline(&high, medium.world.initial(), &medium.files(), Some(NOW));
    assert_eq!(world::name(result.map(|approval| approval.into_inner())), "ImageRollback");
}

#[test]
fn rotated_offline_keys_are_followed_and_outdate_what_the_old_ones_signed() {
    let mut medium = Medium::new();
    medium.version = 1 << 53;
    let (first, generation) = medium.read(&medium.files(), &medium.world.initial(), NOW);
    first.unwrap();
    // The thief's highest version is forgotten with his key.
    let old = medium.files();
    medium.world.director.keys.offline = Some([world::key(Scheme::Ed25519), world::key(Scheme::Ed25519)]);
    let root = medium.world.director.next_root(Repository::Director, &[]);
    medium.world.director.roots.push(root);
    medium.version = 1;
    let (second, after) = medium.read(&medium.files(), &generation, NOW);
    second.unwrap();
    assert_eq!(world::name(medium.read(&old, &after, NOW).0), "UnmetThreshold");
}

#[test]
fn an_online_cycle_hears_of_withdrawn_media() {
    let mut medium = Medium::new();
    let (old, trusted) = (medium.files(), medium.world.initial());
    medium.version = 2;
    medium.targets = targets(2, None);
    medium.direct();
    let newer = medium.files().director["offline-snapshot.json"].clone();
    let serve = |bytes: Option<Vec<u8>>| -> Option<world::Serve> {
        Some(Box::new(move |_, file, found| if file == "offline-snapshot.json" { bytes.clone() } else { found }))
    };
    // A Director that has none yet, and one whose list is not good: the cycle goes on.
    let spoilt = resigned(&newer, &medium.world.director.keys.snapshot, |_| {});
    for bytes in [None, Some(spoilt), Some(b"nonsense".to_vec())] {
        medium.world.serve = serve(bytes);
        let (result, after) = medium.world.cycle(&trusted, vehicle(), NOW);
        result.unwrap();
        assert!(medium.read(&old, &after, NOW).0.is_ok());
    }
    medium.world.serve = serve(Some(newer.clone()));
    let mut trace = Vec::new();
    let (result, after) = medium.world.traced(&trusted, vehicle(), NOW, &mut trace);
    result.unwrap();
    assert_eq!(trace.iter().filter(|line| *line == "director offline-snapshot.json").count(), 1);
    assert_eq!(world::name(medium.read(&old, &after, NOW).0), "Rollback", "withdrawn");
    // One that goes back under a higher number ends the cycle.
    let back = resigned(&old.director["offline-snapshot.json"], medium.key(0), |file| file["version"] = json!(3));
    medium.world.serve = serve(Some(back));
    assert_eq!(world::name(medium.world.cycle(&after, vehicle(), NOW).0), "Rollback");
}
