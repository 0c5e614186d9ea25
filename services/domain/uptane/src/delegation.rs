//! Finding a target in the Image repository through delegations (TUF 5.6.7): depth first, in order of priority.
//!
//! A search runs from its start each time another role's file has come. Each step verifies the role with the keys of the
//! delegator it came through *this* time, so that a role that is good by one path is not believed by another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pitstop_types::HardwareId;
use serde::Deserialize as _;

use crate::checks::{at, matches, not_expired, open, same_version, utf8, versioned};
use crate::metadata::{
    DelegatedRole, Delegates, Delegations, ImageCustom, MAX_DELEGATED_ROLES, Metadata as _, Repository, Role,
    TargetEntry, Targets,
};
use crate::repository::{MAX_DELEGATED, MAX_IMAGE_TARGETS, RepositoryCheck, Want};
use crate::{At, VerifyError};

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
    /// Fetched and not yet verified.
    files: BTreeMap<String, String>,
    /// Bytes of each role that was fetched or read again.
    lengths: BTreeMap<String, usize>,
    /// Read once, however many paths lead through them.
    opened: BTreeMap<String, Arc<Targets>>,
    /// Delegator and role, for each pair whose signatures were found good.
    vouched: BTreeSet<(String, String)>,
}

/// One search: who was visited, and for which hardware the roles on the way down may speak.
struct Search<'s> {
    check: &'s RepositoryCheck,
    delegated: &'s mut Delegated,
    path: &'s str,
    /// Over the whole search, all branches together.
    visits: usize,
}

/// A role that delegates.
#[derive(Clone, Copy)]
struct Delegator<'d> {
    name: &'d str,
    delegations: &'d Delegations,
}

/// What one role and those below it come to.
enum Branch {
    Found(TargetEntry),
    Nothing,
    /// A terminating delegation lists nothing: the search ends everywhere.
    Ended,
    Need(Want),
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
        self.count(&at, bytes.len())?;
        let text = utf8(&at, bytes)?;
        matches(&at, text.as_bytes(), listed(check, &at)?)?;
        self.files.insert(role.to_owned(), text);
        Ok(())
    }

    /// Looks for `path`. Roles that were verified on the way become part of the repository's files.
    pub(crate) fn find(&mut self, check: &mut RepositoryCheck, path: &str) -> Result<Found, VerifyError> {
        let top = check.targets().ok_or(VerifyError::OutOfOrder)?;
        let mut search = Search { check, delegated: self, path, visits: 0 };
        let branch = search.below(Role::Targets.as_str(), top, &[], &mut BTreeSet::new())?;
        for role in self.opened.keys() {
            if let Some(text) = self.files.remove(role) {
                check.files_mut().put(role, text);
            }
        }
        check.files_mut().shed(&self.lengths);
        Ok(match branch {
            Branch::Found(entry) => Found::Entry(entry),
            Branch::Nothing | Branch::Ended => Found::Nowhere,
            Branch::Need(want) => Found::Need(want),
        })
    }

    /// The role, verified with the keys that this delegator gives it. `None`: its file is needed first.
    fn open(
        &mut self,
        check: &RepositoryCheck,
        role: &DelegatedRole,
        from: Delegator<'_>,
    ) -> Result<Option<Arc<Targets>>, VerifyError> {
        let pair = (from.name.to_owned(), role.name.clone());
        if let Some(file) = self.opened.get(&role.name).filter(|_| self.vouched.contains(&pair)) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(text) = self.text(check, &role.name)? else { return Ok(None) };
        let (file, length) = (verify(check, role, from, text)?, text.len());
        self.count(&at(Repository::Image, &role.name), length)?;
        self.vouched.insert(pair);
        Ok(Some(Arc::clone(self.opened.entry(role.name.clone()).or_insert_with(|| Arc::new(file)))))
    }

    /// The role's file: of this cycle, or the stored one if it is what the snapshot lists by hash.
    fn text<'t>(&'t self, check: &'t RepositoryCheck, role: &str) -> Result<Option<&'t str>, VerifyError> {
        if let Some(text) = self.files.get(role) {
            return Ok(Some(text));
        }
        let stored = check.files().get(role);
        if self.opened.contains_key(role) {
            // Stored in this cycle.
            return Ok(stored);
        }
        let at = at(Repository::Image, role);
        let listed = listed(check, &at)?;
        let same = |text: &&str| listed.hashes.is_some() && matches(&at, text.as_bytes(), listed).is_ok();
        Ok(stored.filter(same))
    }

    /// Holds all roles of this cycle together against their limit.
    fn count(&mut self, at: &At, length: usize) -> Result<(), VerifyError> {
        self.lengths.insert(at.role.clone(), length);
        let length = self.lengths.values().sum();
        if length > MAX_DELEGATED {
            return Err(VerifyError::Oversized { at: at.clone(), length, limit: MAX_DELEGATED });
        }
        Ok(())
    }

    fn want(&self, check: &RepositoryCheck, role: &str) -> Result<Want, VerifyError> {
        let at = at(check.repository(), role);
        let taken: usize = self.lengths.values().sum();
        let listed = listed(check, &at)?;
        let (file, limit) = versioned(role, listed, MAX_IMAGE_TARGETS);
        // Where the snapshot gives no length, whatever is left may come.
        let least = if listed.length.is_some() { limit } else { 1 };
        let left = MAX_DELEGATED.saturating_sub(taken);
        if least > left {
            return Err(VerifyError::Oversized { at, length: taken.saturating_add(least), limit: MAX_DELEGATED });
        }
        let limit = limit.min(left);
        Ok(Want { role: role.to_owned(), file, limit })
    }
}

