//! Which ECUs a vehicle has: named by operators, or fixed by its first manifest, and corrected when a workshop built in another one.

use std::collections::BTreeSet;

use pitstop_types::{EcuId, HardwareId, UnixSeconds, Vin};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::backend::Backend;
use crate::error::Error;
use crate::model::{Assignment, Ecu};
use crate::store::Change;

/// An ECU known from production. With a list, a manifest that names another one is refused; without, the first manifest fixes it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KnownEcu {
    #[schema(value_type = String)]
    pub id: EcuId,
    #[schema(value_type = String)]
    pub hardware: HardwareId,
}

impl KnownEcu {
    /// Its row before it was ever reported.
    pub(crate) fn unreported(self, now: UnixSeconds) -> Ecu {
        Ecu {
            ecu: self.id,
            hardware: self.hardware,
            serial: String::new(),
            software_number: String::new(),
            version: None,
            image_sha256: None,
            silent: false,
            unreported: true,
            updated_at: now,
        }
    }

    fn is(&self, ecu: &Ecu) -> bool {
        self.id == ecu.ecu && self.hardware == ecu.hardware
    }
}

/// Refuses a list that no manifest could ever equal: every manifest names the TCU, and each ECU once.
pub(crate) fn check_list(list: &[KnownEcu]) -> Result<(), Error> {
    if list.len() > pitstop_types::MAX_DECISION_ECUS {
        return Err(Error::TooMany("the list of ECUs", pitstop_types::MAX_DECISION_ECUS));
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = list.iter().find(|known| !ids.insert(&known.id)) {
        return Err(Error::Invalid(format!("the list names {} twice", twice.id)));
    }
    if !list.is_empty() && !ids.contains(&EcuId::tcu()) {
        return Err(Error::Invalid(format!("the list does not name {}, which every manifest reports", EcuId::tcu())));
    }
    Ok(())
}

impl Backend {
    /// Replaces the list of a vehicle's ECUs. One that stays as it is keeps what was reported of it; after an empty list the next
    /// manifest names them anew.
    pub async fn correct_ecus(&self, actor: &str, vin: &Vin, list: Vec<KnownEcu>) -> Result<Vec<Ecu>, Error> {
        check_list(&list)?;
        let _deciding = self.decide().await;
        let mut changes = Vec::new();
        let vehicle = self.raise_rev(vin, &mut changes).await?;
        let before = self.repo.ecus(vin).await?;
        let (kept, gone): (Vec<Ecu>, Vec<Ecu>) =
            before.into_iter().partition(|ecu| list.iter().any(|known| known.is(ecu)));
        let assignments = self.repo.assignments_of_vehicle(vin).await?;
        if let Some(assignment) = assignments.iter().find(|assignment| is_changing(assignment, &gone)) {
            return Err(Error::Conflict(format!("update {} is under way on an ECU that would go", assignment.id)));
        }
        let detail = json!({ "vin": vin, "ecus": list, "gone": names(&gone) });
        let now = self.clock.now();
        let new = list.into_iter().filter(|known| !kept.iter().any(|ecu| known.is(ecu)));
        let new: Vec<Ecu> = new.map(|known| known.unreported(now)).collect();
        let text = format!("kept: {}; gone: {}; new: {}", names(&kept), names(&gone), names(&new));
        // First out, then in: an ECU with other hardware is both.
        changes.extend(gone.into_iter().map(|ecu| Change::RemoveEcu(vin.clone(), ecu.ecu)));
        changes.extend(new.into_iter().map(|ecu| Change::PutEcu(vin.clone(), ecu)));
        changes.push(self.event(vin, "ecus-corrected", text, json!({})));
        changes.push(self.audit(actor, "correct-ecus", detail).await?);
        self.repo.apply(changes).await?;
        self.hint(&vehicle);
        Ok(self.repo.ecus(vin).await?)
    }
}

/// Its end could not be proven any more.
fn is_changing(assignment: &Assignment, gone: &[Ecu]) -> bool {
    let part_gone = |id: &EcuId| gone.iter().any(|ecu| ecu.ecu == *id);
    assignment.state.is_under_way() && assignment.plan.iter().any(|part| part_gone(&part.ecu))
}

fn names(ecus: &[Ecu]) -> String {
    let names: Vec<String> = ecus.iter().map(|ecu| format!("{} ({})", ecu.ecu, ecu.hardware)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
