//! The power taken away at every write, in every way; then the next life must go on to the same end.

use pitstop_store::cut::Cut;

use super::stage::{Stage, admit};
use crate::Validator;

/// Verify, admit both, raise floors, report, release: as far as the power lets it.
async fn whole_life(stage: &Stage) -> Result<(), pitstop_dbus::OtaError> {
    let validator = std::sync::Arc::new(Validator::open(stage.parts())?);
    validator.verify().await?;
    admit(&validator, "target", &stage.target.path).await?;
    admit(&validator, "fallback", &stage.fallback.path).await?;
    validator.collect_manifest("u-1").await?;
    validator.raise_floors("u-1").await?;
    Ok(())
}

fn with_floor() -> Stage {
    let stage = Stage::new();
    stage.change(|world| {
        world.edit = Some(Box::new(|_, role, payload| {
            if role == "targets" {
                payload["targets"]["bcm/2.raucb"]["custom"]["shall_match"]["security_floor"] = serde_json::json!(3);
            }
        }));
    });
    stage
}

#[tokio::test]
async fn whatever_write_is_cut_the_next_life_ends_the_same_way() {
    let stage = with_floor();
    stage.disk.plan(None);
    whole_life(&stage).await.unwrap();
    let writes = stage.disk.writes();
    assert!(writes >= 8, "{writes} writes");
    for number in 0..writes {
        for cut in [Cut::Before(number), Cut::After(number), Cut::Torn(number)] {
            let stage = with_floor();
            stage.disk.plan(Some(cut));
            assert!(whole_life(&stage).await.is_err(), "{cut:?} was not noticed");
            stage.disk.power_on();
            whole_life(&stage).await.unwrap_or_else(|error| panic!("after {cut:?}: {error}"));
            let validator = stage.open();
            assert!(validator.open_admitted("u-1", "bcm", "target").is_ok(), "{cut:?}");
            assert!(validator.open_admitted("u-1", "bcm", "fallback").is_ok(), "{cut:?}");
            assert_eq!(validator.floors().unwrap()[0], ("bcm".to_owned(), 3), "{cut:?}");
            assert_eq!(stage.files_in_store().len(), 2, "{cut:?}");
        }
    }
}

#[tokio::test]
async fn whatever_write_of_a_release_is_cut_it_can_be_asked_for_again() {
    for number in 0..3 {
        for cut in [Cut::Before(number), Cut::After(number), Cut::Torn(number)] {
            let stage = with_floor();
            whole_life(&stage).await.unwrap();
            let validator = stage.open();
            stage.disk.plan(Some(cut));
            assert!(validator.release("u-1").await.is_err(), "{cut:?}");
            stage.disk.power_on();
            let validator = stage.open();
            validator.release("u-1").await.unwrap();
            assert!(stage.files_in_store().is_empty(), "{cut:?}");
            assert!(validator.decision("u-1").is_err());
        }
    }
}
