//! Campaign management: what operators order, and how far it is.

use std::collections::BTreeMap;

use pitstop_types::{CampaignId, Vin};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::assignments::step;
use crate::backend::Backend;
use crate::error::Error;
use crate::model::{
    AssignmentState, Campaign, CampaignSpec, CampaignState, ReleaseKind, ReleaseState, Vehicle, new_id,
};
use crate::rules::{Counts, shut_reason};
use crate::store::Change;

/// Vehicles handled per transaction.
pub(crate) const BATCH: u32 = 200;

/// Progress of one stage or of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    pub stage: String,
    pub open: bool,
    pub total: u64,
    /// How many assignments are in each state.
    pub states: BTreeMap<AssignmentState, u64>,
    pub finished: u64,
    pub failures: u64,
    /// Why the stage after this one is not open yet: of the last open stage alone, while the campaign may go on.
    pub next_shut: Option<String>,
}

impl Progress {
    fn of(stage: String, open: bool, next_shut: Option<String>, counts: &Counts) -> Self {
        Self {
            stage,
            open,
            next_shut,
            total: counts.total(),
            states: counts.0.clone(),
            finished: counts.finished(),
            failures: counts.failures(),
        }
    }
}

/// A campaign with its progress.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CampaignView {
    #[serde(flatten)]
    pub campaign: Campaign,
    pub progress: Progress,
    pub stages: Vec<Progress>,
}

/// All stages together.
pub(crate) fn sum(stages: &BTreeMap<u32, Counts>) -> Counts {
    let mut all = Counts::default();
    for counts in stages.values() {
        for (state, count) in &counts.0 {
            *all.0.entry(*state).or_default() += count;
        }
    }
    all
}

impl Backend {
    pub(crate) async fn need_campaign(&self, id: &CampaignId) -> Result<Campaign, Error> {
        self.repo.campaign(id).await?.ok_or(Error::NotFound("campaign"))
    }

    pub async fn create_campaign(&self, actor: &str, spec: CampaignSpec) -> Result<Campaign, Error> {
        spec.check().map_err(|error| Error::Invalid(error.to_string()))?;
        for text in spec.signed_conditions() {
            let parsed: Result<pitstop_conditions::Expr, _> = text.parse();
            parsed.map_err(|error| Error::Invalid(format!("condition {text:?}: {error}")))?;
        }
        let _deciding = self.decide().await;
        let release = self.need_release(&spec.release).await?;
        if release.state != ReleaseState::Published || release.kind != ReleaseKind::Update {
            return Err(Error::Conflict("only a published update can be offered".into()));
        }
        let id = CampaignId::new(new_id("c")).map_err(Error::internal("naming a campaign"))?;
        let campaign = Campaign {
            id,
            spec,
            state: CampaignState::Draft,
            reason: "created".into(),
            created_at: self.clock.now(),
            started_at: None,
            ended_at: None,
            open_stages: 0,
            acknowledged_failures: 0,
            acknowledged_finished: 0,
            resumed_at: None,
        };
        let audit =
            self.audit(actor, "create-campaign", json!({ "campaign": campaign.id, "spec": campaign.spec })).await?;
        self.repo.apply(vec![Change::PutCampaign(campaign.clone()), audit]).await?;
        Ok(campaign)
    }

    /// Starts a draft; its first stage opens at once.
    pub async fn start(&self, actor: &str, id: &CampaignId) -> Result<Campaign, Error> {
        {
            let _deciding = self.decide().await;
            let mut campaign = self.need_campaign(id).await?;
            if campaign.state != CampaignState::Draft {
                return Err(wrong_state(&campaign, CampaignState::Running));
            }
            campaign.started_at = Some(self.clock.now());
            self.turn(actor, &mut campaign, CampaignState::Running, "started".into(), Vec::new()).await?;
        }
        self.control(id).await?;
        self.need_campaign(id).await
    }

    /// Offers nothing new until it is resumed. What has been offered goes on.
    pub async fn pause(&self, actor: &str, id: &CampaignId, reason: String) -> Result<Campaign, Error> {
        let _deciding = self.decide().await;
        let mut campaign = self.need_campaign(id).await?;
        self.turn(actor, &mut campaign, CampaignState::Paused, reason, Vec::new()).await?;
        Ok(campaign)
    }

    /// Goes on. The operator has seen the failures so far: the stop rule counts from here.
    pub async fn resume(&self, actor: &str, id: &CampaignId, reason: String) -> Result<Campaign, Error> {
        {
            let _deciding = self.decide().await;
            let mut campaign = self.need_campaign(id).await?;
            if campaign.state != CampaignState::Paused {
                return Err(wrong_state(&campaign, CampaignState::Running));
            }
            let counts = sum(&self.repo.counts(id).await?);
            campaign.acknowledged_failures = counts.failures();
            campaign.acknowledged_finished = counts.finished();
            campaign.resumed_at = Some(self.clock.now());
            self.turn(actor, &mut campaign, CampaignState::Running, reason, Vec::new()).await?;
        }
        self.control(id).await?;
        self.hint_planned(id).await?;
        self.need_campaign(id).await
    }

