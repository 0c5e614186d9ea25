//! Two repositories in memory, signed anew as a test wishes, and a vehicle that asks them.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test support: a panic is the report")]

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use pitstop_types::{Digest, EcuId, HardwareId, PromptFacts, ReleaseCounter, SoftwareVersion, UpdateId, Vin};
use pitstop_uptane::{
    Approval, DirectorTarget, EcuPairing, Fetch, Generation, ImageTarget, MemorySigner, Order, PairingRole, Repository,
    Role, Root, RootBuilder, Scheme, ShallMatch, SignedFile, Signer, Snapshot, Targets, Time, Timestamp, Vehicle,
    Verification, VerifyError, canonical, sign,
};
use serde_json::{Value, json};

pub const NOW: i64 = 1_795_000_000;
pub const DAY: i64 = 86_400;

/// Changes the payload of a role (`targets`, a delegated name, ...) before it is signed; parents then list the changed file.
pub type Edit = Box<dyn Fn(Repository, &str, &mut Value) + Send>;
/// Changes what is served in place of a file; parents do not know.
pub type Serve = Box<dyn Fn(Repository, &str, Option<Vec<u8>>) -> Option<Vec<u8>> + Send>;

pub struct Keys {
    pub root: Vec<MemorySigner>,
    pub root_threshold: u64,
    pub timestamp: MemorySigner,
    pub snapshot: MemorySigner,
    pub targets: MemorySigner,
    /// Offline snapshot and offline targets, where the root lists these roles.
    pub offline: Option<[MemorySigner; 2]>,
}

impl Keys {
    pub fn new(scheme: Scheme) -> Self {
        Self {
            root: vec![key(scheme)],
            root_threshold: 1,
            timestamp: key(scheme),
            snapshot: key(scheme),
            targets: key(scheme),
            offline: None,
        }
    }
}

pub fn key(scheme: Scheme) -> MemorySigner {
    MemorySigner::generate(scheme).unwrap()
}

/// One repository: its keys, its roots so far, and the versions of the rest.
pub struct Repo {
    pub keys: Keys,
    pub roots: Vec<SignedFile>,
    pub targets: Targets,
    pub delegated: Vec<(String, Targets, Vec<MemorySigner>)>,
    /// Versions of snapshot and timestamp; of targets in itself.
    pub version: u64,
    pub expires: BTreeMap<Role, i64>,
}

pub struct World {
    pub director: Repo,
    pub image: Repo,
    pub edit: Option<Edit>,
    pub serve: Option<Serve>,
}

pub fn n(version: u64) -> NonZeroU64 {
    NonZeroU64::new(version).unwrap()
}
pub fn at(seconds: i64) -> Time {
    Time::from_unix(seconds).unwrap()
}
pub fn ecu(name: &str) -> EcuId {
    EcuId::new(name).unwrap()
}
pub fn hardware(name: &str) -> HardwareId {
    HardwareId::new(name).unwrap()
}
pub fn vin() -> Vin {
    Vin::new("WP0ZZZ99ZTS392124").unwrap()
}

pub fn vehicle() -> Vehicle {
    Vehicle {
        vin: vin(),
        ecus: BTreeMap::from([(ecu("tcu"), hardware("tcu-a1")), (ecu("bcm"), hardware("bcm-a1"))]),
        floors: BTreeMap::from([(ecu("bcm"), ReleaseCounter(3))]),
    }
}

pub fn order() -> Order {
    Order {
        update: UpdateId::new("u-1").unwrap(),
        campaign: pitstop_types::CampaignId::new("c-1").unwrap(),
        install_by: NOW + 7 * DAY,
        facts: PromptFacts {
            purpose: "Safety".into(),
            changes: "Brakes".into(),
            expected_secs: 600,
            unavailable: "Driving".into(),
            instructions: "Park".into(),
        },
        conditions: vec![],
    }
}

/// A bundle `PART/VERSION.raucb`.
pub fn image(part: &str, version: &str, counter: u64) -> ImageTarget {
    let name = format!("{part} {version}");
    ImageTarget {
        length: 1000 + counter,
        sha256: Digest::of(name.as_bytes()),
        sha512: Some("ab".repeat(64)),
        shall_match: ShallMatch {
            hardware_ids: vec![hardware(&format!("{part}-a1"))],
            release_counter: ReleaseCounter(counter),
            format: ShallMatch::FORMAT.into(),
            rauc_manifest_hash: Digest::of(format!("manifest of {name}").as_bytes()),
            sw_version: SoftwareVersion::new(version).unwrap(),
            security_floor: None,
        },
    }
}

