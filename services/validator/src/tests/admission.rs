use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use pitstop_dbus::OtaError;
use pitstop_types::{HardwareId, ReleaseCounter};
use pitstop_uptane::PairingRole;

use super::stage::{Authority, Stage, admit, changed, digest, listed};
use crate::Validator;

#[tokio::test]
async fn a_good_bundle_is_admitted_once_and_opened_read_only() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    assert!(matches!(validator.open_admitted("u-1", "bcm", "target"), Err(OtaError::NotAdmitted(_))));
    admit(&validator, "target", &stage.target.path).await.unwrap();
    admit(&validator, "fallback", &stage.fallback.path).await.unwrap();
    // Again, even with nonsense: it is admitted already and the descriptor is not looked at.
    admit(&validator, "target", &stage.fallback.path).await.unwrap();
    let (mut file, description) = stage.open().open_admitted("u-1", "bcm", "target").unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, std::fs::read(&stage.target.path).unwrap());
    assert!(file.write_all(b"x").is_err());
    assert_eq!((description.hardware.as_str(), description.counter), ("bcm-a1", 4));
    assert_eq!(description.length, stage.target.length);
    assert_eq!(description.manifest_hash, stage.target.manifest_hash.to_string());
    assert_ne!(description.verity_root, "0".repeat(64));
    assert_eq!(stage.files_in_store().len(), 2);
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_refused_and_leaves_nothing() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let length = usize::try_from(stage.target.length).unwrap();
    for at in [0, 4096, length / 2, length - 9, length - 1] {
        let bad = changed(&stage.target.path, |bytes| bytes[at] ^= 1);
        assert!(matches!(admit(&validator, "target", &bad).await, Err(OtaError::HashMismatch(_))), "byte {at}");
        assert!(stage.files_in_store().is_empty());
        assert!(matches!(validator.open_admitted("u-1", "bcm", "target"), Err(OtaError::NotAdmitted(_))));
    }
    admit(&validator, "target", &stage.target.path).await.unwrap();
}

#[tokio::test]
async fn a_wrong_length_is_refused_before_anything_is_copied() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    for change in [|bytes: &mut Vec<u8>| bytes.push(0), |bytes: &mut Vec<u8>| bytes.truncate(1000), Vec::clear] {
        let bad = changed(&stage.target.path, change);
        assert!(matches!(admit(&validator, "target", &bad).await, Err(OtaError::LengthMismatch(_))));
    }
    let admission = validator.plan_admission("u-1", "bcm", "target").unwrap();
    let pipe = File::open("/dev/zero").unwrap();
    assert!(matches!(validator.admit(admission, pipe, |_, _| true).await, Err(OtaError::InvalidArgument(_))));
}

/// A decision that lists exactly this file: only what the file itself says can refuse it.
async fn decided_for(stage: &Stage, image: pitstop_uptane::ImageTarget) -> std::sync::Arc<Validator> {
    stage.list(&image, "bcm/2.raucb", PairingRole::Target);
    stage.decided().await
}

#[tokio::test]
async fn both_repositories_keys_are_not_enough_without_the_bundle_signature() {
    let stage = Stage::new();
    let foreign = Authority::new().bundle(&stage.folder.path().join(""), "bcm", "2.0.0", 4);
    let validator = decided_for(&stage, listed(&foreign, "bcm", "2.0.0", 4)).await;
    assert!(matches!(admit(&validator, "target", &foreign.path).await, Err(OtaError::BadSignature(_))));
    assert!(stage.files_in_store().is_empty());
}

#[tokio::test]
async fn what_the_bundle_says_of_itself_must_be_what_was_decided() {
    type Change = fn(&mut pitstop_uptane::ImageTarget);
    let cases: [(Change, &str); 4] = [
        (|image| image.shall_match.rauc_manifest_hash = digest(std::path::Path::new("/dev/null")), "ManifestMismatch"),
        (|image| image.shall_match.release_counter = ReleaseCounter(5), "ManifestMismatch"),
        (|image| image.shall_match.sw_version = "2.0.1".to_owned().try_into().unwrap(), "ManifestMismatch"),
        (|image| image.sha512 = Some("00".repeat(64)), "HashMismatch"),
    ];
    for (change, expected) in cases {
        let stage = Stage::new();
        let mut image = listed(&stage.target, "bcm", "2.0.0", 4);
        change(&mut image);
        let validator = decided_for(&stage, image).await;
        let refusal = admit(&validator, "target", &stage.target.path).await.unwrap_err();
        assert_eq!(refusal.short_name(), expected, "{refusal}");
        assert!(stage.files_in_store().is_empty());
    }
}

#[tokio::test]
async fn a_bundle_for_other_hardware_is_refused_although_both_repositories_call_it_fitting() {
    let stage = Stage::new();
    let other = stage.authority.bundle(stage.folder.path(), "adas", "2.0.0", 4);
    let mut image = listed(&other, "adas", "2.0.0", 4);
    image.shall_match.hardware_ids = vec![HardwareId::new("bcm-a1").unwrap()];
    let validator = decided_for(&stage, image).await;
    assert!(matches!(admit(&validator, "target", &other.path).await, Err(OtaError::BadHardwareId(_))));
}

