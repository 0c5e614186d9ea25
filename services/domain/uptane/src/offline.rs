//! The verification without a network: a medium brings the metadata of both repositories, and the Director's offline roles speak in
//! place of its online ones (Uptane's PURE-2, "Download and verify metadata from the well-known location").
//!
//! Of what the device knows and what the medium brings the newer counts. So a medium that was withdrawn is refused by every device
//! that has seen a newer offline snapshot, by network or on another medium.

use std::collections::BTreeMap;

use pitstop_types::UnixSeconds;

use crate::checks::{at, matches, not_expired, not_older, open, read, same_version, utf8};
use crate::delegation::{Delegated, Found};
use crate::metadata::{Metadata as _, OfflineSnapshot, OfflineTargets, Repository, Role};
use crate::pairing::{self, Directed, Vehicle};
use crate::repository::{MAX_SMALL, RepositoryCheck, Want};
use crate::verification::{Approval, Generation};
use crate::{Verified, VerifyError};

/// A medium's metadata files by their plain names: `2.root.json`, `offline-snapshot.json`, `snapshot.json`, `targets.json`, and the
/// one offline targets file under the name that the offline snapshot gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfflineFiles {
    pub director: BTreeMap<String, Vec<u8>>,
    pub image: BTreeMap<String, Vec<u8>>,
}

/// Verifies a medium. The generation is what is trusted afterwards, worth storing after a refusal as well: a root that was followed
/// stays followed, an offline snapshot that was seen stays seen.
///
/// `now`: `None` when the wall-clock time is not known, which refuses everything.
pub fn verify_offline(
    vehicle: &Vehicle,
    trusted: Generation,
    brought: &OfflineFiles,
    now: Option<UnixSeconds>,
) -> (Result<Verified<Approval>, VerifyError>, Generation) {
    let checks = now.filter(|&now| now > 0).ok_or(VerifyError::TimeUnknown).and_then(|now| {
        let director = RepositoryCheck::new(Repository::Director, trusted.director.clone(), now)?;
        Ok((director, RepositoryCheck::new(Repository::Image, trusted.image.clone(), now)?))
    });
    let (mut director, mut image) = match checks {
        Ok(checks) => checks,
        Err(error) => return (Err(error), trusted),
    };
    let result = verify(vehicle, &mut director, &mut image, brought);
    let generation = Generation { director: director.files().clone(), image: image.files().clone() };
    (result.map(Verified::new), generation)
}

fn verify(
    vehicle: &Vehicle,
    director: &mut RepositoryCheck,
    image: &mut RepositoryCheck,
    brought: &OfflineFiles,
) -> Result<Approval, VerifyError> {
    director.follow_roots(&brought.director)?;
    let snapshot = take_snapshot(director, brought.director.get("offline-snapshot.json"))?;
    let targets = take_targets(director, &snapshot, &brought.director)?;
    let directed = pairing::read_offline(&targets.0, vehicle, director.now())?;
    image.follow_roots(&brought.image)?;
    image.take_brought_snapshot(brought.image.get("snapshot.json"))?;
    if image.targets().is_none() {
        image.take(brought.image.get("targets.json").cloned())?;
    }
    compare(&directed, image, &brought.image)?;
    let image_version = image.targets().map_or(0, |targets| targets.version());
    let (decision, floors) = directed.decide(vehicle, image_version)?;
    Ok(Approval {
        decision: Some(decision),
        floors,
        director_targets_version: targets.version(),
        image_targets_version: image_version,
    })
}

/// The offline snapshot as an online cycle asks for it.
pub(crate) fn want() -> Want {
    let role = Role::OfflineSnapshot.to_string();
    Want { file: format!("{role}.json"), role, limit: MAX_SMALL }
}

/// The newer of the stored and the brought offline snapshot; kept when it is the brought one.
pub(crate) fn take_snapshot(
    director: &mut RepositoryCheck,
    brought: Option<&Vec<u8>>,
) -> Result<OfflineSnapshot, VerifyError> {
    let role = Role::OfflineSnapshot;
    let at = at(Repository::Director, role.as_str());
    let (keys, threshold) = director.keys(role)?;
    let good = |text: &str| open::<OfflineSnapshot>(&at, text.as_bytes(), MAX_SMALL, &keys, threshold);
    // One that the present root does not stand behind any more is forgotten, with whatever version a thief gave it.
    let known = director.files().get(role.as_str()).and_then(|text| good(text).ok());
    let Some(bytes) = brought else {
        let known = known.ok_or_else(|| VerifyError::Missing { at: at.clone() })?;
        return not_expired(&at, &known, director.now()).map(|()| known);
    };
    let seen: OfflineSnapshot = read(&at, bytes, MAX_SMALL)?;
    if let Some(known) = known.as_ref().filter(|known| known.version() >= seen.version()) {
        return not_expired(&at, known, director.now()).map(|()| known.clone());
    }
    let text = utf8(&at, bytes.clone())?;
    let new = good(&text)?;
    for (file, before) in known.iter().flat_map(|known| &known.meta) {
        // One that is listed no more is withdrawn; one that is must not go back.
        if let Some(now) = new.meta.get(file) {
            not_older(&at, now.version.get(), before.version.get())?;
        }
    }
    not_expired(&at, &new, director.now())?;
    director.files_mut().put(role.as_str(), text);
    Ok(new)
}

/// The first listed targets file that the medium has.
fn take_targets(
    director: &RepositoryCheck,
    snapshot: &OfflineSnapshot,
    brought: &BTreeMap<String, Vec<u8>>,
) -> Result<OfflineTargets, VerifyError> {
    let at = at(Repository::Director, Role::OfflineTargets.as_str());
    let found = snapshot.meta.iter().find_map(|(name, listed)| Some((listed, brought.get(name)?)));
    let (listed, bytes) = found.ok_or_else(|| VerifyError::Missing { at: at.clone() })?;
    let (keys, threshold) = director.keys(Role::OfflineTargets)?;
    let targets: OfflineTargets = open(&at, bytes, MAX_SMALL, &keys, threshold)?;
    if targets.version() < listed.version.get() {
        let (version, known) = (targets.version(), listed.version.get());
        return Err(VerifyError::Rollback { at, version, known });
    }
    same_version(&at, targets.version(), listed)?;
    matches(&at, bytes, listed)?;
    not_expired(&at, &targets, director.now())?;
    Ok(targets)
}

/// Every directed file must stand in the Image repository, the very same.
fn compare(
    directed: &Directed,
    image: &mut RepositoryCheck,
    brought: &BTreeMap<String, Vec<u8>>,
) -> Result<(), VerifyError> {
    let mut delegated = Delegated::default();
    for path in directed.paths() {
        loop {
            match delegated.find(image, path)? {
                Found::Entry(entry) => break directed.compare(path, &entry)?,
                Found::Nowhere => return Err(VerifyError::mismatch(path, "the Image repository does not list it")),
                Found::Need(want) => {
                    let file = brought.get(&format!("{}.json", want.role)).cloned();
                    delegated.take(image, &want.role, file)?;
                }
            }
        }
    }
    Ok(())
}
