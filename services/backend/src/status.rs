//! What the vehicle tells of its update between manifests: an outbox with sequence numbers, each item taken once.

use pitstop_types::{UpdateEnd, UpdateId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::assignments::step;
use crate::backend::Backend;
use crate::director::{Case, under_way};
use crate::error::Error;
use crate::model::{Assignment, AssignmentState, Claimed, StatusItem};
use crate::rules::phase_state;
use crate::store::Change;

/// Most items in one request; the outbox sends the rest with the next.
const MAX_ITEMS: usize = 500;
/// Longest text kept of an item, in bytes: enough for an error's words, too little to fill the database.
const MAX_TEXT: usize = 2000;
const MAX_ECUS: usize = 64;

/// The items up to here are stored: the vehicle may forget them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Ack {
    pub ack: u64,
}

/// What a vehicle is to do next.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Next {
    /// Grows whenever the answer changes.
    pub rev: u64,
    pub update: Option<String>,
    pub poll_secs: u64,
}

impl Backend {
    /// Takes outbox items; all that have been seen are acknowledged, seen before or now.
    pub async fn take_status(&self, device: &str, mut items: Vec<StatusItem>) -> Result<Ack, Error> {
        if items.len() > MAX_ITEMS {
            return Err(Error::TooMany("the list of status items", MAX_ITEMS));
        }
        items.sort_by_key(|item| item.seq);
        let deciding = self.decide().await;
        let vehicle = self.vehicle_of_device(device).await?;
        let mut case = self.open_case(vehicle).await?;
        let mut manifests = Vec::new();
        for item in items {
            if item.seq <= case.vehicle.last_seq {
                continue;
            }
            case.vehicle.last_seq = item.seq;
            self.metrics.status_items.add(1);
            manifests.extend(item.manifest.clone());
            self.take_item(&mut case, item);
        }
        case.vehicle.last_seen = self.clock.now();
        self.settle_all(&mut case).await?;
        case.raise_rev_if_told_otherwise();
        let ack = case.vehicle.last_seq;
        case.changes.push(Change::PutVehicle(case.vehicle));
        self.repo.apply(case.changes).await?;
        drop(deciding);
        for manifest in manifests {
            if self.is_known(device, &manifest).await? {
                continue;
            }
            // Refused or not, it has been seen: the event says which. It must not hold up the rest of the outbox.
            let _ = self.take_manifest(device, manifest.to_string().as_bytes()).await;
        }
        Ok(Ack { ack })
    }

    /// Is this the manifest that was taken last? Vehicles send it by itself too.
    async fn is_known(&self, device: &str, manifest: &Value) -> Result<bool, Error> {
        let vehicle = self.vehicle_of_device(device).await?;
        let last: Option<Value> = vehicle.manifest.and_then(|text| serde_json::from_str(&text).ok());
        Ok(last.as_ref() == Some(manifest))
    }

    fn take_item(&self, case: &mut Case, mut item: StatusItem) {
        let now = self.clock.now();
        for text in [&mut item.error, &mut item.text].into_iter().flatten() {
            truncate(text);
        }
        truncate(&mut item.phase);
        item.ecus.truncate(MAX_ECUS);
        item.answers.truncate(MAX_ECUS);
        let words = [Some(item.phase.as_str()), item.result.as_deref(), item.error.as_deref(), item.text.as_deref()];
        let words = words.into_iter().flatten().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": ");
        let data = json!({ "seq": item.seq, "update": item.update, "phase": item.phase, "result": item.result,
            "error": item.error, "ecus": item.ecus, "answers": item.answers, "at": item.at });
        case.changes.push(self.event(&case.vehicle.vin, "status", words, data));
        let end = item.result.as_deref().and_then(end_of);
        let Some(assignment) = case.assignments.iter_mut().find(|a| is_about(a, &item, end)) else { return };
        assignment.phase.clone_from(&item.phase);
        if !item.ecus.is_empty() {
            assignment.ecus.clone_from(&item.ecus);
        }
        if let Some(end) = end {
            assignment.claimed = Some(Claimed { end, error: item.error.clone(), text: item.text.clone(), at: item.at });
        }
        let moved = match phase_state(&item.phase) {
            // Something was signed for the vehicle, or it could not be in a phase: an unsigned word never makes an offer.
            Some(state) if end.is_none() && assignment.state != AssignmentState::Planned => {
                let reason = format!("the vehicle is {}", item.phase);
                step(assignment, state, reason, now, &mut case.changes)
            }
            _ => false,
        };
        if !moved {
            case.changes.push(Change::PutAssignment(assignment.clone()));
        }
    }

    /// The answer to "what next?".
    pub async fn next(&self, device: &str) -> Result<Next, Error> {
        let vehicle = self.vehicle_of_device(device).await?;
        let assignments = self.repo.assignments_of_vehicle(&vehicle.vin).await?;
        let update = next_update(&assignments).map(ToString::to_string);
        Ok(Next { rev: vehicle.rev, update, poll_secs: self.settings.lifetimes.poll_secs })
    }
}

/// What a vehicle with these assignments is to do next: what it holds an order for, before anything that it may never be offered.
pub(crate) fn next_update(assignments: &[Assignment]) -> Option<&UpdateId> {
    let planned = || assignments.iter().find(|assignment| assignment.state == AssignmentState::Planned);
    under_way(assignments).or_else(planned).map(|assignment| &assignment.id)
}

/// Is the item about this assignment? A vehicle that refuses an order as a whole names no update: it believed nothing in it.
fn is_about(assignment: &Assignment, item: &StatusItem, end: Option<UpdateEnd>) -> bool {
    match &item.update {
        Some(update) => assignment.id.as_str() == update,
        None => end == Some(UpdateEnd::Refused) && assignment.state == AssignmentState::Offered,
    }
}

fn end_of(word: &str) -> Option<UpdateEnd> {
    UpdateEnd::ALL.into_iter().find(|end| end.as_str() == word)
}

fn truncate(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}
