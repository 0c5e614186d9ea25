//! The Director: takes a vehicle's signed manifest, checks it against the inventory, decides what is due, and signs for that one
//! vehicle (Uptane standard, "Directing installation of images on vehicles").

mod inventory;
mod metadata;
mod sign;

pub(crate) use sign::{image_target, stored};

use std::collections::BTreeMap;

use pitstop_types::{EcuId, UpdateId};
use pitstop_uptane::manifest::CheckedManifest;
use pitstop_uptane::{Verified, check_manifest};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::assignments::{settle, step};
use crate::backend::Backend;
use crate::clock::later;
use crate::error::Error;
use crate::model::{Assignment, AssignmentState, Bundle, CampaignState, Ecu, Vehicle};
use crate::rules::{Exclusion, Fitted, plan_update};
use crate::status::next_update;
use crate::store::Change;

/// The answer to a manifest that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManifestAnswer {
    /// Version of the Director's targets that answer it.
    pub targets_version: u64,
    /// The update they order, if any.
    pub update: Option<String>,
}

/// One vehicle while something is decided about it.
pub(crate) struct Case {
    pub vehicle: Vehicle,
    pub ecus: Vec<Ecu>,
    pub assignments: Vec<Assignment>,
    pub listed: BTreeMap<String, Bundle>,
    pub changes: Vec<Change>,
    /// What the vehicle was to do when the case was opened.
    next: Option<UpdateId>,
}

impl Case {
    /// The answer to "what next?" has changed with the assignments: its number must too, or the vehicle takes it for the old one.
    pub(crate) fn raise_rev_if_told_otherwise(&mut self) {
        if next_update(&self.assignments) != self.next.as_ref() {
            self.vehicle.rev = self.vehicle.rev.saturating_add(1);
        }
    }
}

impl Backend {
    /// Takes a manifest from `device`; on success the Director's answer is stored before this returns.
    pub async fn take_manifest(&self, device: &str, bytes: &[u8]) -> Result<ManifestAnswer, Error> {
        let _deciding = self.decide().await;
        let vehicle = self.vehicle_of_device(device).await?;
        let mut case = self.open_case(vehicle).await?;
        self.read_manifest(&mut case, bytes).await?;
        self.settle_all(&mut case).await?;
        self.cancel_recalled(&mut case).await?;
        self.offer_what_is_due(&mut case).await?;
        let version = self.sign_for(&mut case).await?;
        case.raise_rev_if_told_otherwise();
        let update = under_way(&case.assignments).map(|assignment| assignment.id.to_string());
        case.changes.insert(0, Change::PutVehicle(case.vehicle));
        self.repo.apply(case.changes).await?;
        self.metrics.manifests_taken.add(1);
        Ok(ManifestAnswer { targets_version: version, update })
    }

    pub(crate) async fn open_case(&self, vehicle: Vehicle) -> Result<Case, Error> {
        let assignments = self.repo.assignments_of_vehicle(&vehicle.vin).await?;
        Ok(Case {
            ecus: self.repo.ecus(&vehicle.vin).await?,
            next: next_update(&assignments).cloned(),
            assignments,
            listed: self.listed_bundles().await?,
            vehicle,
            changes: Vec::new(),
        })
    }

    /// Checks the manifest and takes it into the case. A refused one changes nothing but the list of events.
    pub(crate) async fn read_manifest(&self, case: &mut Case, bytes: &[u8]) -> Result<(), Error> {
        let now = self.clock.now();
        let checked = inventory::of(&case.vehicle, &case.ecus, bytes).and_then(|inventory| {
            check_manifest(bytes, &inventory, now).map_err(|error| (error.name(), error.to_string()))
        });
        match checked {
            Ok(checked) => self.take_reports(case, &checked, bytes),
            Err((name, text)) => {
                self.metrics.manifests_refused.add(1);
                log::warn!("vehicle {}: manifest refused: {text}", case.vehicle.vin);
                let event = self.event(&case.vehicle.vin, "manifest-refused", &text, json!({ "error": name }));
                self.repo.apply(vec![event]).await?;
                return Err(Error::Manifest(name, text));
            }
        }
        Ok(())
    }

    fn take_reports(&self, case: &mut Case, checked: &Verified<CheckedManifest>, bytes: &[u8]) {
        let now = self.clock.now();
        let manifest = &checked.manifest;
        case.vehicle.report_counter = manifest.report_counter;
        case.vehicle.manifest_at = Some(now);
        case.vehicle.manifest_time = manifest.time.map(|time| time.unix()).or(case.vehicle.manifest_time);
        case.vehicle.manifest = Some(String::from_utf8_lossy(bytes).into_owned());
        case.vehicle.last_seen = now;
        let mut changed = Vec::new();
        let before: BTreeMap<EcuId, Ecu> = case.ecus.drain(..).map(|ecu| (ecu.ecu.clone(), ecu)).collect();
        for (id, report) in &checked.reports {
            let ecu = inventory::ecu_of(report, now);
            let old = before.get(id);
            if old.map(|old| &old.version) != Some(&ecu.version) {
                let word = |ecu: Option<&Ecu>| {
                    ecu.and_then(|ecu| ecu.version.as_ref()).map_or_else(|| "none".to_owned(), ToString::to_string)
                };
                changed.push(format!("{id} {} -> {}", word(old), word(Some(&ecu))));
            }
            case.changes.push(Change::PutEcu(case.vehicle.vin.clone(), ecu.clone()));
            case.ecus.push(ecu);
        }
        let text = if changed.is_empty() { "nothing changed".to_owned() } else { changed.join(", ") };
        let data = json!({ "counter": manifest.report_counter, "installation": manifest.installation_report });
        case.changes.push(self.event(&case.vehicle.vin, "manifest", text, data));
    }

