//! The checks on one repository: root, timestamp, snapshot, targets, in this order (TUF 5.3 to 5.6, Uptane full verification).
//!
//! A file becomes part of [`Files`] only when all its checks have passed; so what is kept can be stored at any moment,
//! also when a later file is refused, and the next cycle goes on from it.

use std::collections::BTreeMap;

use pitstop_types::UnixSeconds;
use serde::{Deserialize, Serialize};

use crate::checks::{self, at, matches, not_expired, not_older, open, read, same_version, utf8, versioned};
use crate::metadata::{FileMeta, Metadata, Repository, Role, Root, Snapshot, Targets, Timestamp};
use crate::{At, Envelope, PublicKey, VerifyError};

/// Largest root, timestamp, snapshot and Director targets file, in bytes.
pub const MAX_SMALL: usize = 64 * 1024;
/// Largest targets file of the Image repository, delegated ones too, in bytes: some 4 000 releases. In memory it takes up to 16 times as
/// much while it is read, before anybody has answered for it, and the service that reads it may have 96 MiB.
pub const MAX_IMAGE_TARGETS: usize = 2 * 1024 * 1024;
/// All delegated roles that one verification reads, and all that are stored, together, in bytes.
pub const MAX_DELEGATED: usize = 2 * 1024 * 1024;
/// Most root files followed in one cycle; the next cycle goes on. A repository that rotates weekly takes 20 years to get there.
const MAX_ROOTS: u32 = 1024;

/// One repository's trusted files by their names without version (`root.json`, `supplier-a.json`), byte for byte as served.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Files(BTreeMap<String, String>);

impl Files {
    /// The files a device starts with: a root that it was built with.
    pub fn from_root(root: String) -> Self {
        Self(BTreeMap::from([(name(Role::Root.as_str()), root)]))
    }

    pub fn get(&self, role: &str) -> Option<&str> {
        self.0.get(&name(role)).map(String::as_str)
    }

    pub(crate) fn put(&mut self, role: &str, text: String) {
        self.0.insert(name(role), text);
    }

    fn drop_role(&mut self, role: Role) {
        self.0.remove(&name(role.as_str()));
    }

    /// Forgets delegated roles that this cycle did not need when all together are more than one cycle may need; they can be
    /// fetched again. Otherwise each order could add to what is stored until it can be stored no more.
    pub(crate) fn shed(&mut self, needed: &BTreeMap<String, usize>) {
        let length: usize = self.0.iter().filter(|(file, _)| is_delegated(file)).map(|(_, text)| text.len()).sum();
        if length > MAX_DELEGATED {
            let is_needed = |file: &str| file.strip_suffix(".json").is_some_and(|role| needed.contains_key(role));
            self.0.retain(|file, _| !is_delegated(file) || is_needed(file));
        }
    }

    /// Forgets delegated roles that the snapshot does not list any more.
    fn keep_listed(&mut self, snapshot: &Snapshot) {
        self.0.retain(|file, _| !is_delegated(file) || snapshot.meta.contains_key(file));
    }
}

fn name(role: &str) -> String {
    format!("{role}.json")
}

fn is_delegated(file: &str) -> bool {
    !Role::ALL.iter().chain(&Role::OFFLINE).any(|role| name(role.as_str()) == file)
}

/// A file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) role: String,
    pub(crate) file: String,
    pub(crate) limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Role(Role),
    Done,
}

/// What was trusted before this cycle, read again.
#[derive(Debug, Clone, Default)]
struct Known {
    timestamp: Option<Timestamp>,
    snapshot: Option<Snapshot>,
    targets: Option<Targets>,
}

/// One repository in the middle of a cycle.
#[derive(Debug, Clone)]
pub(crate) struct RepositoryCheck {
    repository: Repository,
    now: UnixSeconds,
    files: Files,
    root: Root,
    roots_followed: u32,
    known: Known,
    /// Whether a root of this cycle changed the keys of timestamp or snapshot.
    rotated: bool,
    timestamp: Option<Timestamp>,
    snapshot: Option<Snapshot>,
    targets: Option<Targets>,
    step: Step,
}