/// Hardware for which a delegation lets speak, one list for each delegation on the way down.
type Limits<'l> = [&'l [HardwareId]];

impl Search<'_> {
    /// `role` itself, then its delegations in order of priority (TUF 5.6.7).
    fn below(
        &mut self,
        name: &str,
        role: &Targets,
        limits: &Limits<'_>,
        visited: &mut BTreeSet<String>,
    ) -> Result<Branch, VerifyError> {
        if let Some(entry) = role.targets.get(self.path).filter(|entry| within(entry, limits)) {
            return Ok(Branch::Found(entry.clone()));
        }
        let Some(delegations) = &role.delegations else { return Ok(Branch::Nothing) };
        let from = Delegator { name, delegations };
        for delegation in &delegations.roles {
            if !delegation.paths.iter().any(|pattern| pattern_matches(pattern, self.path)) {
                continue;
            }
            let mut limits = limits.to_vec();
            limits.extend(delegation.hardware_ids.as_deref());
            let branch = match &delegation.to {
                Delegates::One(one) => self.visit(one, from, &limits, visited)?,
                Delegates::Several { min_roles_in_agreement, roles } => {
                    self.agree(roles, *min_roles_in_agreement, from, &limits, visited)?
                }
            };
            match branch {
                Branch::Nothing if delegation.terminating => return Ok(Branch::Ended),
                Branch::Nothing => {}
                other => return Ok(other),
            }
        }
        Ok(Branch::Nothing)
    }

    /// One delegated role, verified with the keys that this delegator gives it.
    fn visit(
        &mut self,
        role: &DelegatedRole,
        from: Delegator<'_>,
        limits: &Limits<'_>,
        visited: &mut BTreeSet<String>,
    ) -> Result<Branch, VerifyError> {
        if self.visits >= MAX_DELEGATED_ROLES || !visited.insert(role.name.clone()) {
            return Ok(Branch::Nothing);
        }
        self.visits += 1;
        match self.delegated.open(self.check, role, from)? {
            Some(file) => self.below(&role.name, &file, limits, visited),
            None => Ok(Branch::Need(self.delegated.want(self.check, &role.name)?)),
        }
    }

    /// Several roles, each searched by itself; a file counts when enough of them say the very same of it.
    fn agree(
        &mut self,
        roles: &[DelegatedRole],
        least: usize,
        from: Delegator<'_>,
        limits: &Limits<'_>,
        visited: &BTreeSet<String>,
    ) -> Result<Branch, VerifyError> {
        let mut said: Vec<(TargetEntry, usize)> = Vec::new();
        for role in roles {
            match self.visit(role, from, limits, &mut visited.clone())? {
                Branch::Need(want) => return Ok(Branch::Need(want)),
                Branch::Nothing | Branch::Ended => {}
                Branch::Found(entry) => match said.iter_mut().find(|(other, _)| *other == entry) {
                    Some((_, count)) => *count += 1,
                    None => said.push((entry, 1)),
                },
            }
        }
        let agreed = said.into_iter().find(|(_, count)| *count >= least);
        Ok(agreed.map_or(Branch::Nothing, |(entry, _)| Branch::Found(entry)))
    }
}

/// Whether a file is only for hardware for which every delegation on the way lets speak.
fn within(entry: &TargetEntry, limits: &Limits<'_>) -> bool {
    if limits.is_empty() {
        return true;
    }
    let Ok(custom) = ImageCustom::deserialize(&entry.custom) else { return false };
    limits.iter().all(|allowed| custom.shall_match.hardware_ids.iter().all(|id| allowed.contains(id)))
}

/// The same checks as for the top-level targets (CVE-2026-6967).
fn verify(
    check: &RepositoryCheck,
    role: &DelegatedRole,
    from: Delegator<'_>,
    text: &str,
) -> Result<Targets, VerifyError> {
    let at = at(Repository::Image, &role.name);
    let keys = role.keys.keys(&from.delegations.keys);
    let file: Targets = open(&at, text.as_bytes(), MAX_IMAGE_TARGETS, &keys, role.keys.threshold)?;
    same_version(&at, file.version(), listed(check, &at)?)?;
    not_expired(&at, &file, check.now())?;
    Ok(file)
}

fn listed<'c>(check: &'c RepositoryCheck, at: &At) -> Result<&'c crate::metadata::FileMeta, VerifyError> {
    let snapshot = check.snapshot().ok_or(VerifyError::OutOfOrder)?;
    snapshot.file(&at.role).ok_or_else(|| VerifyError::mixed(at, "the snapshot does not list it"))
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
