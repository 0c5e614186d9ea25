//! A workshop's package: what is admitted, and all that is not.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use pitstop_bundle::package::{BUNDLE, Side, header, metadata_name, padding};
use pitstop_bundle_io::BuiltBundle;
use pitstop_dbus::OtaError;
use pitstop_store::cut::Cut;
use pitstop_types::{ReleaseCounter, SoftwareVersion, UpdateId};
use pitstop_uptane::{
    DirectorTarget, EcuPairing, ImageTarget, OfflineSnapshot, OfflineTargets, PairingRole, Repository, Scheme, sign,
};

use super::stage::{Authority, Stage, listed, reading};
use super::world::{self, DAY, NOW, at, ecu, n};
use crate::{Validator, local};

/// A TCU that runs 1.0.0, repositories whose Director has offline roles, and a bundle of 2.0.0.
struct Workshop {
    stage: Stage,
    bundle: BuiltBundle,
    targets: OfflineTargets,
}

const PATH: &str = "tcu/2.raucb";

impl Workshop {
    fn new() -> Self {
        let stage = Stage::new();
        let bundle = stage.authority.tcu_bundle(stage.folder.path(), "tcu-a1", "2.0.0", 4);
        Self::with(stage, bundle, |_| {})
    }

    /// The bundle is listed as 2.0.0 for tcu-a1, whatever it is, but for what `change` does to it.
    fn with(mut stage: Stage, bundle: BuiltBundle, change: impl FnOnce(&mut ImageTarget)) -> Self {
        let mut image = listed(&bundle, "tcu", "2.0.0", 4);
        change(&mut image);
        let mut factory = None;
        stage.change(|world| {
            // Ed25519, so that the same file signed twice is the same file.
            world.director.keys.offline = Some([world::key(Scheme::Ed25519), world::key(Scheme::Ed25519)]);
            world.director.roots = vec![world.director.next_root(Repository::Director, &[])];
            world.image.targets.list_image(PATH, image.clone()).unwrap();
            factory = Some(world.initial());
        });
        stage.factory = factory.unwrap();
        let mut workshop = Self { stage, bundle, targets: targets() };
        workshop.direct("tcu", image);
        workshop
    }

    fn direct(&mut self, to: &str, image: ImageTarget) {
        let hardware_id = image.shall_match.hardware_ids[0].clone();
        let ecus = BTreeMap::from([(ecu(to), EcuPairing { hardware_id, role: None })]);
        let path = if to == "tcu" { PATH } else { "bcm/2.raucb" };
        self.targets.list(path, DirectorTarget { image, ecus, role: PairingRole::Target }).unwrap();
    }

    fn metadata(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        self.stage.change(|world| {
            let [snapshot_key, targets_key] = world.director.keys.offline.as_ref().unwrap();
            let targets = sign(&self.targets, &[targets_key]).unwrap();
            let snapshot = OfflineSnapshot::new(n(1), at(NOW + DAY), [("tcu", &targets)]).unwrap();
            let snapshot = sign(&snapshot, &[snapshot_key]).unwrap();
            files.insert(metadata_name(Side::Director, "tcu.json"), targets.bytes);
            files.insert(metadata_name(Side::Director, "offline-snapshot.json"), snapshot.bytes);
            for (name, bytes) in world.image.files(Repository::Image, None) {
                if let Some(plain @ ("snapshot.json" | "targets.json")) = name.split_once('.').map(|(_, plain)| plain) {
                    files.insert(metadata_name(Side::Image, plain), bytes);
                }
            }
        });
        files
    }

    fn package(&self) -> Vec<u8> {
        archive(&self.metadata(), &std::fs::read(&self.bundle.path).unwrap())
    }

    async fn refusal(&self, package: &[u8]) -> &'static str {
        let validator = self.stage.open();
        let error = send(&validator, package, package.len() as u64).await.unwrap_err();
        assert!(self.stage.files_in_store().is_empty(), "{error}");
        assert!(matches!(validator.open_admitted("w-1", "tcu", "target"), Err(OtaError::NotAdmitted(_))));
        error.short_name()
    }
}