impl RepositoryCheck {
    /// Starts from what is trusted. Stored files that do not verify are an error: "no previous file" would let anything in.
    pub(crate) fn new(repository: Repository, files: Files, now: UnixSeconds) -> Result<Self, VerifyError> {
        let corrupt =
            |error: VerifyError| VerifyError::StoreCorrupt { at: at(repository, "store"), text: error.to_string() };
        let (root, known) = load(repository, &files).map_err(corrupt)?;
        Ok(Self {
            repository,
            now,
            files,
            root,
            roots_followed: 0,
            known,
            rotated: false,
            timestamp: None,
            snapshot: None,
            targets: None,
            step: Step::Role(Role::Root),
        })
    }

    pub(crate) fn repository(&self) -> Repository {
        self.repository
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) fn files_mut(&mut self) -> &mut Files {
        &mut self.files
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        self.now
    }

    /// The verified snapshot, once there is one.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The verified top-level targets, once all four roles are done.
    pub(crate) fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().filter(|_| self.step == Step::Done)
    }

    /// What is needed next; `None` when the four roles are verified.
    pub(crate) fn want(&self) -> Option<Want> {
        let Step::Role(role) = self.step else { return None };
        let (file, limit) = match role {
            Role::Root => (format!("{}.root.json", self.root.version() + 1), MAX_SMALL),
            Role::Timestamp => ("timestamp.json".to_owned(), MAX_SMALL),
            Role::Snapshot => versioned(role, self.timestamp.as_ref()?.snapshot().ok()?, MAX_SMALL),
            Role::Targets => versioned(role, self.snapshot.as_ref()?.file("targets")?, self.targets_limit()),
            Role::OfflineSnapshot | Role::OfflineTargets => return None,
        };
        Some(Want { role: role.to_string(), file, limit })
    }

    /// Takes the file that was wanted; `None`: the repository does not have it.
    pub(crate) fn take(&mut self, bytes: Option<Vec<u8>>) -> Result<(), VerifyError> {
        let Step::Role(role) = self.step else { return Err(VerifyError::OutOfOrder) };
        match (role, bytes) {
            (Role::Root, Some(bytes)) => self.take_root(bytes),
            (Role::Root, None) => self.end_roots(),
            (_, None) => Err(VerifyError::Missing { at: self.at(role) }),
            (Role::Timestamp, Some(bytes)) => self.take_timestamp(bytes),
            (Role::Snapshot, Some(bytes)) => self.take_snapshot(bytes),
            (Role::Targets, Some(bytes)) => self.take_targets(bytes),
            (Role::OfflineSnapshot | Role::OfflineTargets, Some(_)) => Err(VerifyError::OutOfOrder),
        }
    }

    /// TUF 5.3: version exactly N+1, signed by the thresholds of the old root and of the new one.
    fn take_root(&mut self, bytes: Vec<u8>) -> Result<(), VerifyError> {
        let at = self.at(Role::Root);
        let text = utf8(&at, bytes)?;
        let (keys, threshold) = self.keys(Role::Root)?;
        let root: Root = open(&at, text.as_bytes(), MAX_SMALL, &keys, threshold)?;
        check_root(self.repository, &root, text.as_bytes())?;
        let (version, known) = (root.version(), self.root.version());
        if version <= known {
            return Err(VerifyError::Rollback { at, version, known });
        }
        if version != known + 1 {
            return Err(VerifyError::mixed(&at, format!("version {version} follows {known}")));
        }
        self.rotated |= [Role::Timestamp, Role::Snapshot].iter().any(|&role| differs(&self.root, &root, role));
        self.files.put(Role::Root.as_str(), text);
        self.root = root;
        self.drop_revoked();
        self.roots_followed += 1;
        if self.roots_followed >= MAX_ROOTS { self.end_roots() } else { Ok(()) }
    }

    /// Forgets what the new root does not stand behind, at once: the root and what it outdates are stored together.
    fn drop_revoked(&mut self) {
        // TUF 5.3.11: after a rotation of these keys, versions that a thief pushed to the limit must not hold the client.
        // The targets' version too: the thief's snapshot may have listed one that the targets' key signed for him.
        if self.rotated {
            self.known = Known::default();
            [Role::Timestamp, Role::Snapshot, Role::Targets].into_iter().for_each(|role| self.files.drop_role(role));
        }
        let at = self.at(Role::Targets);
        let stands = |text: &str| {
            let (keys, threshold) = self.keys(Role::Targets)?;
            open::<Targets>(&at, text.as_bytes(), MAX_IMAGE_TARGETS, &keys, threshold).map(drop)
        };
        if self.files.get("targets").is_some_and(|text| stands(text).is_err()) {
            self.known.targets = None;
            self.files.drop_role(Role::Targets);
        }
    }

    /// Only the last root's expiry counts: a device that slept for a year follows expired ones.
    fn end_roots(&mut self) -> Result<(), VerifyError> {
        self.check_expiry(Role::Root, &self.root)?;
        self.step = Step::Role(Role::Timestamp);
        Ok(())
    }

    /// TUF 5.4. Kept only after all checks have passed (CVE-2025-2888).
    fn take_timestamp(&mut self, bytes: Vec<u8>) -> Result<(), VerifyError> {
        let at = self.at(Role::Timestamp);
        let text = utf8(&at, bytes)?;
        let (keys, threshold) = self.keys(Role::Timestamp)?;
        let new: Timestamp = open(&at, text.as_bytes(), MAX_SMALL, &keys, threshold)?;
        if let Some(known) = &self.known.timestamp {
            not_older(&at, new.version(), known.version())?;
            let (listed, before) = (snapshot_of(&at, &new)?, snapshot_of(&at, known)?);
            not_older(&self.at(Role::Snapshot), listed.version.get(), before.version.get())?;
            if new.version() == known.version() {
                // TUF 5.4.3: the same version brings nothing, whatever else it says.
                let known = known.clone();
                self.check_expiry(Role::Timestamp, &known)?;
                self.timestamp = Some(known);
                return self.reuse_snapshot();
            }
        }
        self.check_expiry(Role::Timestamp, &new)?;
        self.files.put("timestamp", text);
        self.timestamp = Some(new);
        self.reuse_snapshot()
    }

    /// The stored snapshot is taken again if it is the one that the timestamp lists. The cycle goes on either way: a stored
    /// snapshot does not say that the targets were ever fetched.
    fn reuse_snapshot(&mut self) -> Result<(), VerifyError> {
        self.step = Step::Role(Role::Snapshot);
        let (Some(timestamp), Some(known)) = (&self.timestamp, &self.known.snapshot) else { return Ok(()) };
        let at = self.at(Role::Snapshot);
        let listed = snapshot_of(&at, timestamp)?;
        let stored = self.files.get("snapshot").unwrap_or_default();
        if listed.version != known.header.version || matches(&at, stored.as_bytes(), listed).is_err() {
            return Ok(());
        }
        self.check_expiry(Role::Snapshot, known)?;
        self.snapshot = Some(known.clone());
        self.reuse_targets()
    }

    /// TUF 5.5.
    fn take_snapshot(&mut self, bytes: Vec<u8>) -> Result<(), VerifyError> {
        let at = self.at(Role::Snapshot);
        let listed = self.timestamp.as_ref().ok_or(VerifyError::OutOfOrder).and_then(|file| snapshot_of(&at, file))?;
        let text = utf8(&at, bytes)?;
        matches(&at, text.as_bytes(), listed)?;
        let (keys, threshold) = self.keys(Role::Snapshot)?;
        let new: Snapshot = open(&at, text.as_bytes(), MAX_SMALL, &keys, threshold)?;
        same_version(&at, new.version(), listed)?;
        self.check_against_known(&new)?;
        self.check_expiry(Role::Snapshot, &new)?;
        self.adopt_snapshot(new, text)
    }

    /// Nothing may go back, and nothing that was listed may be listed no more.
    fn check_against_known(&self, new: &Snapshot) -> Result<(), VerifyError> {
        let at = self.at(Role::Snapshot);
        if let Some(known) = &self.known.snapshot {
            not_older(&at, new.version(), known.version())?;
            for (file, before) in &known.meta {
                let role = file.strip_suffix(".json").unwrap_or(file);
                let Some(now) = new.meta.get(file) else {
                    return Err(VerifyError::mixed(&at, format!("it does not list {role} any more")));
                };
                not_older(&checks::at(self.repository, role), now.version.get(), before.version.get())?;
            }
        }
        Ok(())
    }

    fn adopt_snapshot(&mut self, new: Snapshot, text: String) -> Result<(), VerifyError> {
        self.files.put("snapshot", text);
        self.files.keep_listed(&new);
        self.snapshot = Some(new);
        self.reuse_targets()
    }

    /// Follows the roots that a medium brings, to the last one.
    pub(crate) fn follow_roots(&mut self, brought: &BTreeMap<String, Vec<u8>>) -> Result<(), VerifyError> {
        while let (Step::Role(Role::Root), Some(want)) = (self.step, self.want()) {
            self.take(brought.get(&want.file).cloned())?;
        }
        Ok(())
    }

    /// The snapshot of a medium, which brings no timestamp: the newer of the stored and the brought one counts. Its expiry does not
    /// (PURE-2, step 7): it is short for the sake of those who have a network.
    pub(crate) fn take_brought_snapshot(&mut self, brought: Option<&Vec<u8>>) -> Result<(), VerifyError> {
        let at = self.at(Role::Snapshot);
        let stored = self.known.snapshot.clone();
        let Some(bytes) = brought else {
            self.snapshot = Some(stored.ok_or(VerifyError::Missing { at })?);
            return self.reuse_targets();
        };
        let seen: Snapshot = read(&at, bytes, MAX_SMALL)?;
        if let Some(stored) = stored.filter(|stored| stored.version() >= seen.version()) {
            self.snapshot = Some(stored);
            return self.reuse_targets();
        }
        let text = utf8(&at, bytes.clone())?;
        let (keys, threshold) = self.keys(Role::Snapshot)?;
        let new: Snapshot = open(&at, text.as_bytes(), MAX_SMALL, &keys, threshold)?;
        self.check_against_known(&new)?;
        self.adopt_snapshot(new, text)
    }

    fn reuse_targets(&mut self) -> Result<(), VerifyError> {
        self.step = Step::Role(Role::Targets);
        let (Some(snapshot), Some(known)) = (&self.snapshot, &self.known.targets) else { return Ok(()) };
        let at = self.at(Role::Targets);
        let listed = targets_of(&at, snapshot)?;
        let stored = self.files.get("targets").unwrap_or_default();
        if listed.version != known.header.version || matches(&at, stored.as_bytes(), listed).is_err() {
            return Ok(());
        }
        self.check_expiry(Role::Targets, known)?;
        self.targets = self.known.targets.take();
        self.step = Step::Done;
        Ok(())
    }

    /// TUF 5.6.
    fn take_targets(&mut self, bytes: Vec<u8>) -> Result<(), VerifyError> {
        let at = self.at(Role::Targets);
        let listed = self.snapshot.as_ref().ok_or(VerifyError::OutOfOrder).and_then(|file| targets_of(&at, file))?;
        let text = utf8(&at, bytes)?;
        matches(&at, text.as_bytes(), listed)?;
        let (keys, threshold) = self.keys(Role::Targets)?;
        // Two large files in memory at once would be one too many.
        let known = self.known.targets.take().map(|known| known.version());
        let new: Targets = open(&at, text.as_bytes(), self.targets_limit(), &keys, threshold)?;
        same_version(&at, new.version(), listed)?;
        not_older(&at, new.version(), known.unwrap_or(0))?;
        self.check_expiry(Role::Targets, &new)?;
        self.files.put("targets", text);
        self.targets = Some(new);
        self.step = Step::Done;
        Ok(())
    }

    fn targets_limit(&self) -> usize {
        match self.repository {
            Repository::Director => MAX_SMALL,
            Repository::Image => MAX_IMAGE_TARGETS,
        }
    }

    pub(crate) fn keys(&self, role: Role) -> Result<(Vec<PublicKey>, u64), VerifyError> {
        keys_of(self.repository, &self.root, role)
    }

    fn check_expiry<M: Metadata>(&self, role: Role, file: &M) -> Result<(), VerifyError> {
        not_expired(&self.at(role), file, self.now)
    }

    fn at(&self, role: Role) -> At {
        at(self.repository, role.as_str())
    }
}

