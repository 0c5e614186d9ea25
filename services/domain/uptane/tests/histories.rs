//! Random histories: repositories that publish and rotate, and somebody in between who replays, swaps, spoils and withholds
//! anything that was ever signed. Whatever happens, versions never go back, only signed orders come out, and an honest cycle
//! afterwards always works.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod world;

use std::collections::BTreeMap;

use pitstop_types::{CampaignId, Decision};
use pitstop_uptane::{Files, Generation, Repository, Scheme, Signer};
use proptest::prelude::*;
use serde_json::Value;
use world::*;

type Set = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone)]
enum Act {
    Publish,
    Rotate(Repository, usize),
    /// A cycle in which each answer is picked by one of these numbers.
    Attack(Vec<(u8, usize)>),
}

fn act() -> impl Strategy<Value = Act> {
    let repository = prop_oneof![Just(Repository::Director), Just(Repository::Image)];
    prop_oneof![
        2 => Just(Act::Publish),
        1 => (repository, 0..4_usize).prop_map(|(repository, role)| Act::Rotate(repository, role)),
        4 => proptest::collection::vec((any::<u8>(), any::<usize>()), 10).prop_map(Act::Attack),
    ]
}

/// Everything that was ever published.
struct History {
    world: World,
    sets: Vec<(Set, Set)>,
    orders: Vec<Decision>,
}

impl History {
    fn new() -> Self {
        let mut history = Self { world: World::new(), sets: vec![], orders: vec![] };
        history.record();
        history
    }

    fn record(&mut self) {
        let campaign = CampaignId::new(format!("c-{}", self.sets.len())).unwrap();
        self.world.director.targets.order.as_mut().unwrap().campaign = campaign;
        let director = self.world.director.files(Repository::Director, None);
        let image = self.world.image.files(Repository::Image, None);
        self.sets.push((director, image));
        let (result, _) = self.world.cycle(&self.world.initial(), vehicle(), NOW);
        self.orders.push(result.unwrap().decision.unwrap());
    }

    fn publish(&mut self) {
        self.world.director.bump();
        self.world.image.bump();
        self.record();
    }

    fn rotate(&mut self, repository: Repository, role: usize) {
        let repo = self.world.repo(repository);
        let fresh = key(Scheme::Ed25519);
        let keys = &mut repo.keys;
        let before = match role {
            0 => std::mem::replace(&mut keys.root[0], fresh),
            1 => std::mem::replace(&mut keys.timestamp, fresh),
            2 => std::mem::replace(&mut keys.snapshot, fresh),
            _ => std::mem::replace(&mut keys.targets, fresh),
        };
        let old: &[&dyn Signer] = if role == 0 { &[&before] } else { &[] };
        let root = repo.next_root(repository, old);
        repo.roots.push(root);
        self.publish();
    }

    /// What the attacker answers to one request.
    fn answer(
        &self,
        repository: Repository,
        file: &str,
        honest: Option<Vec<u8>>,
        dice: (u8, usize),
    ) -> Option<Vec<u8>> {
        let of = |set: &(Set, Set), repository| {
            if repository == Repository::Director { set.0.clone() } else { set.1.clone() }
        };
        let any_set = &self.sets[dice.1 % self.sets.len()];
        match dice.0 % 16 {
            // The same name from another time; only timestamp.json has others.
            0..=3 => of(any_set, repository).get(file).cloned().or(honest),
            // Any other file under this name.
            4 => of(any_set, repository).into_values().nth(dice.1 % 4),
            // The other repository's file.
            5 => {
                let other = if repository == Repository::Director { Repository::Image } else { Repository::Director };
                of(any_set, other).get(file).cloned()
            }
            6 => None,
            7 => honest.map(|mut bytes| {
                let at = dice.1 % bytes.len();
                bytes[at] ^= 1 << (dice.1 % 7);
                bytes
            }),
            8 => honest.map(|bytes| bytes[..dice.1 % bytes.len()].to_vec()),
            _ => honest,
        }
    }
}

fn payload_of(files: &Files, role: &str) -> Option<Value> {
    files.get(role).map(|text| payload(text.as_bytes()))
}

fn version(files: &Files, role: &str) -> Option<u64> {
    payload_of(files, role)?["version"].as_u64()
}

/// Versions of `files` never fall, except after a rotation of the keys of timestamp or snapshot.
fn check_progress(before: &Files, after: &Files) {
    assert!(version(after, "root") >= version(before, "root"));
    let online = |files: &Files| {
        let root = payload_of(files, "root").unwrap();
        (root["roles"]["timestamp"].clone(), root["roles"]["snapshot"].clone(), root["roles"]["targets"].clone())
    };
    if online(before) == online(after) {
        for role in ["timestamp", "snapshot", "targets"] {
            assert!(version(after, role) >= version(before, role), "{role} went back");
        }
    }
}

fn attack(history: &mut History, trusted: Generation, dice: &[(u8, usize)]) -> Generation {
    let mut machine = pitstop_uptane::Verification::new(vehicle(), trusted.clone(), Some(NOW)).unwrap();
    let newest = history.sets.last().unwrap();
    let mut dice = dice.iter().cycle();
    while let Some(fetch) = machine.poll_fetch() {
        let set = if fetch.repository == Repository::Director { &newest.0 } else { &newest.1 };
        let honest = set.get(&fetch.file).cloned();
        let answer = history.answer(fetch.repository, &fetch.file, honest, *dice.next().unwrap());
        if machine.handle_file(answer).is_err() {
            break;
        }
    }
    let after = machine.generation();
    check_progress(&trusted.director, &after.director);
    check_progress(&trusted.image, &after.image);
    if let Ok((approval, generation)) = machine.finish() {
        assert_eq!(generation, after);
        let decision = approval.into_inner().decision.unwrap();
        assert!(history.orders.iter().any(|order| same_order(order, &decision)), "never signed: {decision:?}");
        assert!(Some(decision.director_targets_version) >= version(&trusted.director, "targets"));
    }
    after
}

/// The image version may be another: the Image repository's files of another day can list the same files.
fn same_order(a: &Decision, b: &Decision) -> bool {
    let without = |decision: &Decision| Decision { image_targets_version: 0, ..decision.clone() };
    without(a) == without(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_history_moves_versions_back_or_leaves_a_device_stuck(acts in proptest::collection::vec(act(), 1..14)) {
        let mut history = History::new();
        let mut trusted = history.world.initial();
        for act in acts {
            match act {
                Act::Publish => history.publish(),
                Act::Rotate(repository, role) => history.rotate(repository, role),
                Act::Attack(dice) => {
                    trusted = attack(&mut history, trusted, &dice);
                    // The device may be asked honestly at any time, from any state an attacker left.
                    let (result, _) = history.world.cycle(&trusted, vehicle(), NOW);
                    let decision = result.unwrap_or_else(|error| panic!("stuck: {error}")).decision.unwrap();
                    prop_assert!(same_order(&decision, history.orders.last().unwrap()));
                }
            }
        }
    }
}
