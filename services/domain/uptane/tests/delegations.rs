//! Delegations of the Image repository: order, ends, thresholds, and roles reached by two ways.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use pitstop_uptane::{MAX_DELEGATED, MemorySigner, Repository, Scheme, Signer, Targets};
use serde_json::json;
use world::*;

/// An Image repository in which `bcm/2.0.0.raucb` is only listed by those delegated roles that `list` names.
struct Graph {
    world: World,
}

const PATH: &str = "bcm/2.0.0.raucb";

fn role() -> Targets {
    Targets::image(n(1), at(NOW + DAY))
}

fn listing() -> Targets {
    let mut role = role();
    role.list_image(PATH, image("bcm", "2.0.0", 4)).unwrap();
    role
}

impl Graph {
    fn new() -> Self {
        let mut world = World::new();
        world.image.targets.targets.remove(PATH);
        Self { world }
    }

    fn add(&mut self, name: &str, role: Targets, keys: Vec<MemorySigner>) {
        self.world.image.delegated.push((name.to_owned(), role, keys));
    }

    fn top(&mut self, name: &str, key: &MemorySigner, paths: &[&str], terminating: bool) {
        self.world.image.targets.delegate(name, [key.public()], 1, paths, terminating).unwrap();
    }

    /// What comes out, and which delegated files were asked for.
    fn run(&self) -> (&'static str, Vec<String>) {
        let mut trace = Vec::new();
        let (result, _) = self.world.traced(&self.world.initial(), vehicle(), NOW, &mut trace);
        let tops = ["root.json", "timestamp.json", "snapshot.json", "targets.json"];
        let asked = trace.into_iter().filter_map(|line| line.strip_prefix("image 1.").map(str::to_owned));
        (name(result), asked.filter(|file| !tops.contains(&file.as_str())).collect())
    }
}

fn ed() -> MemorySigner {
    key(Scheme::Ed25519)
}

#[test]
fn the_first_delegation_that_lists_a_path_speaks() {
    let (a, b) = (ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], false);
    graph.top("b", &b, &["*/*"], false);
    graph.add("a", role(), vec![a]);
    graph.add("b", listing(), vec![b]);
    assert_eq!(graph.run(), ("accepted", vec!["a.json".to_owned(), "b.json".to_owned()]));
}

#[test]
fn a_terminating_delegation_ends_the_search() {
    let (a, b) = (ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], true);
    graph.top("b", &b, &["bcm/*"], false);
    graph.add("a", role(), vec![a]);
    graph.add("b", listing(), vec![b]);
    assert_eq!(graph.run(), ("TargetMismatch", vec!["a.json".to_owned()]));
}

#[test]
fn a_terminating_delegation_of_other_paths_ends_nothing() {
    let (a, b) = (ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["gps/*"], true);
    graph.top("b", &b, &["bcm/*"], false);
    graph.add("a", listing(), vec![a]);
    graph.add("b", listing(), vec![b]);
    assert_eq!(graph.run(), ("accepted", vec!["b.json".to_owned()]));
}

#[test]
fn a_role_outside_its_paths_is_not_even_asked() {
    let a = ed();
    let mut graph = Graph::new();
    graph.top("a", &a, &["gps/*", "BCM/*", "*", "bcm/*/*"], false);
    graph.add("a", listing(), vec![a]);
    assert_eq!(graph.run(), ("TargetMismatch", vec![]));
}

#[test]
fn search_is_depth_first_and_cycles_end() {
    let (a, b, c) = (ed(), ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], false);
    graph.top("c", &c, &["bcm/*"], false);
    let mut role_a = role();
    role_a.delegate("b", [b.public()], 1, &["bcm/*"], false).unwrap();
    let mut role_b = role();
    role_b.delegate("a", [a.public()], 1, &["bcm/*"], false).unwrap();
    graph.add("a", role_a, vec![a]);
    graph.add("b", role_b, vec![b]);
    graph.add("c", listing(), vec![c]);
    assert_eq!(graph.run(), ("accepted", ["a.json", "b.json", "c.json"].map(str::to_owned).to_vec()));
}

#[test]
fn a_chain_is_followed_only_so_far() {
    let mut graph = Graph::new();
    let keys: Vec<_> = (0..40).map(|_| ed()).collect();
    graph.top("r0", &keys[0], &["bcm/*"], false);
    let publics: Vec<_> = keys.iter().map(|key| key.public().clone()).collect();
    for (index, key) in keys.into_iter().enumerate() {
        let mut role = if index == 39 { listing() } else { role() };
        if let Some(next) = publics.get(index + 1) {
            role.delegate(&format!("r{}", index + 1), [next], 1, &["bcm/*"], false).unwrap();
        }
        graph.add(&format!("r{index}"), role, vec![key]);
    }
    let (outcome, asked) = graph.run();
    assert_eq!((outcome, asked.len()), ("TargetMismatch", 32));
}