    /// Ends it. What has not begun to change a vehicle is cancelled; what has goes on to its end, either way. May be repeated.
    pub async fn abort(&self, actor: &str, id: &CampaignId, reason: String) -> Result<Campaign, Error> {
        let _deciding = self.decide().await;
        let mut campaign = self.need_campaign(id).await?;
        self.abort_while_deciding(actor, &mut campaign, reason).await?;
        Ok(campaign)
    }

    /// The state first: if the rest is cut short, the Director signs nothing more of it and the controller ends what is left.
    pub(crate) async fn abort_while_deciding(
        &self,
        actor: &str,
        campaign: &mut Campaign,
        reason: String,
    ) -> Result<(), Error> {
        if campaign.state != CampaignState::Aborted {
            campaign.ended_at = Some(self.clock.now());
            self.turn(actor, campaign, CampaignState::Aborted, reason, Vec::new()).await?;
        }
        self.cancel_rest(campaign).await
    }

    /// Ends what an abort that was cut short has left.
    pub(crate) async fn finish_abort(&self, campaign: &Campaign) -> Result<(), Error> {
        if sum(&self.repo.counts(&campaign.id).await?).recallable() == 0 {
            return Ok(());
        }
        let _deciding = self.decide().await;
        self.cancel_rest(campaign).await
    }

    async fn cancel_rest(&self, campaign: &Campaign) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let batch = self.repo.assignments_of_campaign(&campaign.id, &after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after = last.vin.to_string();
            let (mut changes, mut told) = (Vec::new(), Vec::new());
            for mut assignment in batch {
                if !assignment.state.may_be_recalled() {
                    continue;
                }
                let text = format!("campaign aborted: {}", campaign.reason);
                step(&mut assignment, AssignmentState::Cancelled, text, self.clock.now(), &mut changes);
                told.push(self.raise_rev(&assignment.vin, &mut changes).await?);
            }
            self.repo.apply(changes).await?;
            told.iter().for_each(|vehicle| self.hint(vehicle));
        }
        Ok(())
    }

    /// What the vehicle is to do has changed; answers the vehicle, to be told of it once that is stored.
    pub(crate) async fn raise_rev(&self, vin: &Vin, changes: &mut Vec<Change>) -> Result<Vehicle, Error> {
        let mut vehicle = self.need_vehicle(vin).await?;
        vehicle.rev = vehicle.rev.saturating_add(1);
        changes.push(Change::PutVehicle(vehicle.clone()));
        Ok(vehicle)
    }

    /// A campaign's change of state, with the audit line.
    pub(crate) async fn turn(
        &self,
        actor: &str,
        campaign: &mut Campaign,
        to: CampaignState,
        reason: String,
        mut changes: Vec<Change>,
    ) -> Result<(), Error> {
        if !campaign.state.may_become(to) {
            return Err(wrong_state(campaign, to));
        }
        log::info!("campaign {}: {} -> {}: {reason}", campaign.id, campaign.state.as_str(), to.as_str());
        let detail = json!({ "campaign": campaign.id, "from": campaign.state, "to": to, "reason": reason });
        campaign.state = to;
        campaign.reason = reason;
        changes.push(Change::PutCampaign(campaign.clone()));
        changes.push(self.audit(actor, "campaign", detail).await?);
        Ok(self.repo.apply(changes).await?)
    }

    /// Tells every vehicle that still waits for its offer: one that came in the pause went away without.
    async fn hint_planned(&self, id: &CampaignId) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let mut after = String::new();
        loop {
            let batch = self.repo.assignments_of_campaign(id, &after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.vin.to_string();
            let (mut changes, mut told) = (Vec::new(), Vec::new());
            for assignment in batch.iter().filter(|a| a.state == AssignmentState::Planned) {
                told.push(self.raise_rev(&assignment.vin, &mut changes).await?);
            }
            self.repo.apply(changes).await?;
            told.iter().for_each(|vehicle| self.hint(vehicle));
        }
    }

    pub async fn campaign_view(&self, id: &CampaignId) -> Result<CampaignView, Error> {
        let campaign = self.need_campaign(id).await?;
        let counts = self.repo.counts(id).await?;
        let none = Counts::default();
        let all = campaign.spec.stages_or_one();
        let goes_on = matches!(campaign.state, CampaignState::Running | CampaignState::Paused);
        let waits = goes_on && usize::try_from(campaign.open_stages).is_ok_and(|open| open < all.len());
        let stages = all.into_iter().zip(0_u32..).map(|(stage, n)| {
            let counts = counts.get(&n).unwrap_or(&none);
            let last = waits && n.saturating_add(1) == campaign.open_stages;
            let next_shut = last.then(|| shut_reason(&stage.gate, counts)).flatten();
            Progress::of(stage.name, n < campaign.open_stages, next_shut, counts)
        });
        let stages = stages.collect();
        let progress = Progress::of("all".into(), true, None, &sum(&counts));
        Ok(CampaignView { campaign, progress, stages })
    }
}

fn wrong_state(campaign: &Campaign, to: CampaignState) -> Error {
    Error::Conflict(format!("a campaign that is {} cannot become {}", campaign.state.as_str(), to.as_str()))
}