fn keys_of(repository: Repository, root: &Root, role: Role) -> Result<(Vec<PublicKey>, u64), VerifyError> {
    root.keys_of(role).map_err(|error| VerifyError::malformed(&at(repository, "root"), error.to_string()))
}

/// Reads the stored files and checks each against the stored root.
fn load(repository: Repository, files: &Files) -> Result<(Root, Known), VerifyError> {
    let root_at = at(repository, "root");
    let text = files.get("root").ok_or_else(|| VerifyError::Missing { at: root_at.clone() })?;
    let root: Root = read(&root_at, text.as_bytes(), MAX_SMALL)?;
    check_root(repository, &root, text.as_bytes())?;
    let known = Known {
        timestamp: load_role(repository, files, &root, MAX_SMALL)?,
        snapshot: load_role(repository, files, &root, MAX_SMALL)?,
        targets: load_role(repository, files, &root, MAX_IMAGE_TARGETS)?,
    };
    Ok((root, known))
}

fn load_role<M: Metadata>(
    repository: Repository,
    files: &Files,
    root: &Root,
    limit: usize,
) -> Result<Option<M>, VerifyError> {
    let Some(text) = files.get(M::TYPE.as_str()) else { return Ok(None) };
    let (keys, threshold) = keys_of(repository, root, M::TYPE)?;
    open(&at(repository, M::TYPE.as_str()), text.as_bytes(), limit, &keys, threshold).map(Some)
}

