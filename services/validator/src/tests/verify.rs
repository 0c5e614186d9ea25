use pitstop_dbus::OtaError;
use pitstop_types::{ReleaseCounter, Vin};
use pitstop_uptane::{PairingRole, Repository, Targets};

use super::stage::{Stage, reading};
use super::world::{DAY, NOW, at, directed, ecu, image, n, vin};
use crate::Validator;

#[tokio::test]
async fn a_decision_is_stored_and_survives_a_restart() {
    let stage = Stage::new();
    let validator = stage.open();
    assert!(matches!(validator.decision("u-1"), Err(OtaError::UnknownUpdate(_))));
    let outcome = validator.verify().await.unwrap();
    assert_eq!(outcome.update.unwrap().as_str(), "u-1");
    let decision = stage.open().decision("u-1").unwrap();
    assert_eq!(decision.ecu(&ecu("bcm")).unwrap().target.counter, ReleaseCounter(4));
    let status = stage.open().status().unwrap();
    assert!(status.trusted && status.last_error.is_empty() && status.director_version == 1);
}

#[tokio::test]
async fn nothing_to_do_is_no_error() {
    let stage = Stage::new();
    stage.change(|world| world.director.targets = Targets::director(n(1), at(NOW + DAY), vin(), None));
    assert_eq!(stage.open().verify().await.unwrap().update, None);
}

#[tokio::test]
async fn another_vehicles_signed_files_are_a_replay_and_leave_no_decision() {
    let stage = Stage::new();
    stage.change(|world| world.director.targets.vin = Some(Vin::new("WP0ZZZ99ZTS392125").unwrap()));
    let validator = stage.open();
    assert!(matches!(validator.verify().await, Err(OtaError::Replay(_))));
    assert!(matches!(validator.decision("u-1"), Err(OtaError::UnknownUpdate(_))));
    assert_eq!(stage.open().status().unwrap().last_error, "Replay");
    // And the next good cycle works.
    stage.change(|world| {
        world.director.targets.vin = Some(vin());
        world.director.bump();
    });
    assert!(stage.open().verify().await.is_ok());
    assert_eq!(stage.open().status().unwrap().last_error, "");
}

#[tokio::test]
async fn a_rollback_after_a_restart_is_still_a_rollback() {
    let stage = Stage::new();
    let mut old = None;
    stage.change(|world| {
        old = Some(world.director.files(Repository::Director, None));
        world.director.bump();
    });
    stage.decided().await;
    let old = old.unwrap();
    stage.change(|world| {
        world.serve = Some(Box::new(
            move |repo, file, bytes| {
                if repo == Repository::Director { old.get(file).cloned() } else { bytes }
            },
        ));
    });
    let before = stage.disk.storage();
    let metadata = |storage: &dyn pitstop_store::Storage| storage.read("metadata").unwrap();
    let stored = metadata(&before);
    assert!(matches!(stage.open().verify().await, Err(OtaError::MetadataRollback(_))));
    assert_eq!(metadata(&before), stored);
}

#[tokio::test]
async fn unknown_and_backward_time_refuse_everything_that_is_judged_by_it() {
    let stage = Stage::new();
    let mut parts = stage.parts();
    parts.clock = || None;
    let validator = std::sync::Arc::new(Validator::open(parts).unwrap());
    assert!(matches!(validator.verify().await, Err(OtaError::TimeUnknown(_))));
    // A manifest goes out all the same: the backend learns that this vehicle has no time.
    let manifest = validator.collect_manifest("").await.unwrap();
    assert!(String::from_utf8(manifest).unwrap().contains("\"time\":null"));
    stage.decided().await;
    let mut parts = stage.parts();
    parts.clock = || Some(NOW - 3600);
    let validator = std::sync::Arc::new(Validator::open(parts).unwrap());
    assert!(matches!(validator.verify().await, Err(OtaError::TimeUnknown(_))));
    assert!(matches!(validator.plan_admission("u-1", "bcm", "target"), Err(OtaError::TimeUnknown(_))));
}

#[tokio::test]
async fn a_clock_that_ran_wild_is_not_remembered() {
    let stage = Stage::new();
    let mut parts = stage.parts();
    parts.clock = || Some(NOW + 100 * 365 * DAY);
    let validator = std::sync::Arc::new(Validator::open(parts).unwrap());
    assert!(matches!(validator.verify().await, Err(OtaError::MetadataExpired(_))));
    assert!(stage.open().verify().await.is_ok());
}

#[tokio::test]
async fn a_damaged_store_fails_closed() {
    let stage = Stage::new();
    stage.decided().await;
    let storage = stage.disk.storage();
    for name in ["metadata", "ledger"] {
        let good = pitstop_store::Storage::read(&storage, name).unwrap().unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 2;
        bad[last] ^= 1;
        pitstop_store::Storage::replace(&storage, name, &bad).unwrap();
        match Validator::open(stage.parts()) {
            Err(OtaError::Storage(_)) => assert_eq!(name, "ledger"),
            Err(other) => panic!("{other}"),
            Ok(validator) => {
                let validator = std::sync::Arc::new(validator);
                assert!(matches!(validator.verify().await, Err(OtaError::Storage(_))));
            }
        }
        pitstop_store::Storage::replace(&storage, name, &good).unwrap();
    }
    assert!(stage.open().verify().await.is_ok());
}