fn targets() -> OfflineTargets {
    let mut order = world::order();
    order.update = UpdateId::new("w-1").unwrap();
    OfflineTargets::new(n(1), at(NOW + DAY), None, order)
}

fn archive(files: &BTreeMap<String, Vec<u8>>, bundle: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let members = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).chain([(BUNDLE, bundle)]);
    for (name, bytes) in members {
        archive.extend(header(name, bytes.len() as u64).unwrap());
        archive.extend(bytes);
        archive.resize(archive.len() + padding(bytes.len() as u64) as usize, 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Sends as a diagnostic server does, and stops when nobody listens any more.
async fn send(
    validator: &Arc<Validator>,
    package: &[u8],
    length: u64,
) -> Result<(UpdateId, SoftwareVersion), OtaError> {
    let (reception, mut sink) = local::pipe(length)?;
    let bytes = package.to_vec();
    let sender = std::thread::spawn(move || sink.write_all(&bytes).is_ok());
    let result = validator.receive(reception, async || {}).await;
    sender.join().unwrap();
    result
}

#[tokio::test]
async fn a_package_is_verified_and_its_bundle_admitted_for_the_tcu() {
    let workshop = Workshop::new();
    let validator = workshop.stage.open();
    let package = workshop.package();
    for _ in 0..2 {
        let (update, version) = send(&validator, &package, package.len() as u64).await.unwrap();
        assert_eq!((update.as_str(), version.as_str()), ("w-1", "2.0.0"));
        let (_, description) = validator.open_admitted("w-1", "tcu", "target").unwrap();
        assert_eq!((description.hardware.as_str(), description.counter), ("tcu-a1", 4));
        assert_eq!(workshop.stage.files_in_store(), [workshop.bundle.sha256.to_string()]);
    }
}

#[tokio::test]
async fn a_package_that_ends_early_or_claims_another_length_is_refused() {
    let workshop = Workshop::new();
    let package = workshop.package();
    let bundle_at = package.len() - workshop.bundle.length as usize - 1024;
    for length in [0, 100, 512, 5_000, bundle_at, bundle_at + 9_000, package.len() - 1_500, package.len() - 1] {
        let validator = workshop.stage.open();
        // It says what it should be, and ends before.
        let cut = send(&validator, &package[..length], package.len() as u64).await;
        assert!(matches!(cut, Err(OtaError::LengthMismatch(_))), "{length}: {cut:?}");
        // It says that it is so short.
        let short = send(&validator, &package[..length], length as u64).await;
        if length < package.len() - 1024 {
            let refused = matches!(short, Err(OtaError::BadBundle(_) | OtaError::LengthMismatch(_)));
            assert!(refused, "{length}: {short:?}");
            assert!(workshop.stage.files_in_store().is_empty(), "{length}");
        } else {
            short.unwrap();
            validator.release("w-1").await.unwrap();
        }
    }
    let longer = send(&workshop.stage.open(), &package, package.len() as u64 + 512).await;
    assert!(matches!(longer, Err(OtaError::LengthMismatch(_))));
    assert!(workshop.stage.files_in_store().is_empty());
    let trailer = [package.as_slice(), &[0; 512], &[7; 512]].concat();
    assert_eq!(workshop.refusal(&trailer).await, "BadBundle");
}

#[tokio::test]
async fn nonsense_is_refused_and_a_flipped_bit_never_passes_for_the_bundle() {
    let workshop = Workshop::new();
    let package = workshop.package();
    assert_eq!(workshop.refusal(&vec![0; package.len()]).await, "BadBundle");
    assert_eq!(workshop.refusal(&vec![0x41; package.len()]).await, "BadBundle");
    for at in (0..package.len()).step_by(package.len() / 40) {
        let mut spoilt = package.clone();
        spoilt[at] ^= 0x10;
        let validator = workshop.stage.open();
        let sent = send(&validator, &spoilt, spoilt.len() as u64).await;
        // A filling byte behind a metadata file says nothing; whatever else passes has the bundle's own hash.
        match sent {
            Ok(_) => assert_eq!(workshop.stage.files_in_store(), [workshop.bundle.sha256.to_string()], "byte {at}"),
            Err(_) => assert!(workshop.stage.files_in_store().is_empty(), "byte {at}"),
        }
        validator.release("w-1").await.unwrap();
    }
}

#[tokio::test]
async fn metadata_that_is_not_good_is_refused_before_the_bundle_is_asked_for() {
    let workshop = Workshop::new();
    // The bundle never comes: it is not waited for.
    let only = |metadata: &BTreeMap<String, Vec<u8>>| {
        let whole = archive(metadata, &std::fs::read(&workshop.bundle.path).unwrap());
        (whole[..whole.len() - 1024 - workshop.bundle.length as usize].to_vec(), whole.len() as u64)
    };
    let foreign = Workshop::new().metadata();
    let (package, length) = only(&foreign);
    let refused = send(&workshop.stage.open(), &package, length).await;
    assert!(matches!(refused, Err(OtaError::UnmetThreshold(_))), "{refused:?}");
    let mut without = workshop.metadata();
    without.remove(&metadata_name(Side::Director, "offline-snapshot.json"));
    let (package, length) = only(&without);
    assert!(matches!(send(&workshop.stage.open(), &package, length).await, Err(OtaError::NotFound(_))));
    let ten_gigabytes = send(&workshop.stage.open(), &package, 10_000_000_000).await;
    assert!(matches!(ten_gigabytes, Err(OtaError::TooLarge(_))));
}

#[tokio::test]
async fn what_is_not_for_this_tcu_is_refused_by_name() {
    // Both repositories call it fitting; the bundle itself is for other hardware, or signed by another.
    let stage = Stage::new();
    let other = stage.authority.tcu_bundle(stage.folder.path(), "tcu-b1", "2.0.0", 4);
    let workshop = Workshop::with(stage, other, |_| {});
    assert_eq!(workshop.refusal(&workshop.package()).await, "BadHardwareId");
    let stage = Stage::new();
    let foreign = Authority::new().tcu_bundle(stage.folder.path(), "tcu-a1", "2.0.0", 4);
    let workshop = Workshop::with(stage, foreign, |_| {});
    assert_eq!(workshop.refusal(&workshop.package()).await, "BadSignature");
    let stage = Stage::new();
    let bundle = stage.authority.bundle(stage.folder.path(), "tcu", "2.0.0", 4);
    let workshop = Workshop::with(stage, bundle, |_| {});
    assert_eq!(workshop.refusal(&workshop.package()).await, "ManifestMismatch", "an ECU's bundle");
    // For another ECU, alone or besides.
    let mut workshop = Workshop::new();
    let image = listed(&workshop.stage.target, "bcm", "2.0.0", 4);
    workshop.direct("bcm", image);
    assert_eq!(workshop.refusal(&workshop.package()).await, "BadEcuId");
    let mut workshop = Workshop::new();
    let image = listed(&workshop.stage.target, "bcm", "2.0.0", 4);
    workshop.targets = targets();
    workshop.direct("bcm", image);
    assert_eq!(workshop.refusal(&workshop.package()).await, "BadEcuId");
}

#[tokio::test]
async fn floors_hold_in_a_workshop_and_rise_only_with_what_runs() {
    let stage = Stage::new();
    let bundle = stage.authority.tcu_bundle(stage.folder.path(), "tcu-a1", "2.0.0", 4);
    let workshop = Workshop::with(stage, bundle, |image| image.shall_match.security_floor = Some(ReleaseCounter(4)));
    let validator = workshop.stage.open();
    let package = workshop.package();
    send(&validator, &package, package.len() as u64).await.unwrap();
    let floor =
        |validator: &Validator| validator.floors().unwrap().into_iter().find(|(ecu, _)| ecu == "tcu").unwrap().1;
    assert!(matches!(validator.end_local("u-1", true).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(validator.end_local("w-1", true).await, Err(OtaError::WrongPhase(_))), "1.0.0 runs");
    assert_eq!((floor(&validator), workshop.stage.files_in_store().len()), (0, 1));
    *workshop.stage.ecus.0.lock().unwrap() = vec![reading("tcu", Some("2.0.0"))];
    validator.end_local("w-1", true).await.unwrap();
    validator.end_local("w-1", true).await.unwrap();
    assert_eq!((floor(&validator), workshop.stage.files_in_store().len()), (4, 0));

    let old = workshop.stage.authority.tcu_bundle(workshop.stage.folder.path(), "tcu-a1", "1.9.0", 3);
    workshop.stage.change(|world| {
        let image = ImageTarget {
            shall_match: pitstop_uptane::ShallMatch {
                sw_version: SoftwareVersion::new("1.9.0").unwrap(),
                release_counter: ReleaseCounter(3),
                ..listed(&old, "tcu", "1.9.0", 3).shall_match
            },
            ..listed(&old, "tcu", "1.9.0", 3)
        };
        world.image.targets.targets.remove(PATH);
        world.image.targets.list_image(PATH, image).unwrap();
        world.image.bump();
    });
    let mut workshop = Workshop { bundle: old, targets: next_targets(), ..workshop };
    let image = listed(&workshop.bundle, "tcu", "1.9.0", 3);
    workshop.direct("tcu", image);
    assert_eq!(workshop.refusal(&workshop.newer_package()).await, "BelowFloor");
}

fn next_targets() -> OfflineTargets {
    let mut order = world::order();
    order.update = UpdateId::new("w-2").unwrap();
    OfflineTargets::new(n(2), at(NOW + DAY), None, order)
}

impl Workshop {
    /// Under the next offline list.
    fn newer_package(&self) -> Vec<u8> {
        let mut files = self.metadata();
        self.stage.change(|world| {
            let [snapshot_key, targets_key] = world.director.keys.offline.as_ref().unwrap();
            let targets = sign(&self.targets, &[targets_key]).unwrap();
            let snapshot = OfflineSnapshot::new(n(2), at(NOW + DAY), [("tcu", &targets)]).unwrap();
            let snapshot = sign(&snapshot, &[snapshot_key]).unwrap();
            files.insert(metadata_name(Side::Director, "offline-snapshot.json"), snapshot.bytes);
        });
        archive(&files, &std::fs::read(&self.bundle.path).unwrap())
    }
}

#[tokio::test]
async fn a_workshops_update_that_is_left_leaves_nothing_and_raises_nothing() {
    let workshop = Workshop::new();
    let validator = workshop.stage.open();
    let package = workshop.package();
    send(&validator, &package, package.len() as u64).await.unwrap();
    validator.end_local("w-1", false).await.unwrap();
    validator.end_local("w-1", false).await.unwrap();
    assert!(workshop.stage.files_in_store().is_empty());
    assert!(matches!(validator.decision("w-1"), Err(OtaError::UnknownUpdate(_))));
    send(&validator, &package, package.len() as u64).await.unwrap();
}

#[tokio::test]
async fn whatever_write_is_cut_the_next_life_takes_the_same_package() {
    let life = async |workshop: &Workshop, package: &[u8]| -> Result<(), OtaError> {
        let validator = Arc::new(Validator::open(workshop.stage.parts())?);
        send(&validator, package, package.len() as u64).await?;
        validator.open_admitted("w-1", "tcu", "target")?;
        validator.end_local("w-1", true).await
    };
    let workshop = Workshop::new();
    *workshop.stage.ecus.0.lock().unwrap() = vec![reading("tcu", Some("2.0.0"))];
    let package = workshop.package();
    workshop.stage.disk.plan(None);
    life(&workshop, &package).await.unwrap();
    let writes = workshop.stage.disk.writes();
    assert!(writes >= 6, "{writes} writes");
    for number in 0..writes {
        for cut in [Cut::Before(number), Cut::After(number), Cut::Torn(number)] {
            let workshop = Workshop::new();
            *workshop.stage.ecus.0.lock().unwrap() = vec![reading("tcu", Some("2.0.0"))];
            let package = workshop.package();
            workshop.stage.disk.plan(Some(cut));
            assert!(life(&workshop, &package).await.is_err(), "{cut:?} was not noticed");
            workshop.stage.disk.power_on();
            life(&workshop, &package).await.unwrap_or_else(|error| panic!("after {cut:?}: {error}"));
            assert!(workshop.stage.files_in_store().is_empty(), "{cut:?}");
        }
    }
}
