//! A validator on its stage: what a test needs around it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pitstop_bundle_io::build::{EcuSoftware, TcuSoftware};
use pitstop_bundle_io::keys::{self, Usage};
use pitstop_bundle_io::{Builder, BuiltBundle, Keyring, Signer as BundleSigner};
use pitstop_dbus::OtaError;
use pitstop_store::cut::Disk;
use pitstop_types::{Digest, HardwareId, ReleaseCounter, SoftwareVersion};
use pitstop_uptane::{
    DirectorTarget, EcuPairing, ImageTarget, MemorySigner, PairingRole, PublicKey, Repository, Scheme, ShallMatch,
    SignError, Signer, Targets,
};

use super::world::{self, DAY, NOW, World, at, ecu, n, vin};
use crate::ports::{EcuReading, Identity, MetadataSource, VersionSource};
use crate::{Parts, Validator};

/// A development authority and what it signs.
pub(super) struct Authority {
    pub(super) signer: BundleSigner,
    pub(super) keyring: Keyring,
}

impl Authority {
    pub(super) fn new() -> Self {
        let root = keys::identity("Test CA", Usage::Authority, None, NOW - DAY, 365).unwrap();
        let signer = keys::identity("Test signer", Usage::BundleSigner, Some(&root), NOW - DAY, 90).unwrap();
        Self {
            keyring: Keyring::from_pem(&root.certificate_pem().unwrap()).unwrap(),
            signer: BundleSigner { certificate: signer.certificate, key: signer.key, intermediates: vec![] },
        }
    }

    pub(super) fn bundle(&self, folder: &Path, part: &str, version: &str, counter: u64) -> BuiltBundle {
        let software = EcuSoftware {
            hardware: HardwareId::new(format!("{part}-a1")).unwrap(),
            version: SoftwareVersion::new(version).unwrap(),
            counter: ReleaseCounter(counter),
            software_number: "PS-1".into(),
            replaces: vec![],
            identity_address: 0x1000,
            firmware: vec![(0x2000, version.bytes().cycle().take(20_000).collect())],
        };
        let path = folder.join(format!("{part}-{version}.raucb"));
        Builder::ecu(&software).unwrap().write(&path, &self.signer).unwrap()
    }
}

impl Authority {
    /// A bundle for the TCU; its root file system is noise.
    pub(super) fn tcu_bundle(&self, folder: &Path, hardware: &str, version: &str, counter: u64) -> BuiltBundle {
        let rootfs = folder.join("rootfs.ext4");
        let noise = (0..40_960_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        std::fs::write(&rootfs, noise.collect::<Vec<u8>>()).unwrap();
        let software = TcuSoftware {
            hardware: HardwareId::new(hardware).unwrap(),
            version: SoftwareVersion::new(version).unwrap(),
            counter: ReleaseCounter(counter),
            rootfs,
        };
        let path = folder.join(format!("{hardware}-{version}.raucb"));
        Builder::tcu(&software).unwrap().write(&path, &self.signer).unwrap()
    }
}

/// The repositories behind the validator; tests change them between cycles.
pub(super) struct Repositories(pub(super) Mutex<World>);

#[async_trait]
impl MetadataSource for Repositories {
    async fn fetch(&self, repository: Repository, file: &str, limit: usize) -> Result<Option<Vec<u8>>, OtaError> {
        let mut world = self.0.lock().unwrap();
        let edit = world.edit.take();
        let bytes = world.repo(repository).files(repository, edit.as_ref()).get(file).cloned();
        world.edit = edit;
        let bytes = match &world.serve {
            Some(serve) => serve(repository, file, bytes),
            None => bytes,
        };
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > limit) {
            return Err(OtaError::Oversized(file.to_owned()));
        }
        Ok(bytes)
    }
}

/// ECUs that answer as they are told to.
pub(super) struct Ecus(pub(super) Mutex<Vec<EcuReading>>);

#[async_trait]
impl VersionSource for Ecus {
    async fn read_all(&self) -> Result<Vec<EcuReading>, OtaError> {
        let readings = self.0.lock().unwrap().clone();
        if readings.is_empty() { Err(OtaError::EcuNotResponding("tcu".into())) } else { Ok(readings) }
    }

    async fn read_tcu(&self) -> Result<EcuReading, OtaError> {
        let found = self.0.lock().unwrap().iter().find(|reading| reading.ecu.is_tcu()).cloned();
        found.ok_or_else(|| OtaError::EcuNotResponding("tcu".into()))
    }
}

pub(super) fn reading(part: &str, version: Option<&str>) -> EcuReading {
    EcuReading {
        ecu: ecu(part),
        hardware: HardwareId::new(format!("{part}-a1")).unwrap(),
        version: version.map(|version| SoftwareVersion::new(version).unwrap()),
        software_number: "PS-1".into(),
        serial: "S-1".into(),
        answered: true,
    }
}

pub(super) struct Key(MemorySigner);

impl Signer for Key {
    fn public(&self) -> &PublicKey {
        self.0.public()
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.0.sign(message)
    }
}

impl Identity for Key {
    fn store(&self) -> &'static str {
        "file"
    }
}