#[test]
fn a_role_that_is_good_by_one_delegator_is_not_believed_by_another() {
    // a (its own key) delegates to `leaf` with the right key and does not match the path; b delegates to `leaf` with another.
    let (a, b, right, wrong) = (ed(), ed(), ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["*/*"], false);
    graph.top("b", &b, &["bcm/*"], false);
    let mut role_a = role();
    // Reached for the tcu's path only.
    graph.world.image.targets.targets.remove("tcu/2.0.0.raucb");
    role_a.delegate("leaf", [right.public()], 1, &["tcu/*"], false).unwrap();
    let mut role_b = role();
    role_b.delegate("leaf", [wrong.public()], 1, &["bcm/*"], false).unwrap();
    let mut leaf = listing();
    leaf.list_image("tcu/2.0.0.raucb", image("tcu", "2.0.0", 2)).unwrap();
    graph.add("a", role_a, vec![a]);
    graph.add("b", role_b, vec![b]);
    graph.add("leaf", leaf, vec![right]);
    assert_eq!(graph.run().0, "UnmetThreshold");
}

#[test]
fn a_role_that_was_read_for_one_path_is_judged_anew_when_another_delegator_leads_to_it() {
    for same in [true, false] {
        let (a, b, right, wrong) = (ed(), ed(), ed(), ed());
        let mut graph = Graph::new();
        graph.world.image.targets.targets.remove("tcu/2.0.0.raucb");
        graph.top("a", &a, &["bcm/*"], false);
        graph.top("b", &b, &["tcu/*"], false);
        let mut role_a = role();
        role_a.delegate("leaf", [right.public()], 1, &["bcm/*"], false).unwrap();
        let mut role_b = role();
        let key = if same { &right } else { &wrong };
        role_b.delegate("leaf", [key.public()], 1, &["tcu/*"], false).unwrap();
        let mut leaf = listing();
        leaf.list_image("tcu/2.0.0.raucb", image("tcu", "2.0.0", 2)).unwrap();
        graph.add("a", role_a, vec![a]);
        graph.add("b", role_b, vec![b]);
        graph.add("leaf", leaf, vec![right]);
        assert_eq!(graph.run().0, if same { "accepted" } else { "UnmetThreshold" });
    }
}

fn filled(payload: &mut serde_json::Value) {
    payload["x-filling"] = json!("x".repeat(MAX_DELEGATED / 2 - 5_000));
}

/// Fills delegated roles to nearly half of what all may have together.
fn fill(world: &mut World) {
    world.edit = Some(Box::new(|repository, role, payload| {
        if repository == Repository::Image && !["targets", "snapshot", "timestamp"].contains(&role) {
            filled(payload);
        }
    }));
}

#[test]
fn all_delegated_roles_of_one_verification_have_one_limit_together() {
    for (count, expected) in [(2, "accepted"), (3, "Oversized")] {
        let mut graph = Graph::new();
        for index in 0..count {
            let key = ed();
            graph.top(&format!("r{index}"), &key, &["bcm/*"], false);
            graph.add(&format!("r{index}"), if index + 1 == count { listing() } else { role() }, vec![key]);
        }
        fill(&mut graph.world);
        // What would be too much is not even asked for.
        assert_eq!(graph.run(), (expected, ["r0.json", "r1.json"].map(str::to_owned).to_vec()), "{count}");
        assert_eq!(graph.world.refusal(), expected, "{count}");
        // Where the snapshot gives no length, the answer is held against what is left.
        graph.world.edit = Some(Box::new(|repository, role, payload| {
            if let (Repository::Image, "snapshot") = (repository, role) {
                for file in payload["meta"].as_object_mut().unwrap().values_mut() {
                    *file = json!({ "version": file["version"] });
                }
            } else if repository == Repository::Image && role.starts_with('r') {
                filled(payload);
            }
        }));
        assert_eq!(graph.run().0, expected, "{count}");
    }
}

