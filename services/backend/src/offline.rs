//! Packages for workshops: a TCU bundle with the metadata under which a vehicle installs it without a network.
//!
//! It is made where the Image repository's signed files and the bundles are, with two keys that the backend itself never has: those of
//! the Director's offline roles. Their folder is brought for it and taken away again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use pitstop_bundle::package::{self, Side};
use pitstop_types::{CampaignId, EcuId, PromptFacts, UpdateId, Vin};
use pitstop_uptane::metadata::FileMeta;
use pitstop_uptane::{
    DirectorTarget, EcuPairing, OfflineSnapshot, OfflineTargets, Order, PairingRole, Repository as Repo, Role as Named,
    Time, sign,
};
use serde::Serialize;

use crate::backend::{Backend, read_key};
use crate::clock::later;
use crate::director::image_target;
use crate::error::Error;
use crate::init::key_name;
use crate::model::{Bundle, Role};

/// What a package is made from.
#[derive(Debug, Clone)]
pub struct PackageOptions {
    /// A published release; its bundle for the TCU goes into the package.
    pub release: String,
    /// Folder with the keys of the Director's offline roles.
    pub keys: PathBuf,
    /// For this vehicle alone.
    pub vin: Option<Vin>,
    /// How long the package is good for, in seconds.
    pub lifetime_secs: u64,
    pub out: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct Package {
    pub file: PathBuf,
    pub length: u64,
    pub update: UpdateId,
    pub version: String,
    /// Unix time, seconds.
    pub expires: i64,
}

impl Backend {
    /// Signs and writes a package, and keeps the new list of all packages to be served. In a vehicle that has seen the new list every
    /// earlier package for the same hardware is withdrawn.
    pub async fn offline_package(&self, options: &PackageOptions) -> Result<Package, Error> {
        let release = self.need_release(&options.release).await?;
        let listed = self.listed_bundles().await?;
        let bundle = release.bundles.iter().filter_map(|id| listed.get(id)).find(|bundle| bundle.kind == "tcu");
        let bundle = bundle.ok_or(Error::NotFound("published bundle for the TCU in this release"))?;
        let facts = release.facts.clone().ok_or_else(|| Error::Invalid("the release has no facts".to_owned()))?;
        let expires = later(self.clock.now(), options.lifetime_secs);
        let update = UpdateId::new(format!("{}{}", UpdateId::WORKSHOP_PREFIX, release.id));
        let update = update.map_err(Error::internal("naming the update"))?;
        let mut files = self.image_files().await?;
        // One root per repository so far; a medium brings all of them (PURE-2, "Required files").
        for (repository, side) in [("director", Side::Director), ("image", Side::Image)] {
            let root = self.roots.get(repository).cloned().unwrap_or_default();
            files.insert(package::metadata_name(side, "1.root.json"), root);
        }
        let (list, targets) = self.director_files(options, bundle, &update, facts, expires)?;
        files.insert(package::metadata_name(Side::Director, "offline-snapshot.json"), list.clone());
        files.insert(package::metadata_name(Side::Director, &format!("{}.json", bundle.hardware)), targets);
        let objects = self.dir.objects();
        let (object, out, length) = (objects.join(&bundle.sha256), options.out.clone(), bundle.length);
        let written = tokio::task::spawn_blocking(move || write(&out, &files, &object, length)).await;
        let length =
            written.map_err(Error::internal("writing the package"))?.map_err(Error::internal("writing the package"))?;
        self.keep_list(&list)?;
        let version = bundle.version.to_string();
        Ok(Package { file: options.out.clone(), length, update, version, expires })
    }

    /// The newest files of the Image repository, as they are served.
    async fn image_files(&self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut files = BTreeMap::new();
        for (role, name) in [(Role::Snapshot, "snapshot.json"), (Role::Targets, "targets.json")] {
            let file = self.repo.image_file(role, None).await?.ok_or(Error::NotFound("image metadata"))?;
            files.insert(package::metadata_name(Side::Image, name), file.bytes);
        }
        Ok(files)
    }