#[tokio::test]
async fn zeros_and_a_claimed_ten_gigabytes_are_refused_by_name() {
    let stage = Stage::new();
    let zeros = stage.folder.path().join("zeros");
    std::fs::write(&zeros, vec![0; 40_960]).unwrap();
    let mut image = listed(&stage.target, "bcm", "2.0.0", 4);
    (image.length, image.sha256, image.sha512) = (40_960, digest(&zeros), None);
    let validator = decided_for(&stage, image.clone()).await;
    assert!(matches!(admit(&validator, "target", &zeros).await, Err(OtaError::BadBundle(_))));
    // A sparse file of the length that was decided: no space for it, so nothing is begun.
    let stage = Stage::new();
    let huge = File::create(stage.folder.path().join("huge")).unwrap();
    image.length = 1 << 43;
    if huge.set_len(image.length).is_ok() {
        let validator = decided_for(&stage, image).await;
        let refusal = admit(&validator, "target", &stage.folder.path().join("huge")).await;
        assert!(matches!(refusal, Err(OtaError::OutOfSpace(_))), "{refusal:?}");
    }
}

#[tokio::test]
async fn requests_that_no_decision_covers_are_refused_at_the_call() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let name = |update: &str, ecu: &str, role: &str| match validator.plan_admission(update, ecu, role) {
        Ok(_) => "planned",
        Err(error) => error.short_name(),
    };
    assert_eq!(name("u-2", "bcm", "target"), "UnknownUpdate");
    assert_eq!(name("u-1", "tcu", "target"), "UnknownEcu");
    assert_eq!(name("u-1", "bcm", "other"), "InvalidArgument");
    assert_eq!(name("../u", "bcm", "target"), "InvalidArgument");
    assert_eq!(name("u-1", "../bcm", "target"), "InvalidArgument");
    assert_eq!(name("u-1", "bcm", "target"), "planned");
}

#[tokio::test]
async fn one_file_for_two_purposes_is_kept_once_and_until_its_last_use_ends() {
    let stage = Stage::new();
    stage.change(|world| {
        world.image.targets.targets.remove("bcm/1.raucb");
        world.director.targets.targets.remove("bcm/1.raucb");
    });
    stage.list(&listed(&stage.target, "bcm", "2.0.0", 4), "bcm/2.raucb", PairingRole::Both);
    let validator = stage.decided().await;
    admit(&validator, "target", &stage.target.path).await.unwrap();
    admit(&validator, "fallback", &stage.target.path).await.unwrap();
    assert_eq!(stage.files_in_store(), [stage.target.sha256.to_string()]);
    assert!(validator.open_admitted("u-1", "bcm", "fallback").is_ok());
    validator.release("u-1").await.unwrap();
    validator.release("u-1").await.unwrap();
    assert!(stage.files_in_store().is_empty());
    assert!(matches!(validator.open_admitted("u-1", "bcm", "target"), Err(OtaError::NotAdmitted(_))));
    assert!(matches!(validator.decision("u-1"), Err(OtaError::UnknownUpdate(_))));
}

#[tokio::test]
async fn an_interrupted_copy_and_a_spoilt_store_are_found_at_the_start() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    admit(&validator, "target", &stage.target.path).await.unwrap();
    std::fs::write(stage.bundles().join("u-1-bcm-fallback.part"), b"half").unwrap();
    drop(validator);
    let validator = stage.open();
    assert_eq!(stage.files_in_store(), [stage.target.sha256.to_string()]);
    assert!(validator.open_admitted("u-1", "bcm", "target").is_ok());
    drop(validator);
    let file = stage.bundles().join(stage.target.sha256.to_string());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, b"short").unwrap();
    let validator = stage.open();
    assert!(matches!(validator.open_admitted("u-1", "bcm", "target"), Err(OtaError::NotAdmitted(_))));
    admit(&validator, "target", &stage.target.path).await.unwrap();
    assert!(validator.open_admitted("u-1", "bcm", "target").is_ok());
}

#[tokio::test]
async fn a_cancel_stops_the_copy_and_leaves_nothing() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let admission = validator.plan_admission("u-1", "bcm", "target").unwrap();
    let file = File::open(&stage.target.path).unwrap();
    let result = validator.admit(admission, file, |_, _| false).await;
    assert!(matches!(result, Err(OtaError::Cancelled(_))));
    assert!(stage.files_in_store().is_empty());
}

#[tokio::test]
async fn the_position_of_the_callers_descriptor_does_not_matter() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let mut file = File::open(&stage.target.path).unwrap();
    file.read_exact(&mut [0; 100]).unwrap();
    let same = File::from(file.as_fd().try_clone_to_owned().unwrap());
    let admission = validator.plan_admission("u-1", "bcm", "target").unwrap();
    validator.admit(admission, same, |_, _| true).await.unwrap();
}

#[tokio::test]
async fn nothing_is_admitted_behind_a_release() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let planned = validator.plan_admission("u-1", "bcm", "target").unwrap();
    validator.release("u-1").await.unwrap();
    let file = File::open(&stage.target.path).unwrap();
    assert!(matches!(validator.admit(planned, file, |_, _| true).await, Err(OtaError::UnknownUpdate(_))));
    assert!(stage.files_in_store().is_empty());
}