#[test]
fn what_is_stored_of_delegated_roles_does_not_grow_from_order_to_order() {
    let mut graph = Graph::new();
    let keys = [ed(), ed(), ed(), ed()];
    let publics: Vec<_> = keys.iter().map(|key| key.public().clone()).collect();
    for (name, key) in ["a", "b", "c", "d"].into_iter().zip(keys) {
        graph.add(name, if ["b", "d"].contains(&name) { listing() } else { role() }, vec![key]);
    }
    let world = &mut graph.world;
    fill(world);
    let mut trusted = world.initial();
    // First one pair of roles leads to the file, then the other, then the first again.
    for asked in [[0, 1], [2, 3], [0, 1]] {
        world.image.targets.delegations = None;
        for index in asked {
            let name = ["a", "b", "c", "d"][index];
            world.image.targets.delegate(name, [&publics[index]], 1, &["bcm/*"], false).unwrap();
        }
        world.image.bump();
        let (result, after) = world.cycle(&trusted, vehicle(), NOW);
        assert_eq!(name(result), "accepted");
        let stored = |role| after.image.get(role).map_or(0, str::len);
        assert!(["a", "b", "c", "d"].map(stored).iter().sum::<usize>() <= MAX_DELEGATED);
        assert!(asked.iter().all(|&index| stored(["a", "b", "c", "d"][index]) > 0));
        trusted = after;
    }
}

#[test]
fn thresholds_of_delegations_hold() {
    for (signers, expected) in [(1, "UnmetThreshold"), (2, "accepted")] {
        let keys = [ed(), ed(), ed()];
        let mut graph = Graph::new();
        graph.world.image.targets.delegate("s", keys.iter().map(Signer::public), 2, &["bcm/*"], false).unwrap();
        graph.add("s", listing(), keys.into_iter().take(signers).collect());
        assert_eq!(graph.run().0, expected);
    }
}

#[test]
fn delegated_roles_go_through_the_same_checks_as_top_level_ones() {
    let with = |change: fn(&mut serde_json::Value)| {
        let a = ed();
        let mut graph = Graph::new();
        graph.top("a", &a, &["bcm/*"], false);
        graph.add("a", listing(), vec![a]);
        graph.world.edit = Some(Box::new(move |repo, name, payload| {
            if repo == Repository::Image && name == "a" {
                change(payload);
            }
        }));
        graph.run().0
    };
    assert_eq!(with(|_| ()), "accepted");
    assert_eq!(with(|p| p["expires"] = json!("2020-01-01T00:00:00Z")), "Expired");
    assert_eq!(with(|p| p["_type"] = json!("snapshot")), "Malformed");
    assert_eq!(with(|p| p["version"] = json!(0)), "Malformed");
    assert_eq!(with(|p| p["targets"][PATH]["length"] = json!(7)), "TargetMismatch");
}

#[test]
fn a_delegated_role_that_goes_back_or_is_not_in_the_snapshot_is_refused() {
    let a = ed();
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], false);
    let mut newer = listing();
    newer.header.version = n(2);
    graph.add("a", newer, vec![a]);
    let world = &mut graph.world;
    let (result, trusted) = world.cycle(&world.initial(), vehicle(), NOW);
    result.unwrap();
    world.image.version += 1;
    world.image.delegated[0].1.header.version = n(1);
    assert_eq!(name(world.cycle(&trusted, vehicle(), NOW).0), "Rollback");
    let mut graph = Graph::new();
    graph.top("ghost", &ed(), &["bcm/*"], false);
    assert_eq!(graph.run().0, "MixAndMatch");
}

#[test]
fn a_delegated_role_of_another_version_than_the_snapshot_lists_is_refused_without_a_hash_too() {
    for (listed, expected) in [(1, "accepted"), (2, "MixAndMatch")] {
        let a = ed();
        let mut graph = Graph::new();
        graph.top("a", &a, &["bcm/*"], false);
        graph.add("a", listing(), vec![a]);
        graph.world.edit = Some(Box::new(move |_, role, payload| {
            if role == "snapshot" && payload["meta"]["a.json"].is_object() {
                payload["meta"]["a.json"] = json!({ "version": listed });
            }
        }));
        let file = graph.world.image.files(Repository::Image, None)["1.a.json"].clone();
        graph.world.serve =
            Some(Box::new(move |_, name, bytes| if name == "2.a.json" { Some(file.clone()) } else { bytes }));
        assert_eq!(graph.run().0, expected);
    }
}

#[test]
fn a_stored_delegated_role_is_used_again_and_verified_again() {
    let a = ed();
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], false);
    graph.add("a", listing(), vec![a]);
    let world = &mut graph.world;
    let (_, trusted) = world.cycle(&world.initial(), vehicle(), NOW);
    assert!(trusted.image.get("a").is_some());
    let mut trace = Vec::new();
    assert!(world.traced(&trusted, vehicle(), NOW, &mut trace).0.is_ok());
    assert!(!trace.iter().any(|line| line.ends_with("a.json")), "{trace:?}");
    // The delegator gives the role another key: the stored copy does not count any more.
    let key = ed();
    world.image.targets.delegations = None;
    world.image.targets.delegate("a", [key.public()], 1, &["bcm/*"], false).unwrap();
    world.image.bump();
    assert_eq!(name(world.cycle(&trusted, vehicle(), NOW).0), "UnmetThreshold");
}

