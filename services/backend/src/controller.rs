//! The controller: once per second it judges running campaigns by their rules. Every decision is a row with its reason.

use std::time::Duration;

use pitstop_types::{CampaignId, UnixSeconds, UpdateId};

use crate::assignments::step;
use crate::backend::Backend;
use crate::campaigns::{BATCH, sum};
use crate::director::{Case, exclude, under_way};
use crate::error::{Error, causes};
use crate::model::{
    Assignment, AssignmentState, Campaign, CampaignState, Release, ReleaseState, Stage, Vehicle, new_id,
};
use crate::rules::{
    Exclusion, Fitted, held_up_by, limit_secs, may_open_next, overdue_before, plan_update, stop_reason,
};
use crate::store::Change;

/// How often the rules are looked at. A second is short against any phase of an update and costs one query per campaign.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the Image repository's expiry is looked at, in periods.
const IMAGE_PERIODS: u64 = 3600;
const SYSTEM: &str = "controller";

impl Backend {
    /// Runs until cancelled.
    pub async fn run_controller(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 1_u64.. {
            ticks.tick().await;
            if let Err(error) = self.tick().await {
                log::error!("controller: {error}: {}", causes(&error));
            }
            if n % IMAGE_PERIODS == 0
                && let Err(error) = self.refresh_image_repository().await
            {
                log::error!("image repository: {error}: {}", causes(&error));
            }
        }
    }

    /// One look at everything that is running.
    pub async fn tick(&self) -> Result<(), Error> {
        let releases = self.repo.releases().await?;
        for campaign in self.repo.campaigns().await? {
            if campaign.state != CampaignState::Draft {
                self.expire(&campaign).await?;
            }
            self.finish_recall(&campaign, &releases).await?;
            if campaign.state == CampaignState::Running {
                self.control(&campaign.id).await?;
            }
        }
        Ok(())
    }

    /// Ends what an abort or a withdrawal left when it was cut short.
    async fn finish_recall(&self, campaign: &Campaign, releases: &[Release]) -> Result<(), Error> {
        let release = releases.iter().find(|release| release.id == campaign.spec.release);
        match release.filter(|release| release.state == ReleaseState::Withdrawn) {
            _ if campaign.state == CampaignState::Aborted => self.finish_abort(campaign).await,
            Some(release) if campaign.state.may_become(CampaignState::Aborted) => {
                self.finish_withdrawal(SYSTEM, release, &campaign.id).await
            }
            _ => Ok(()),
        }
    }