/// What outlives the validator: disk, folder, repositories, ECUs and key.
pub(super) struct Stage {
    pub(super) disk: Disk,
    pub(super) folder: tempfile::TempDir,
    pub(super) authority: Authority,
    pub(super) repositories: Arc<Repositories>,
    pub(super) ecus: Arc<Ecus>,
    pub(super) key: Arc<Key>,
    pub(super) target: BuiltBundle,
    pub(super) fallback: BuiltBundle,
    pub(super) factory: pitstop_uptane::Generation,
}

/// How the repositories list a bundle.
pub(super) fn listed(bundle: &BuiltBundle, part: &str, version: &str, counter: u64) -> ImageTarget {
    let bytes = std::fs::read(&bundle.path).unwrap();
    ImageTarget {
        length: bundle.length,
        sha256: bundle.sha256,
        sha512: Some(hex::encode(<sha2::Sha512 as sha2::Digest>::digest(&bytes))),
        shall_match: ShallMatch {
            hardware_ids: vec![HardwareId::new(format!("{part}-a1")).unwrap()],
            release_counter: ReleaseCounter(counter),
            format: ShallMatch::FORMAT.into(),
            rauc_manifest_hash: bundle.manifest_hash,
            sw_version: SoftwareVersion::new(version).unwrap(),
            security_floor: None,
        },
    }
}

impl Stage {
    /// One ECU, `bcm`, that goes from 1.0.0 (counter 3) to 2.0.0 (counter 4).
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let target = authority.bundle(folder.path(), "bcm", "2.0.0", 4);
        let fallback = authority.bundle(folder.path(), "bcm", "1.0.0", 3);
        let mut world = World::new();
        let expires = at(NOW + DAY);
        world.director.targets = Targets::director(n(1), expires, vin(), Some(world::order()));
        world.image.targets = Targets::image(n(1), expires);
        let factory = world.initial();
        let stage = Self {
            disk: Disk::new(),
            authority,
            repositories: Arc::new(Repositories(Mutex::new(world))),
            ecus: Arc::new(Ecus(Mutex::new(vec![reading("tcu", Some("1.0.0")), reading("bcm", Some("1.0.0"))]))),
            key: Arc::new(Key(MemorySigner::generate(Scheme::EcdsaP256).unwrap())),
            factory,
            folder,
            fallback,
            target,
        };
        stage.list(&listed(&stage.target, "bcm", "2.0.0", 4), "bcm/2.raucb", PairingRole::Target);
        stage.list(&listed(&stage.fallback, "bcm", "1.0.0", 3), "bcm/1.raucb", PairingRole::Fallback);
        stage
    }

    /// Lists a bundle for `bcm` in both repositories.
    pub(super) fn list(&self, image: &ImageTarget, path: &str, role: PairingRole) {
        let mut world = self.repositories.0.lock().unwrap();
        world.image.targets.targets.remove(path);
        world.director.targets.targets.remove(path);
        world.image.targets.list_image(path, image.clone()).unwrap();
        let hardware_id = image.shall_match.hardware_ids[0].clone();
        let ecus = BTreeMap::from([(ecu("bcm"), EcuPairing { hardware_id, role: None })]);
        world.director.targets.list_director(path, DirectorTarget { image: image.clone(), ecus, role }).unwrap();
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.repositories.0.lock().unwrap());
    }

    pub(super) fn parts(&self) -> Parts {
        Parts {
            storage: Arc::new(self.disk.storage()),
            bundles: self.bundles(),
            reserve: 0,
            tcu_floor: None,
            vin: vin(),
            ecus: BTreeMap::from([
                (ecu("tcu"), HardwareId::new("tcu-a1").unwrap()),
                (ecu("bcm"), HardwareId::new("bcm-a1").unwrap()),
            ]),
            factory: self.factory.clone(),
            keyring: self.authority.keyring.clone(),
            identity: self.key.clone(),
            metadata: self.repositories.clone(),
            versions: self.ecus.clone(),
            clock: || Some(NOW),
        }
    }

    pub(super) fn bundles(&self) -> PathBuf {
        self.folder.path().join("admitted")
    }

    /// A new life of the service on the same disk.
    pub(super) fn open(&self) -> Arc<Validator> {
        Arc::new(Validator::open(self.parts()).unwrap())
    }

    /// One that has verified the update `u-1`.
    pub(super) async fn decided(&self) -> Arc<Validator> {
        let validator = self.open();
        validator.verify().await.unwrap();
        validator
    }

    pub(super) fn files_in_store(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bundles()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Admits and says how it ended.
pub(super) async fn admit(validator: &Arc<Validator>, role: &str, path: &Path) -> Result<(), OtaError> {
    let admission = validator.plan_admission("u-1", "bcm", role)?;
    validator.admit(admission, File::open(path).unwrap(), |_, _| true).await
}

/// A file's bytes under another name, changed.
pub(super) fn changed(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    let other = path.with_extension("changed");
    std::fs::write(&other, bytes).unwrap();
    other
}

pub(super) fn digest(path: &Path) -> Digest {
    Digest::of(&std::fs::read(path).unwrap())
}