/// A root must be signed by itself and be made for this repository.
fn check_root(repository: Repository, root: &Root, bytes: &[u8]) -> Result<(), VerifyError> {
    let at = at(repository, "root");
    let (keys, threshold) = keys_of(repository, root, Role::Root)?;
    let envelope = Envelope::parse(bytes, MAX_SMALL).map_err(|error| error.at(&at))?;
    envelope.require(&at, &keys, threshold)?;
    match &root.binding {
        Some(binding) if binding.repo == repository => Ok(()),
        _ => Err(VerifyError::RepositoryConfusion { at }),
    }
}

fn snapshot_of<'t>(at: &At, timestamp: &'t Timestamp) -> Result<&'t FileMeta, VerifyError> {
    timestamp.snapshot().map_err(|error| VerifyError::malformed(at, error.to_string()))
}

fn targets_of<'s>(at: &At, snapshot: &'s Snapshot) -> Result<&'s FileMeta, VerifyError> {
    snapshot.file("targets").ok_or_else(|| VerifyError::malformed(at, "the snapshot does not list it"))
}

/// Whether a role's keys or threshold are others in the new root.
fn differs(old: &Root, new: &Root, role: Role) -> bool {
    let set = |root: &Root| {
        root.role(role).ok().map(|keys| {
            let ids: std::collections::BTreeSet<_> = keys.keyids.iter().copied().collect();
            (ids, keys.threshold)
        })
    };
    set(old) != set(new)
}