    /// Ends assignments that stayed too long where they are; of an ended campaign too, for what was under way then.
    async fn expire(&self, campaign: &Campaign) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let now = self.clock.now();
        let (mut changes, mut told) = (Vec::new(), Vec::new());
        for state in AssignmentState::ALL {
            let Some(before) = overdue_before(state, &campaign.spec.deadlines, now) else { continue };
            // A paused campaign offers nothing: not the vehicle's fault. A resumed one grants the whole time again. What was offered
            // before goes on in a pause, and so does its clock.
            if state == AssignmentState::Planned && !offers_since(campaign, before) {
                continue;
            }
            // Whatever is decided of a row, it is overdue no longer: none keeps those behind the page's end from being looked at.
            for mut assignment in self.repo.in_state_since(&campaign.id, state, before, BATCH).await? {
                match self.judge_overdue(campaign, &assignment, before).await? {
                    Overdue::Ends(end, reason) => {
                        step(&mut assignment, end, reason, now, &mut changes);
                        told.push(self.raise_rev(&assignment.vin, &mut changes).await?);
                    }
                    Overdue::WaitsFrom(since, reason) => {
                        (assignment.since, assignment.reason) = (since, reason);
                        changes.push(Change::PutAssignment(assignment));
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.repo.apply(changes).await?;
        }
        told.iter().for_each(|vehicle| self.hint(vehicle));
        Ok(())
    }

    /// What becomes of an assignment that has been in its state since before `before`.
    async fn judge_overdue(
        &self,
        campaign: &Campaign,
        assignment: &Assignment,
        before: UnixSeconds,
    ) -> Result<Overdue, Error> {
        let state = assignment.state;
        if state == AssignmentState::Planned {
            let case = self.open_case(self.need_vehicle(&assignment.vin).await?).await?;
            // Nothing is offered beside another update. It stays planned: as excluded nobody would wait for it, and a campaign that is
            // done meanwhile would never offer it.
            if let Some((other, until)) = held_up_by(assignment, &case.assignments, self.clock.now())
                && until >= before
            {
                return Ok(Overdue::WaitsFrom(until, format!("update {other} came before it")));
            }
            if let Some(why) = self.kept_out(campaign, &case).await? {
                return Ok(Overdue::Ends(AssignmentState::Excluded, why.to_string()));
            }
        }
        let limit = limit_secs(state, &campaign.spec.deadlines).unwrap_or_default();
        Ok(Overdue::Ends(AssignmentState::TimedOut, format!("timed out: {state} for more than {limit} s")))
    }

    /// Why a vehicle that was heard of was not offered the update all the time: that is no failure of the update.
    async fn kept_out(&self, campaign: &Campaign, case: &Case) -> Result<Option<Exclusion>, Error> {
        let release = self.need_release(&campaign.spec.release).await?;
        let fitted = Fitted { vehicle: &case.vehicle, ecus: &case.ecus, listed: &case.listed };
        Ok(plan_update(fitted, &release).err().filter(|why| !why.is_silence()))
    }

    /// One campaign: stop rule first, then stages, then the end.
    pub(crate) async fn control(&self, id: &CampaignId) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let mut campaign = self.need_campaign(id).await?;
        if campaign.state != CampaignState::Running {
            return Ok(());
        }
        let stages = campaign.spec.stages_or_one();
        loop {
            let counts = self.repo.counts(id).await?;
            if let Some(reason) = stop_reason(&campaign.spec.stop, &campaign, &sum(&counts)) {
                return self.turn(SYSTEM, &mut campaign, CampaignState::Paused, reason, Vec::new()).await;
            }
            let open = campaign.open_stages;
            let gate = open.checked_sub(1).and_then(|last| Some((last, stages.get(usize::try_from(last).ok()?)?)));
            let passed = gate.is_none_or(|(last, stage)| {
                may_open_next(&stage.gate, &counts.get(&last).cloned().unwrap_or_default())
            });
            match usize::try_from(open).ok().and_then(|open| stages.get(open)) {
                Some(stage) if passed => self.open_stage(&mut campaign, stage).await?,
                Some(_) => return Ok(()),
                None if sum(&counts).open() == 0 => {
                    campaign.ended_at = Some(self.clock.now());
                    let reason = "every vehicle has ended".to_owned();
                    return self.turn(SYSTEM, &mut campaign, CampaignState::Done, reason, Vec::new()).await;
                }
                None => return Ok(()),
            }
        }
    }

    /// Freezes the stage's vehicles and tells them. Interrupted, it begins again and skips those it had already taken.
    async fn open_stage(&self, campaign: &mut Campaign, stage: &Stage) -> Result<(), Error> {
        let release = self.need_release(&campaign.spec.release).await?;
        let listed = self.listed_bundles().await?;
        let mut after = String::new();
        loop {
            let batch = self.repo.vehicles(&after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after = last.vin.to_string();
            let (mut changes, mut told) = (Vec::new(), Vec::new());
            for vehicle in batch {
                if let Some(others) = self.takes(campaign, stage, &vehicle).await? {
                    told.push(self.assign(campaign, &release, vehicle, &others, &listed, &mut changes).await?);
                }
            }
            self.repo.apply(changes).await?;
            told.iter().for_each(|vehicle| self.hint(vehicle));
        }
        campaign.open_stages = campaign.open_stages.saturating_add(1);
        log::info!("campaign {}: stage {:?} is open", campaign.id, stage.name);
        let detail = serde_json::json!({ "campaign": campaign.id, "stage": stage.name });
        let audit = self.audit(SYSTEM, "open-stage", detail).await?;
        Ok(self.repo.apply(vec![Change::PutCampaign(campaign.clone()), audit]).await?)
    }

    /// The vehicle's assignments of other campaigns, if it belongs to the stage and has none of this campaign.
    async fn takes(
        &self,
        campaign: &Campaign,
        stage: &Stage,
        vehicle: &Vehicle,
    ) -> Result<Option<Vec<Assignment>>, Error> {
        let meant = campaign.spec.vins.as_ref().is_none_or(|vins| vins.contains(&vehicle.vin));
        if !meant || !stage.select.takes(&campaign.id, &vehicle.vin) {
            return Ok(None);
        }
        let assignments = self.repo.assignments_of_vehicle(&vehicle.vin).await?;
        Ok(Some(assignments).filter(|all| all.iter().all(|assignment| assignment.campaign != campaign.id)))
    }

    async fn assign(
        &self,
        campaign: &Campaign,
        release: &Release,
        mut vehicle: Vehicle,
        others: &[Assignment],
        listed: &std::collections::BTreeMap<String, crate::model::Bundle>,
        changes: &mut Vec<Change>,
    ) -> Result<Vehicle, Error> {
        let now = self.clock.now();
        let ecus = self.repo.ecus(&vehicle.vin).await?;
        let mut assignment = Assignment {
            id: UpdateId::new(new_id("u")).map_err(Error::internal("naming an update"))?,
            campaign: campaign.id.clone(),
            vin: vehicle.vin.clone(),
            stage: campaign.open_stages,
            state: AssignmentState::Planned,
            reason: "its stage is open".into(),
            since: now,
            failed_at: None,
            plan: Vec::new(),
            offered_at: None,
            offered_counter: 0,
            install_by: None,
            claimed: None,
            phase: String::new(),
            ecus: Vec::new(),
        };
        changes.push(Change::PutAssignment(assignment.clone()));
        // What another update is changing just now is judged when that has ended.
        if under_way(others).is_none()
            && let Err(why) = plan_update(Fitted { vehicle: &vehicle, ecus: &ecus, listed }, release)
        {
            exclude(&mut assignment, &why, now, changes);
        }
        vehicle.rev = vehicle.rev.saturating_add(1);
        changes.push(Change::PutVehicle(vehicle.clone()));
        Ok(vehicle)
    }
}

/// What becomes of an overdue assignment.
enum Overdue {
    Ends(AssignmentState, String),
    /// Its clock starts again, at a moment at which it is not overdue.
    WaitsFrom(UnixSeconds, String),
}

/// Has the campaign offered its update all the time since before `before`, as far as its last resumption tells?
fn offers_since(campaign: &Campaign, before: UnixSeconds) -> bool {
    campaign.state == CampaignState::Running && campaign.resumed_at.is_none_or(|resumed_at| resumed_at < before)
}
