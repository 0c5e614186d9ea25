use std::collections::BTreeMap;

use pitstop_dbus::OtaError;
use pitstop_types::EcuId;
use pitstop_uptane::{Inventory, InventoryEcu, ManifestError, PublicKey, check_manifest};

use super::stage::{Stage, reading};
use super::world::{NOW, ecu, vin};

fn inventory(stage: &Stage, last_counter: u64) -> Inventory {
    let unknown = || InventoryEcu { hardware: None, key: None };
    Inventory {
        vin: vin(),
        primary: EcuId::tcu(),
        key: pitstop_uptane::Signer::public(&*stage.key).clone(),
        ecus: BTreeMap::from([(ecu("tcu"), unknown()), (ecu("bcm"), unknown())]),
        last_counter,
        last_time: None,
    }
}

#[tokio::test]
async fn the_director_takes_each_manifest_once() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let first = validator.collect_manifest("").await.unwrap();
    let checked = check_manifest(&first, &inventory(&stage, 0), NOW).unwrap();
    let counter = checked.manifest.report_counter;
    assert_eq!(
        check_manifest(&first, &inventory(&stage, counter), NOW),
        Err(ManifestError::Replay { counter, last: counter })
    );
    // Also after a restart the counter goes on.
    let second = stage.open().collect_manifest("u-1").await.unwrap();
    let checked = check_manifest(&second, &inventory(&stage, counter), NOW).unwrap();
    assert_eq!(checked.manifest.installation_report, Some(serde_json::json!({ "update": "u-1" })));
    let (key_id, pem) = validator.identity();
    assert_eq!(PublicKey::from_p256_pem(&pem).unwrap().id().to_string(), key_id);
}

#[tokio::test]
async fn the_manifest_names_the_image_behind_a_version_that_was_part_of_a_decision() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    *stage.ecus.0.lock().unwrap() = vec![reading("tcu", Some("1.0.0")), reading("bcm", Some("2.0.0"))];
    // Also after the update has ended.
    validator.release("u-1").await.unwrap();
    let manifest = validator.collect_manifest("u-1").await.unwrap();
    let checked = check_manifest(&manifest, &inventory(&stage, 0), NOW).unwrap();
    let image = checked.reports[&ecu("bcm")].installed_image.as_ref().unwrap();
    assert_eq!(image.fileinfo.hashes.sha256, stage.target.sha256);
    assert_eq!(checked.reports[&ecu("tcu")].installed_image, None);
}

#[tokio::test]
async fn an_ecu_that_does_not_answer_is_reported_and_the_tcu_must_answer() {
    let stage = Stage::new();
    let silent = crate::EcuReading { answered: false, ..reading("bcm", None) };
    *stage.ecus.0.lock().unwrap() = vec![reading("tcu", Some("1.0.0")), silent];
    let manifest = stage.open().collect_manifest("").await.unwrap();
    let checked = check_manifest(&manifest, &inventory(&stage, 0), NOW).unwrap();
    assert!(checked.reports[&ecu("bcm")].not_responding);
    stage.ecus.0.lock().unwrap().clear();
    assert!(matches!(stage.open().collect_manifest("").await, Err(OtaError::EcuNotResponding(_))));
    assert!(matches!(stage.open().collect_manifest("../u").await, Err(OtaError::InvalidArgument(_))));
}

#[tokio::test]
async fn a_refusal_is_told_to_the_director_by_name() {
    let stage = Stage::new();
    stage.change(|world| world.director.targets.vin = None);
    let validator = stage.open();
    let _ = validator.verify().await;
    let manifest = validator.collect_manifest("").await.unwrap();
    let checked = check_manifest(&manifest, &inventory(&stage, 0), NOW).unwrap();
    assert_eq!(checked.reports[&ecu("tcu")].attacks_detected, "Replay");
}
