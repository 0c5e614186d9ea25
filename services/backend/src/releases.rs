//! Update management: releases out of bundles.

use std::collections::{BTreeMap, BTreeSet};

use pitstop_types::{CampaignId, HardwareId, PromptFacts, SoftwareVersion};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::backend::Backend;
use crate::error::Error;
use crate::model::{CampaignState, Dependency, Release, ReleaseKind, ReleaseState, new_id};
use crate::store::Change;

/// Describes a release. A draft may lack the facts; publishing needs them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    pub name: String,
    #[serde(default = "update")]
    pub kind: ReleaseKind,
    /// Bundle ids, one per hardware.
    pub bundles: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Option<crate::model::Facts>)]
    pub facts: Option<PromptFacts>,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub allowed_from: BTreeMap<HardwareId, Vec<SoftwareVersion>>,
    #[serde(default)]
    pub depends: Vec<Dependency>,
    /// Release counters below which nothing may return once this release is committed, per hardware; at most its own counter.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub security_floors: BTreeMap<HardwareId, u64>,
}

fn update() -> ReleaseKind {
    ReleaseKind::Update
}

impl Backend {
    pub async fn create_release(&self, actor: &str, new: NewRelease) -> Result<Release, Error> {
        if new.name.trim().is_empty() || new.name.len() > 200 {
            return Err(Error::Invalid("a release needs a name of at most 200 bytes".into()));
        }
        let _deciding = self.decide().await;
        let bundles = self.repo.bundles().await?;
        let mut hardware = BTreeSet::new();
        for id in &new.bundles {
            let bundle = bundles.get(id).ok_or_else(|| Error::Invalid(format!("there is no bundle {id}")))?;
            // A vehicle with both would not know which one is meant.
            if !hardware.insert(&bundle.hardware) && new.kind == ReleaseKind::Update {
                return Err(Error::Invalid(format!("two bundles for hardware {}", bundle.hardware)));
            }
        }
        for (hardware, floor) in &new.security_floors {
            let bundle =
                new.bundles.iter().filter_map(|id| bundles.get(id)).find(|bundle| bundle.hardware == *hardware);
            if bundle.is_none_or(|bundle| bundle.counter < *floor) {
                return Err(Error::Invalid(format!("floor {floor} for {hardware} is above the release's own counter")));
            }
        }
        let release = Release {
            id: new_id("r"),
            name: new.name,
            kind: new.kind,
            state: ReleaseState::Draft,
            bundles: new.bundles,
            facts: new.facts,
            allowed_from: new.allowed_from,
            depends: new.depends,
            security_floors: new.security_floors,
            created_at: self.clock.now(),
            published_at: None,
            withdrawn_reason: None,
        };
        let audit = self.audit(actor, "create-release", json!({ "release": release.id, "name": release.name })).await?;
        self.repo.apply(vec![Change::PutRelease(release.clone()), audit]).await?;
        Ok(release)
    }

    /// Lists the release's bundles in the Image repository. Refused while something mandatory is missing.
    pub async fn publish(&self, actor: &str, id: &str) -> Result<Release, Error> {
        let _deciding = self.decide().await;
        let mut release = self.need_release(id).await?;
        if release.state != ReleaseState::Draft {
            return Err(Error::Conflict(format!("the release is {}", release.state.as_str())));
        }
        ready_to_publish(&release)?;
        release.state = ReleaseState::Published;
        release.published_at = Some(self.clock.now());
        let mut listed = self.listed_bundles().await?;
        let bundles = self.repo.bundles().await?;
        listed.extend(bundles.into_iter().filter(|(id, _)| release.bundles.contains(id)));
        let mut changes = Vec::new();
        for bundle in listed.values_mut().filter(|bundle| release.bundles.contains(&bundle.id)) {
            let floor = release.security_floors.get(&bundle.hardware).copied().max(bundle.security_floor);
            if let Some(floor) = floor.filter(|_| floor != bundle.security_floor) {
                bundle.security_floor = Some(floor);
                changes.push(Change::SetSecurityFloor(bundle.id.clone(), floor));
            }
        }
        changes.extend(self.sign_image_repository(listed.values(), true).await?);
        changes.push(Change::PutRelease(release.clone()));
        changes.push(self.audit(actor, "publish", json!({ "release": id, "bundles": release.bundles })).await?);
        self.repo.apply(changes).await?;
        Ok(release)
    }

    /// Stops offering it; campaigns with it are aborted. Its bundles stay listed: vehicles that run them must be able to go back
    /// to them when the next update fails. May be repeated.
    pub async fn withdraw(&self, actor: &str, id: &str, reason: String) -> Result<Release, Error> {
        if reason.trim().is_empty() {
            return Err(Error::Invalid("a reason is needed".into()));
        }
        let release = {
            let _deciding = self.decide().await;
            let mut release = self.need_release(id).await?;
            if release.state == ReleaseState::Draft {
                return Err(Error::Conflict(format!("the release is {}", release.state.as_str())));
            }
            if release.state == ReleaseState::Published {
                release.state = ReleaseState::Withdrawn;
                release.withdrawn_reason = Some(reason.clone());
                let audit = self.audit(actor, "withdraw", json!({ "release": id, "reason": reason })).await?;
                self.repo.apply(vec![Change::PutRelease(release.clone()), audit]).await?;
            }
            release
        };
        for campaign in self.repo.campaigns().await? {
            if campaign.spec.release == id {
                self.finish_withdrawal(actor, &release, &campaign.id).await?;
            }
        }
        Ok(release)
    }

    /// Aborts one campaign of a withdrawn release, unless it has ended.
    pub(crate) async fn finish_withdrawal(
        &self,
        actor: &str,
        release: &Release,
        campaign: &CampaignId,
    ) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let mut campaign = self.need_campaign(campaign).await?;
        if !campaign.state.may_become(CampaignState::Aborted) {
            return Ok(());
        }
        let reason = format!("release withdrawn: {}", release.withdrawn_reason.as_deref().unwrap_or_default());
        self.abort_while_deciding(actor, &mut campaign, reason).await
    }
}

fn ready_to_publish(release: &Release) -> Result<(), Error> {
    if release.bundles.is_empty() {
        return Err(Error::Invalid("the release has no bundle".into()));
    }
    if release.kind == ReleaseKind::Initial {
        return Ok(());
    }
    let facts = release.facts.as_ref().ok_or_else(|| Error::Invalid("the driver's information is missing".into()))?;
    facts.check().map_err(|error| Error::Invalid(error.to_string()))
}