    /// What other hardware's packages are listed; damage here must not withdraw them by accident.
    fn listed_before(&self) -> Result<BTreeMap<String, FileMeta>, Error> {
        let failed = "reading the list of packages";
        match std::fs::read(self.dir.offline_snapshot()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(Error::internal(failed)(error)),
            Ok(bytes) => {
                let mut file: serde_json::Value = serde_json::from_slice(&bytes).map_err(Error::internal(failed))?;
                let signed = file.get_mut("signed").map(serde_json::Value::take).unwrap_or_default();
                let list = serde_json::from_value::<OfflineSnapshot>(signed);
                Ok(list.map_err(Error::internal(failed))?.meta)
            }
        }
    }

    /// Replaces the served list by the new one, whole.
    fn keep_list(&self, list: &[u8]) -> Result<(), Error> {
        let path = self.dir.offline_snapshot();
        let new = path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| file.write_all(list).and_then(|()| file.sync_all()));
        written.and_then(|()| std::fs::rename(&new, &path)).map_err(Error::internal("keeping the list of packages"))
    }

    /// The new list, and the targets for this hardware.
    fn director_files(
        &self,
        options: &PackageOptions,
        bundle: &Bundle,
        update: &UpdateId,
        facts: PromptFacts,
        expires: i64,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let failed = "signing the offline metadata";
        let key = |role| read_key(&options.keys.join(key_name(Repo::Director, role)));
        let (snapshot_key, targets_key) = (key(Named::OfflineSnapshot)?, key(Named::OfflineTargets)?);
        let time = Time::from_unix(expires).map_err(Error::internal(failed))?;
        // Seconds since 1970: it rises by itself, and no counter has to travel between machines.
        let version = u64::try_from(self.clock.now()).ok().and_then(NonZeroU64::new);
        let version = version.ok_or_else(|| Error::Invalid("the clock is not set".to_owned()))?;
        let campaign = CampaignId::new("workshop").map_err(Error::internal(failed))?;
        let order = Order { update: update.clone(), campaign, install_by: expires, facts, conditions: Vec::new() };
        let mut targets = OfflineTargets::new(version, time, options.vin.clone(), order);
        let pairing = EcuPairing { hardware_id: bundle.hardware.clone(), role: None };
        let target = DirectorTarget {
            image: image_target(bundle)?,
            ecus: BTreeMap::from([(EcuId::tcu(), pairing)]),
            role: PairingRole::Target,
        };
        targets.list(&bundle.path, target).map_err(Error::internal(failed))?;
        let targets = sign(&targets, &[&targets_key]).map_err(Error::internal(failed))?;
        let listed = [(bundle.hardware.as_str(), &targets)];
        let mut list = OfflineSnapshot::new(version, time, listed).map_err(Error::internal(failed))?;
        for (name, before) in self.listed_before()? {
            list.meta.entry(name).or_insert(before);
        }
        let list = sign(&list, &[&snapshot_key]).map_err(Error::internal(failed))?;
        Ok((list.bytes, targets.bytes))
    }
}

/// Writes the archive; the bundle last, so that a vehicle knows what it is about to take.
fn write(out: &Path, files: &BTreeMap<String, Vec<u8>>, object: &Path, length: u64) -> io::Result<u64> {
    let mut archive = File::create_new(out)?;
    let pad = |archive: &mut File, length: u64| io::copy(&mut io::Read::take(io::repeat(0), length), archive);
    for (name, bytes) in files {
        archive.write_all(&package::header(name, bytes.len() as u64).map_err(io::Error::other)?)?;
        archive.write_all(bytes)?;
        pad(&mut archive, package::padding(bytes.len() as u64))?;
    }
    archive.write_all(&package::header(package::BUNDLE, length).map_err(io::Error::other)?)?;
    let copied = io::copy(&mut File::open(object)?, &mut archive)?;
    if copied != length {
        return Err(io::Error::other(format!("the stored bundle has {copied} bytes, {length} are on record")));
    }
    // Two blocks of zeros end an archive.
    pad(&mut archive, package::padding(length) + 2 * package::TAR_BLOCK as u64)?;
    archive.sync_all()?;
    Ok(archive.metadata()?.len())
}
