use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BuildError, Header, Metadata, Repository, Role};
use crate::envelope::MAX_SIGNATURES;
use crate::{KeyId, PublicKey, Time};

/// More keys than this in one root are refused.
const MAX_KEYS: usize = 128;

/// `root.json`: whose signatures count for each role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    #[serde(flatten)]
    pub header: Header,
    pub consistent_snapshot: bool,
    pub keys: BTreeMap<KeyId, Value>,
    /// The four roles; others (PURE-2's offline roles) may stand beside them.
    pub roles: BTreeMap<String, RoleKeys>,
    /// Binds this root to its repository, so that one repository's files never pass for the other's.
    #[serde(rename = "x-uptane", default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// Keys of one role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    pub keyids: Vec<KeyId>,
    pub threshold: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub repo: Repository,
}

impl RoleKeys {
    /// No key twice, at most 16, a threshold from 1 to their number (CVE-2026-23992), and every key listed in `keys`.
    pub(crate) fn check(&self, name: &str, keys: &BTreeMap<KeyId, Value>) -> Result<(), BuildError> {
        let bad = |text: &str| Err(BuildError::new(format!("role {name}: {text}")));
        let distinct: BTreeSet<_> = self.keyids.iter().collect();
        if distinct.len() != self.keyids.len() {
            return bad("a key id stands twice");
        }
        if self.keyids.len() > MAX_SIGNATURES {
            return bad("more than 16 keys");
        }
        if self.threshold == 0 || self.threshold > self.keyids.len() as u64 {
            return bad("the threshold is 0 or above the number of keys");
        }
        if self.keyids.iter().any(|id| !keys.contains_key(id)) {
            return bad("a key is not listed");
        }
        Ok(())
    }

    /// The role's keys that are understood here. One of an unknown scheme cannot sign, but does not spoil the others.
    pub(crate) fn keys(&self, keys: &BTreeMap<KeyId, Value>) -> Vec<PublicKey> {
        let known = self.keyids.iter().filter_map(|id| PublicKey::from_json(keys.get(id)?).ok());
        known.collect()
    }
}

/// Each key's id must be the hash of the key, so that an id means one key everywhere.
pub(crate) fn check_key_ids(keys: &BTreeMap<KeyId, Value>) -> Result<(), BuildError> {
    if keys.len() > MAX_KEYS {
        return Err(BuildError::new(format!("more than {MAX_KEYS} keys")));
    }
    for (id, json) in keys {
        let hash = crate::canonical::to_bytes(json).map(|bytes| KeyId::of(&bytes));
        if hash.as_ref() != Ok(id) {
            return Err(BuildError::new(format!("key id {id} is not the hash of its key")));
        }
    }
    Ok(())
}

impl Root {
    pub(crate) fn role(&self, role: Role) -> Result<&RoleKeys, BuildError> {
        self.roles.get(role.as_str()).ok_or_else(|| BuildError::new(format!("role {role} is missing")))
    }

    /// The keys and threshold of `role`.
    pub(crate) fn keys_of(&self, role: Role) -> Result<(Vec<PublicKey>, u64), BuildError> {
        let role = self.role(role)?;
        Ok((role.keys(&self.keys), role.threshold))
    }
}

impl Metadata for Root {
    const TYPE: Role = Role::Root;
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.header.check(Role::Root)?;
        if !self.consistent_snapshot {
            return Err(BuildError::new("consistent_snapshot is not set"));
        }
        check_key_ids(&self.keys)?;
        for role in Role::ALL {
            self.role(role)?;
        }
        self.roles.iter().try_for_each(|(name, role)| role.check(name, &self.keys))
    }
}

/// Puts a root together, role by role.
#[derive(Debug, Clone)]
pub struct RootBuilder {
    root: Root,
}

impl RootBuilder {
    pub fn new(repository: Repository, version: NonZeroU64, expires: Time) -> Self {
        let root = Root {
            header: Header::new(Role::Root, version, expires),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            binding: Some(Binding { repo: repository }),
        };
        Self { root }
    }

    /// Gives `role` its keys and threshold, in place of those it had.
    pub fn role<'k>(mut self, role: Role, keys: impl IntoIterator<Item = &'k PublicKey>, threshold: u64) -> Self {
        let mut keyids = Vec::new();
        for key in keys {
            keyids.push(key.id());
            self.root.keys.insert(key.id(), key.json().clone());
        }
        self.root.roles.insert(role.as_str().to_owned(), RoleKeys { keyids, threshold });
        self
    }

    /// All four roles must be there, with sound thresholds.
    pub fn build(mut self) -> Result<Root, BuildError> {
        let used: BTreeSet<KeyId> = self.root.roles.values().flat_map(|role| role.keyids.clone()).collect();
        self.root.keys.retain(|id, _| used.contains(id));
        self.root.check()?;
        Ok(self.root)
    }
}