    /// Moves every assignment to where proof and claims put it.
    pub(crate) async fn settle_all(&self, case: &mut Case) -> Result<(), Error> {
        let now = self.clock.now();
        for assignment in &mut case.assignments {
            let settled = settle(assignment, &case.ecus, &case.listed, case.vehicle.report_counter);
            let Some((state, reason)) = settled else { continue };
            let failed_at = assignment.state.is_failure().then_some(assignment.failed_at.unwrap_or(assignment.since));
            let moved = step(assignment, state, reason, now, &mut case.changes);
            if let Some(failed_at) = failed_at.filter(|_| moved && !state.is_failure())
                && let Some(mut campaign) = self.repo.campaign(&assignment.campaign).await?
                && campaign.failure_mended(failed_at)
            {
                case.changes.push(Change::PutCampaign(campaign));
            }
        }
        Ok(())
    }

    /// Cancels what was recalled and has not begun to change the vehicle, however far the recall itself has come: it is signed no more.
    async fn cancel_recalled(&self, case: &mut Case) -> Result<(), Error> {
        let now = self.clock.now();
        for assignment in case.assignments.iter_mut().filter(|assignment| assignment.state.may_be_recalled()) {
            let Some(campaign) = self.repo.campaign(&assignment.campaign).await? else { continue };
            let release = self.need_release(&campaign.spec.release).await?;
            let reason = match release.withdrawn_reason {
                _ if campaign.state == CampaignState::Aborted => format!("campaign aborted: {}", campaign.reason),
                Some(reason) => format!("release withdrawn: {reason}"),
                None => continue,
            };
            step(assignment, AssignmentState::Cancelled, reason, now, &mut case.changes);
        }
        Ok(())
    }

    /// Offers the oldest planned assignment that the vehicle may have, unless one is under way: no second order goes out while
    /// the first is unconfirmed and could conflict with it.
    async fn offer_what_is_due(&self, case: &mut Case) -> Result<(), Error> {
        let now = self.clock.now();
        if under_way(&case.assignments).is_some() {
            return Ok(());
        }
        let mut assignments = std::mem::take(&mut case.assignments);
        for assignment in &mut assignments {
            if !matches!(assignment.state, AssignmentState::Planned | AssignmentState::Excluded) {
                continue;
            }
            let Some(campaign) = self.repo.campaign(&assignment.campaign).await? else { continue };
            if campaign.state != CampaignState::Running {
                continue;
            }
            let release = self.need_release(&campaign.spec.release).await?;
            let fitted = Fitted { vehicle: &case.vehicle, ecus: &case.ecus, listed: &case.listed };
            match plan_update(fitted, &release) {
                Ok(plan) => {
                    step(assignment, AssignmentState::Planned, "it may have it now", now, &mut case.changes);
                    assignment.plan = plan;
                    assignment.offered_at = Some(now);
                    assignment.offered_counter = case.vehicle.report_counter;
                    assignment.install_by = Some(later(now, campaign.spec.install_within_secs));
                    step(assignment, AssignmentState::Offered, "signed by the Director", now, &mut case.changes);
                    case.vehicle.rev = case.vehicle.rev.saturating_add(1);
                    break;
                }
                Err(exclusion) => exclude(assignment, &exclusion, now, &mut case.changes),
            }
        }
        case.assignments = assignments;
        Ok(())
    }
}

/// Records why it is not offered, once per reason. A planned one is excluded only if the reason is there to stay: a campaign that is
/// done would never look at the vehicle again.
pub(crate) fn exclude(assignment: &mut Assignment, why: &Exclusion, now: i64, changes: &mut Vec<Change>) {
    let reason = why.to_string();
    if assignment.state == AssignmentState::Planned && !why.may_pass() {
        step(assignment, AssignmentState::Excluded, reason, now, changes);
    } else if assignment.reason != reason {
        assignment.reason = reason;
        changes.push(Change::PutAssignment(assignment.clone()));
    }
}

/// The assignment for which the vehicle holds a signed order.
pub(crate) fn under_way(assignments: &[Assignment]) -> Option<&Assignment> {
    assignments.iter().find(|assignment| assignment.state.is_under_way())
}
