//! Finding a target in the Image repository through delegations (TUF 5.6.7): depth first, in order of priority.
//!
//! A search runs from its start each time another role's file has come. Each step verifies the role with the keys of the
//! delegator it came through *this* time, so that a role that is good by one path is not believed by another.

use std::collections::{BTreeMap, BTreeSet};

use crate::checks::{at, matches, not_expired, open, same_version, utf8, versioned};
use crate::metadata::{Delegation, MAX_DELEGATED_ROLES, Metadata as _, Repository, TargetEntry, Targets};
use crate::repository::{MAX_IMAGE_TARGETS, RepositoryCheck, Want};
use crate::{At, PublicKey, VerifyError};

/// What a search came to.
#[derive(Debug)]
pub(crate) enum Found {
    Entry(TargetEntry),
    /// No role that may speak for the path lists it.
    Nowhere,
    /// This role's file is needed first.
    Need(Want),
}

/// Delegated files of this cycle that match the snapshot; whether their signatures count depends on who asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delegated {
    files: BTreeMap<String, String>,
}

/// A delegation and the keys that its delegator gives it.
struct Visit<'t> {
    delegation: &'t Delegation,
    keys: Vec<PublicKey>,
}

impl Delegated {
    /// Takes a delegated role's file, if the snapshot lists it so.
    pub(crate) fn take(
        &mut self,
        check: &RepositoryCheck,
        role: &str,
        bytes: Option<Vec<u8>>,
    ) -> Result<(), VerifyError> {
        let at = at(Repository::Image, role);
        let bytes = bytes.ok_or_else(|| VerifyError::Missing { at: at.clone() })?;
        let text = utf8(&at, bytes)?;
        matches(&at, text.as_bytes(), listed(check, &at)?)?;
        self.files.insert(role.to_owned(), text);
        Ok(())
    }

    /// Looks for `path`. Roles that were verified on the way become part of the repository's files.
    pub(crate) fn find(&mut self, check: &mut RepositoryCheck, path: &str) -> Result<Found, VerifyError> {
        let mut verified = Vec::new();
        let found = self.search(check, path, &mut verified)?;
        for (role, text) in verified {
            check.files_mut().put(&role, text);
        }
        Ok(found)
    }

    fn search(
        &mut self,
        check: &RepositoryCheck,
        path: &str,
        verified: &mut Vec<(String, String)>,
    ) -> Result<Found, VerifyError> {
        let top = check.targets().ok_or(VerifyError::OutOfOrder)?;
        if let Some(entry) = top.targets.get(path) {
            return Ok(Found::Entry(entry.clone()));
        }
        let mut visited = BTreeSet::new();
        // Names with the delegator's keys, next one last.
        let mut ahead: Vec<(Delegation, Vec<PublicKey>)> = Vec::new();
        push(&mut ahead, top, path);
        while let Some((delegation, keys)) = ahead.pop() {
            if visited.len() >= MAX_DELEGATED_ROLES || !visited.insert(delegation.name.clone()) {
                continue;
            }
            let Some(text) = self.text(check, &delegation.name)? else {
                return Ok(Found::Need(want(check, &delegation.name)?));
            };
            let role = verify(check, Visit { delegation: &delegation, keys }, &text)?;
            verified.push((delegation.name, text));
            if let Some(entry) = role.targets.get(path) {
                return Ok(Found::Entry(entry.clone()));
            }
            push(&mut ahead, &role, path);
        }
        Ok(Found::Nowhere)
    }

    /// The role's file: of this cycle, or the stored one if it is what the snapshot lists by hash.
    fn text(&self, check: &RepositoryCheck, role: &str) -> Result<Option<String>, VerifyError> {
        if let Some(text) = self.files.get(role) {
            return Ok(Some(text.clone()));
        }
        let at = at(Repository::Image, role);
        let listed = listed(check, &at)?;
        let stored = check.files().get(role);
        let same = |text: &&str| listed.hashes.is_some() && matches(&at, text.as_bytes(), listed).is_ok();
        Ok(stored.filter(same).map(str::to_owned))
    }
}

/// Puts the delegations of `role` that `path` falls under on the stack, so that the first comes off first. A terminating one
/// ends the whole search after itself.
fn push(ahead: &mut Vec<(Delegation, Vec<PublicKey>)>, role: &Targets, path: &str) {
    let Some(delegations) = &role.delegations else { return };
    let mut children = Vec::new();
    for delegation in &delegations.roles {
        if !delegation.paths.iter().any(|pattern| pattern_matches(pattern, path)) {
            continue;
        }
        children.push((delegation.clone(), delegation.keys.keys(&delegations.keys)));
        if delegation.terminating {
            ahead.clear();
            break;
        }
    }
    ahead.extend(children.into_iter().rev());
}

/// The same checks as for the top-level targets (CVE-2026-6967).
fn verify(check: &RepositoryCheck, visit: Visit<'_>, text: &str) -> Result<Targets, VerifyError> {
    let at = at(Repository::Image, &visit.delegation.name);
    let threshold = visit.delegation.keys.threshold;
    let role: Targets = open(&at, text.as_bytes(), MAX_IMAGE_TARGETS, &visit.keys, threshold)?;
    same_version(&at, role.version(), listed(check, &at)?)?;
    not_expired(&at, &role, check.now())?;
    Ok(role)
}

fn listed<'c>(check: &'c RepositoryCheck, at: &At) -> Result<&'c crate::metadata::FileMeta, VerifyError> {
    let snapshot = check.snapshot().ok_or(VerifyError::OutOfOrder)?;
    snapshot.file(&at.role).ok_or_else(|| VerifyError::mixed(at, "the snapshot does not list it"))
}

fn want(check: &RepositoryCheck, role: &str) -> Result<Want, VerifyError> {
    let at = at(check.repository(), role);
    let (file, limit) = versioned(role, listed(check, &at)?, MAX_IMAGE_TARGETS);
    Ok(Want { role: role.to_owned(), file, limit })
}

/// Whether `path` falls under `pattern`. `*` and `?` never stand for `/`; case always counts.
pub(crate) fn pattern_matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_matches(pattern.as_bytes(), part.as_bytes()) => {}
            _ => return false,
        }
    }
}

/// One component, in time linear in pattern times part: after a mismatch only the last `*` takes one byte more.
fn part_matches(pattern: &[u8], part: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < part.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || part.get(t) == Some(&byte) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_stay_within_one_component_and_case_counts() {
        for (pattern, path, fits) in [
            ("bcm/*", "bcm/1.raucb", true),
            ("bcm/*", "bcm/a/1.raucb", false),
            ("*", "bcm/1", false),
            ("*/*", "bcm/1", true),
            ("b?m/1", "bcm/1", true),
            ("b?m/1", "b/m/1", false),
            ("BCM/*", "bcm/1", false),
            ("*.raucb", "x.raucb.raucb", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("a**", "a", true),
            ("a?", "a", false),
        ] {
            assert_eq!(pattern_matches(pattern, path), fits, "{pattern} {path}");
        }
    }

    /// The plain definition, exponential but obviously right.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                naive(rest, text) || text.split_first().is_some_and(|(&c, more)| c != b'/' && naive(pattern, more))
            }
            (Some((b'?', rest)), Some((&c, more))) => c != b'/' && naive(rest, more),
            (Some((p, rest)), Some((c, more))) => p == c && naive(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_their_definition_says(pattern in "[ab*?/]{0,8}", path in "[ab/]{0,8}") {
            prop_assert_eq!(pattern_matches(&pattern, &path), naive(pattern.as_bytes(), path.as_bytes()));
        }
    }
}