pub fn directed(part: &str, version: &str, counter: u64, role: PairingRole) -> DirectorTarget {
    let pairing = EcuPairing { hardware_id: hardware(&format!("{part}-a1")), role: None };
    DirectorTarget { image: image(part, version, counter), ecus: BTreeMap::from([(ecu(part), pairing)]), role }
}

pub const RELEASES: [(&str, &str, u64, PairingRole); 4] = [
    ("bcm", "1.0.0", 3, PairingRole::Fallback),
    ("bcm", "2.0.0", 4, PairingRole::Target),
    ("tcu", "1.0.0", 1, PairingRole::Fallback),
    ("tcu", "2.0.0", 2, PairingRole::Target),
];

impl Repo {
    pub fn new(repository: Repository, targets: Targets, scheme: Scheme) -> Self {
        let expires = BTreeMap::from([
            (Role::Root, NOW + 365 * DAY),
            (Role::Timestamp, NOW + DAY),
            (Role::Snapshot, NOW + DAY),
            (Role::Targets, NOW + DAY),
        ]);
        let mut repo = Self { keys: Keys::new(scheme), roots: vec![], targets, delegated: vec![], version: 1, expires };
        repo.roots.push(repo.next_root(repository, &[]));
        repo
    }

    /// The root after the last one, from the keys as they are now, signed by them and by `old` ones.
    pub fn next_root(&self, repository: Repository, old: &[&dyn Signer]) -> SignedFile {
        let version = n(self.roots.len() as u64 + 1);
        let expires = at(self.expires[&Role::Root]);
        let mut signers: Vec<&dyn Signer> = self.keys.root.iter().map(|key| key as &dyn Signer).collect();
        signers.extend(old);
        sign(&self.root(repository, version, expires), &signers).unwrap()
    }

    pub fn root(&self, repository: Repository, version: NonZeroU64, expires: Time) -> Root {
        let builder = RootBuilder::new(repository, version, expires);
        let offline = self.keys.offline.iter().flatten().zip(Role::OFFLINE);
        offline
            .fold(builder, |builder, (key, role)| builder.role(role, [key.public()], 1))
            .role(Role::Root, self.keys.root.iter().map(Signer::public), self.keys.root_threshold)
            .role(Role::Timestamp, [self.keys.timestamp.public()], 1)
            .role(Role::Snapshot, [self.keys.snapshot.public()], 1)
            .role(Role::Targets, [self.keys.targets.public()], 1)
            .build()
            .unwrap()
    }

    /// All files but roots, by name.
    pub fn files(&self, repository: Repository, edit: Option<&Edit>) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for root in &self.roots {
            files.insert(root.name("root"), root.bytes.clone());
        }
        let resign = |role: &str, file: SignedFile, signers: &[&dyn Signer]| match edit {
            None => file,
            Some(edit) => edited(repository, role, &file, signers, edit),
        };
        let mut listed = Vec::new();
        let targets_key: &dyn Signer = &self.keys.targets;
        let targets = resign("targets", sign(&self.targets, &[targets_key]).unwrap(), &[targets_key]);
        listed.push(("targets".to_owned(), targets));
        for (name, role, signers) in &self.delegated {
            let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
            listed.push((name.clone(), resign(name, sign(role, &signers).unwrap(), &signers)));
        }
        let pairs = listed.iter().map(|(name, file)| (name.as_str(), file));
        let snapshot = Snapshot::new(n(self.version), at(self.expires[&Role::Snapshot]), pairs).unwrap();
        let key: &dyn Signer = &self.keys.snapshot;
        let snapshot = resign("snapshot", sign(&snapshot, &[key]).unwrap(), &[key]);
        let timestamp = Timestamp::new(n(self.version), at(self.expires[&Role::Timestamp]), &snapshot).unwrap();
        let key: &dyn Signer = &self.keys.timestamp;
        let timestamp = resign("timestamp", sign(&timestamp, &[key]).unwrap(), &[key]);
        for (name, file) in listed
            .iter()
            .map(|(name, file)| (name.as_str(), file))
            .chain([("snapshot", &snapshot), ("timestamp", &timestamp)])
        {
            files.insert(file.name(name), file.bytes.clone());
        }
        files
    }

    /// A new version of everything but the root.
    pub fn bump(&mut self) {
        self.version += 1;
        self.targets.header.version = n(self.targets.header.version.get() + 1);
    }
}

fn edited(repository: Repository, role: &str, file: &SignedFile, signers: &[&dyn Signer], edit: &Edit) -> SignedFile {
    let mut payload = payload(&file.bytes);
    edit(repository, role, &mut payload);
    // A name must stay even when the version is spoilt, and a parent cannot list version 0.
    let version = payload["version"].as_u64().filter(|&version| version > 0).unwrap_or(file.version);
    SignedFile { version, bytes: envelope(&payload, signers) }
}