#[test]
fn names_that_could_leave_a_folder_are_no_role_names() {
    let key = ed();
    for bad in ["../x", "/x", "?", "#", "a b", "targets", "Root", "", ".x", "a..b", "a/b", "é"] {
        assert!(role().delegate(bad, [key.public()], 1, &["x"], false).is_err(), "{bad:?}");
    }
}

#[test]
fn several_roles_must_agree_on_the_very_same_file() {
    let other = || {
        let mut role = role();
        role.list_image(PATH, image("bcm", "2.0.0", 5)).unwrap();
        role
    };
    // What the three roles list, how many must agree, and the outcome.
    let cases: [([Targets; 3], usize, &str); 7] = [
        ([listing(), listing(), listing()], 3, "accepted"),
        ([listing(), other(), listing()], 2, "accepted"),
        ([listing(), other(), listing()], 3, "TargetMismatch"),
        ([role(), listing(), role()], 2, "TargetMismatch"),
        ([role(), listing(), role()], 1, "accepted"),
        ([listing(), role(), other()], 2, "TargetMismatch"),
        ([role(), role(), role()], 1, "TargetMismatch"),
    ];
    for (index, (roles, agree, expected)) in cases.into_iter().enumerate() {
        let keys = [ed(), ed(), ed()];
        let mut graph = Graph::new();
        let names = ["a", "b", "c"];
        let pairs: Vec<_> = names.iter().zip(&keys).map(|(&name, key)| (name, key.public())).collect();
        graph.world.image.targets.delegate_to_several(&pairs, agree, &["bcm/*"], true).unwrap();
        for ((name, role), key) in names.iter().zip(roles).zip(keys) {
            graph.add(name, role, vec![key]);
        }
        assert_eq!(graph.run().0, expected, "case {index}");
    }
}

#[test]
fn agreement_of_none_or_of_more_than_there_are_makes_no_sense() {
    let (a, b) = (ed(), ed());
    let pairs = [("a", a.public()), ("b", b.public())];
    for (agree, good) in [(0, false), (1, true), (2, true), (3, false)] {
        assert_eq!(role().delegate_to_several(&pairs, agree, &["x"], false).is_ok(), good, "{agree}");
    }
    let twice = [("a", a.public()), ("a", b.public())];
    assert!(role().delegate_to_several(&twice, 1, &["x"], false).is_err());
}

#[test]
fn a_delegation_for_some_hardware_says_nothing_of_other_hardware() {
    for (own, below, expected) in [
        (vec!["bcm-a1"], None, "accepted"),
        (vec!["adas-a1", "bcm-a1"], Some(vec!["bcm-a1"]), "accepted"),
        (vec!["adas-a1"], None, "TargetMismatch"),
        (vec![], None, "TargetMismatch"),
        // A role cannot hand on more than it has.
        (vec!["adas-a1"], Some(vec!["bcm-a1"]), "TargetMismatch"),
    ] {
        let (a, b) = (ed(), ed());
        let limit = |role: &mut Targets, ids: &[&str]| {
            let delegation = &mut role.delegations.as_mut().unwrap().roles[0];
            delegation.hardware_ids = Some(ids.iter().map(|id| hardware(id)).collect());
        };
        let mut graph = Graph::new();
        graph.top("a", &a, &["bcm/*"], false);
        limit(&mut graph.world.image.targets, &own);
        match below {
            None => graph.add("a", listing(), vec![a]),
            Some(ids) => {
                let mut middle = role();
                middle.delegate("b", [b.public()], 1, &["bcm/*"], false).unwrap();
                limit(&mut middle, &ids);
                graph.add("a", middle, vec![a]);
                graph.add("b", listing(), vec![b]);
            }
        }
        assert_eq!(graph.run().0, expected, "{own:?}");
    }
}

#[test]
fn the_end_of_a_terminating_delegation_reaches_all_the_way_up() {
    let (a, b, c) = (ed(), ed(), ed());
    let mut graph = Graph::new();
    graph.top("a", &a, &["bcm/*"], false);
    graph.top("c", &c, &["bcm/*"], false);
    let mut role_a = role();
    role_a.delegate("b", [b.public()], 1, &["bcm/*"], true).unwrap();
    graph.add("a", role_a, vec![a]);
    graph.add("b", role(), vec![b]);
    graph.add("c", listing(), vec![c]);
    assert_eq!(graph.run(), ("TargetMismatch", ["a.json", "b.json"].map(str::to_owned).to_vec()));
}