#[tokio::test]
async fn floors_are_raised_by_the_decision_only_and_hold_against_the_next_one() {
    let stage = Stage::new();
    stage.change(|world| {
        world.edit = Some(Box::new(|_, role, payload| {
            if role == "targets" {
                payload["targets"]["bcm/2.raucb"]["custom"]["shall_match"]["security_floor"] = serde_json::json!(4);
            }
        }));
    });
    let validator = stage.decided().await;
    assert_eq!(validator.floors().unwrap(), [("bcm".to_owned(), 0), ("tcu".to_owned(), 0)]);
    assert!(matches!(validator.raise_floors("u-2").await, Err(OtaError::UnknownUpdate(_))));
    validator.raise_floors("u-1").await.unwrap();
    validator.raise_floors("u-1").await.unwrap();
    assert_eq!(stage.open().floors().unwrap()[0], ("bcm".to_owned(), 4));
    // The same decision's fallback (counter 3) is now below the floor.
    assert!(matches!(stage.open().verify().await, Err(OtaError::BelowFloor(_))));
}

#[tokio::test]
async fn the_tcus_floor_never_rises_above_what_it_runs_and_the_others_rise_all_the_same() {
    // The floor that the TCU's release demands, what the TCU runs, and its floor afterwards.
    for (demanded, runs, floor) in
        [(2, Some("1.0.0"), 0), (2, Some("9.9.9"), 0), (2, Some("2.0.0"), 2), (1, Some("1.0.0"), 1)]
    {
        let stage = Stage::new();
        stage.change(|world| {
            for (version, counter, role) in [("2.0.0", 2, PairingRole::Target), ("1.0.0", 1, PairingRole::Fallback)] {
                let path = format!("tcu/{version}.raucb");
                world.image.targets.list_image(&path, image("tcu", version, counter)).unwrap();
                world.director.targets.list_director(&path, directed("tcu", version, counter, role)).unwrap();
            }
            world.edit = Some(Box::new(move |_, role, payload| {
                if role == "targets" {
                    for (path, floor) in [("bcm/2.raucb", 4), ("tcu/2.0.0.raucb", demanded)] {
                        payload["targets"][path]["custom"]["shall_match"]["security_floor"] = serde_json::json!(floor);
                    }
                }
            }));
        });
        let validator = stage.decided().await;
        *stage.ecus.0.lock().unwrap() = vec![reading("tcu", runs)];
        validator.raise_floors("u-1").await.unwrap();
        let expected = [("bcm".to_owned(), 4), ("tcu".to_owned(), floor)];
        assert_eq!(validator.floors().unwrap(), expected, "{demanded} {runs:?}");
        // Who cannot say what it runs is asked again; the others' floors wait for nobody.
        stage.ecus.0.lock().unwrap().clear();
        assert!(matches!(validator.raise_floors("u-1").await, Err(OtaError::EcuNotResponding(_))));
    }
}

#[tokio::test]
async fn an_older_image_is_refused_by_name_told_to_the_director_and_never_decided() {
    let stage = Stage::new();
    stage.change(|world| {
        world.edit = Some(Box::new(|repository, role, payload| {
            if repository == Repository::Director && role == "targets" {
                payload["targets"]["bcm/1.raucb"]["custom"]["role"] = serde_json::json!("target");
                payload["targets"]["bcm/2.raucb"]["custom"]["role"] = serde_json::json!("fallback");
            }
        }));
    });
    let validator = stage.open();
    assert!(matches!(validator.verify().await, Err(OtaError::BelowFloor(_))));
    assert!(matches!(validator.decision("u-1"), Err(OtaError::UnknownUpdate(_))));
    let manifest = validator.collect_manifest("").await.unwrap();
    assert!(String::from_utf8(manifest).unwrap().contains(r#""attacks_detected":"BelowFloor""#));
}

#[tokio::test]
async fn the_transports_errors_come_through_and_are_no_verdict() {
    struct Silent;
    #[async_trait::async_trait]
    impl crate::MetadataSource for Silent {
        async fn fetch(&self, _: Repository, _: &str, _: usize) -> Result<Option<Vec<u8>>, OtaError> {
            Err(OtaError::Network("no route".into()))
        }
    }
    let stage = Stage::new();
    let mut parts = stage.parts();
    parts.metadata = std::sync::Arc::new(Silent);
    let validator = std::sync::Arc::new(Validator::open(parts).unwrap());
    assert!(matches!(validator.verify().await, Err(OtaError::Network(_))));
    assert_eq!(validator.status().unwrap().last_error, "");
}

#[tokio::test]
async fn an_update_that_has_begun_keeps_its_content() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    let refine = |text: &str| {
        stage.change(|world| {
            world.director.targets.order.as_mut().unwrap().facts.changes = text.to_owned();
            world.director.bump();
        });
    };
    // Nothing admitted yet: the Director may still change its mind.
    refine("Other brakes");
    validator.verify().await.unwrap();
    assert_eq!(validator.decision("u-1").unwrap().facts.changes, "Other brakes");
    super::stage::admit(&validator, "target", &stage.target.path).await.unwrap();
    refine("Steering");
    assert!(matches!(validator.verify().await, Err(OtaError::MixAndMatch(_))));
    assert_eq!(validator.decision("u-1").unwrap().facts.changes, "Other brakes");
    // The same order with a new date goes on; after the release the id is free.
    refine("Other brakes");
    stage.change(|world| world.director.targets.order.as_mut().unwrap().install_by += 60);
    validator.verify().await.unwrap();
    validator.release("u-1").await.unwrap();
    refine("Steering");
    validator.verify().await.unwrap();
}

#[tokio::test]
async fn a_damaged_decision_does_not_stand_in_the_way_of_the_next() {
    let stage = Stage::new();
    let validator = stage.decided().await;
    pitstop_store::Storage::replace(&stage.disk.storage(), "approvals/u-0", b"nonsense").unwrap();
    assert!(matches!(validator.decision("u-0"), Err(OtaError::Storage(_))));
    validator.verify().await.unwrap();
    assert!(matches!(validator.decision("u-0"), Err(OtaError::UnknownUpdate(_))));
    assert!(validator.decision("u-1").is_ok());
}
