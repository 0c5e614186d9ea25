use std::collections::{BTreeMap, BTreeSet};

use pitstop_types::HardwareId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::root::{RoleKeys, check_key_ids};
use super::{BuildError, Role, Targets};
use crate::{KeyId, PublicKey};

/// A search visits at most this many delegated roles.
pub const MAX_DELEGATED_ROLES: usize = 32;
/// Most paths, and most hardware ids, in one delegation.
const MAX_LIST: usize = 256;
const MAX_PATTERN: usize = 256;

/// Whom a targets role lets speak for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delegations {
    pub keys: BTreeMap<KeyId, Value>,
    /// In order of priority.
    pub roles: Vec<Delegation>,
}

/// One delegation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    #[serde(flatten)]
    pub to: Delegates,
    /// Patterns; `*` and `?` never stand for `/`.
    pub paths: Vec<String>,
    /// Only files for this hardware; absent: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_ids: Option<Vec<HardwareId>>,
    /// A path that matches is not looked for in any later delegation.
    #[serde(default)]
    pub terminating: bool,
}

/// Who speaks: one role, or several of which some must say the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Delegates {
    /// TUF Augmentation Proposal 3, multi-role delegations.
    Several {
        min_roles_in_agreement: usize,
        roles: Vec<DelegatedRole>,
    },
    One(DelegatedRole),
}

/// A role's name and whose signatures count for it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    pub name: String,
    #[serde(flatten)]
    pub keys: RoleKeys,
}

impl Delegates {
    fn all(&self) -> &[DelegatedRole] {
        match self {
            Self::One(role) => std::slice::from_ref(role),
            Self::Several { roles, .. } => roles,
        }
    }
}

impl Targets {
    /// Lets the holders of `keys` speak for `paths`, after all delegations that are there already.
    pub fn delegate<'k>(
        &mut self,
        name: &str,
        keys: impl IntoIterator<Item = &'k PublicKey>,
        threshold: u64,
        paths: &[&str],
        terminating: bool,
    ) -> Result<(), BuildError> {
        let delegations = self.delegations.get_or_insert_default();
        let role = delegations.role(name, keys, threshold);
        delegations.push(Delegates::One(role), paths, terminating)
    }

    /// Lets `roles` (name and key of each) speak for `paths` where at least `agree` of them list the very same file.
    pub fn delegate_to_several(
        &mut self,
        roles: &[(&str, &PublicKey)],
        agree: usize,
        paths: &[&str],
        terminating: bool,
    ) -> Result<(), BuildError> {
        let delegations = self.delegations.get_or_insert_default();
        let roles = roles.iter().map(|&(name, key)| delegations.role(name, [key], 1)).collect();
        delegations.push(Delegates::Several { min_roles_in_agreement: agree, roles }, paths, terminating)
    }
}

impl Delegations {
    fn role<'k>(&mut self, name: &str, keys: impl IntoIterator<Item = &'k PublicKey>, threshold: u64) -> DelegatedRole {
        let mut keyids = Vec::new();
        for key in keys {
            keyids.push(key.id());
            self.keys.insert(key.id(), key.json().clone());
        }
        DelegatedRole { name: name.to_owned(), keys: RoleKeys { keyids, threshold } }
    }

    fn push(&mut self, to: Delegates, paths: &[&str], terminating: bool) -> Result<(), BuildError> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        self.roles.push(Delegation { to, paths, hardware_ids: None, terminating });
        self.check()
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        check_key_ids(&self.keys)?;
        if self.roles.iter().map(|delegation| delegation.to.all().len()).sum::<usize>() > MAX_DELEGATED_ROLES {
            return Err(BuildError::new(format!("more than {MAX_DELEGATED_ROLES} delegated roles")));
        }
        let mut names = BTreeSet::new();
        for delegation in &self.roles {
            delegation.check()?;
            for role in delegation.to.all() {
                if !is_role_name(&role.name) || !names.insert(&role.name) {
                    return Err(BuildError::new(format!("{:?} is no role name, or stands twice", role.name)));
                }
                role.keys.check(&role.name, &self.keys)?;
            }
        }
        Ok(())
    }
}

impl Delegation {
    fn check(&self) -> Result<(), BuildError> {
        let long = |path: &String| path.is_empty() || path.len() > MAX_PATTERN;
        if self.paths.len() > MAX_LIST || self.paths.iter().any(long) {
            return Err(BuildError::new("a delegation with too many, too long or empty paths"));
        }
        if self.hardware_ids.as_ref().is_some_and(|ids| ids.len() > MAX_LIST) {
            return Err(BuildError::new("a delegation with too many hardware ids"));
        }
        match &self.to {
            Delegates::Several { min_roles_in_agreement: least, roles } if *least == 0 || *least > roles.len() => {
                Err(BuildError::new("a delegation that asks for more agreement than it has roles, or for none"))
            }
            _ => Ok(()),
        }
    }
}

/// A role name is part of a file name: letters, digits, `-`, `_` and inner dots, and none of the top-level names.
pub fn is_role_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len())
        && name.bytes().all(legal)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && !name.contains("..")
        && !Role::ALL.iter().chain(&Role::OFFLINE).any(|role| role.as_str().eq_ignore_ascii_case(name))
}
