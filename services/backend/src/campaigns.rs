//! Campaign management: what operators order, and how far it is.

use std::collections::BTreeMap;

use pitstop_types::CampaignId;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::assignments::step;
use crate::backend::Backend;
use crate::error::Error;
use crate::model::{AssignmentState, Campaign, CampaignSpec, CampaignState, ReleaseKind, ReleaseState, new_id};
use crate::rules::Counts;
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
}

impl Progress {
    fn of(stage: String, open: bool, counts: &Counts) -> Self {
        Self {
            stage,
            open,
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
            self.turn(actor, &mut campaign, CampaignState::Running, reason, Vec::new()).await?;
        }
        self.control(id).await?;
        self.hint_planned(id).await?;
        self.need_campaign(id).await
    }

    /// Ends it. What has not begun to change a vehicle is cancelled; what has goes on to its end, either way.
    pub async fn abort(&self, actor: &str, id: &CampaignId, reason: String) -> Result<Campaign, Error> {
        let _deciding = self.decide().await;
        let mut campaign = self.need_campaign(id).await?;
        campaign.ended_at = Some(self.clock.now());
        self.turn(actor, &mut campaign, CampaignState::Aborted, reason.clone(), Vec::new()).await?;
        let mut after = String::new();
        loop {
            let batch = self.repo.assignments_of_campaign(id, &after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after = last.vin.to_string();
            let (mut changes, mut told) = (Vec::new(), Vec::new());
            for mut assignment in batch {
                if assignment.state.is_end() || assignment.state.may_have_changed_something() {
                    continue;
                }
                let text = format!("campaign aborted: {reason}");
                step(&mut assignment, AssignmentState::Cancelled, text, self.clock.now(), &mut changes);
                let mut vehicle = self.need_vehicle(&assignment.vin).await?;
                vehicle.rev = vehicle.rev.saturating_add(1);
                changes.push(Change::PutVehicle(vehicle.clone()));
                told.push(vehicle);
            }
            self.repo.apply(changes).await?;
            told.iter().for_each(|vehicle| self.hint(vehicle));
        }
        Ok(campaign)
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

    /// Tells every vehicle that still waits for its offer.
    async fn hint_planned(&self, id: &CampaignId) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let batch = self.repo.assignments_of_campaign(id, &after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.vin.to_string();
            for assignment in batch.iter().filter(|a| a.state == AssignmentState::Planned) {
                self.hint(&self.need_vehicle(&assignment.vin).await?);
            }
        }
    }

    pub async fn campaign_view(&self, id: &CampaignId) -> Result<CampaignView, Error> {
        let campaign = self.need_campaign(id).await?;
        let counts = self.repo.counts(id).await?;
        let none = Counts::default();
        let stages = campaign.spec.stages_or_one().into_iter().zip(0_u32..);
        let stages = stages
            .map(|(stage, n)| Progress::of(stage.name, n < campaign.open_stages, counts.get(&n).unwrap_or(&none)))
            .collect();
        let progress = Progress::of("all".into(), true, &sum(&counts));
        Ok(CampaignView { campaign, progress, stages })
    }
}

fn wrong_state(campaign: &Campaign, to: CampaignState) -> Error {
    Error::Conflict(format!("a campaign that is {} cannot become {}", campaign.state.as_str(), to.as_str()))
}