pub fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice::<Value>(bytes).unwrap()["signed"].take()
}

/// Signs any payload, however odd.
pub fn envelope(payload: &Value, signers: &[&dyn Signer]) -> Vec<u8> {
    let message = canonical::to_bytes(payload).unwrap_or_default();
    let signatures: Vec<Value> = signers
        .iter()
        .map(|key| json!({ "keyid": key.public().id(), "sig": hex::encode(key.sign(&message).unwrap()) }))
        .collect();
    serde_json::to_vec(&json!({ "signatures": signatures, "signed": payload })).unwrap()
}

impl World {
    /// Two releases for each of two ECUs, directed as fallback and target.
    pub fn new() -> Self {
        Self::with(Scheme::Ed25519)
    }

    pub fn with(scheme: Scheme) -> Self {
        let expires = at(NOW + DAY);
        let mut director = Targets::director(n(1), expires, vin(), Some(order()));
        let mut listed = Targets::image(n(1), expires);
        for (part, version, counter, role) in RELEASES {
            let path = format!("{part}/{version}.raucb");
            director.list_director(&path, directed(part, version, counter, role)).unwrap();
            listed.list_image(&path, image(part, version, counter)).unwrap();
        }
        Self {
            director: Repo::new(Repository::Director, director, scheme),
            image: Repo::new(Repository::Image, listed, scheme),
            edit: None,
            serve: None,
        }
    }

    pub fn repo(&mut self, repository: Repository) -> &mut Repo {
        match repository {
            Repository::Director => &mut self.director,
            Repository::Image => &mut self.image,
        }
    }

    pub fn initial(&self) -> Generation {
        let root = |repo: &Repo| String::from_utf8(repo.roots[0].bytes.clone()).unwrap();
        Generation::initial(root(&self.director), root(&self.image))
    }

    /// One cycle: what came out, and the files that are trusted afterwards.
    pub fn cycle(
        &self,
        trusted: &Generation,
        vehicle: Vehicle,
        now: i64,
    ) -> (Result<Approval, VerifyError>, Generation) {
        self.traced(trusted, vehicle, now, &mut Vec::new())
    }

    pub fn traced(
        &self,
        trusted: &Generation,
        vehicle: Vehicle,
        now: i64,
        trace: &mut Vec<String>,
    ) -> (Result<Approval, VerifyError>, Generation) {
        let mut machine = match Verification::new(vehicle, trusted.clone(), Some(now)) {
            Ok(machine) => machine,
            Err(error) => return (Err(error), trusted.clone()),
        };
        let director = self.director.files(Repository::Director, self.edit.as_ref());
        let image = self.image.files(Repository::Image, self.edit.as_ref());
        while let Some(Fetch { repository, file, .. }) = machine.poll_fetch() {
            trace.push(format!("{repository} {file}"));
            let files = if repository == Repository::Director { &director } else { &image };
            let mut bytes = files.get(&file).cloned();
            if let Some(serve) = &self.serve {
                bytes = serve(repository, &file, bytes);
            }
            if let Err(error) = machine.handle_file(bytes) {
                assert!(machine.poll_fetch().is_none(), "a failed machine wants nothing");
                return (Err(error), machine.generation());
            }
        }
        let (approval, generation) = machine.finish().unwrap();
        (Ok(approval.into_inner()), generation)
    }

    /// A cycle from the factory state that must be refused; its error's name. Afterwards the same device must still be able
    /// to complete a good update from what it then trusts.
    pub fn refusal(&mut self) -> String {
        let (result, after) = self.cycle(&self.initial(), vehicle(), NOW);
        let name = match result {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.name().to_owned(),
        };
        let (edit, serve) = (self.edit.take(), self.serve.take());
        if name != "accepted" {
            self.director.bump();
            self.image.bump();
            let (again, _) = self.cycle(&after, vehicle(), NOW);
            assert!(again.is_ok(), "after {name} the device is stuck: {again:?}");
        }
        (self.edit, self.serve) = (edit, serve);
        name
    }

    /// What a device in the factory state makes of this world.
    pub fn outcome(&self) -> &'static str {
        name(self.cycle(&self.initial(), vehicle(), NOW).0)
    }

    /// A state after one good cycle.
    pub fn trusted(&self) -> Generation {
        let (result, generation) = self.cycle(&self.initial(), vehicle(), NOW);
        result.unwrap();
        generation
    }
}

pub fn name(result: Result<Approval, VerifyError>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(error) => error.name(),
    }
}
