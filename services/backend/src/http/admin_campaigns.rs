//! Campaigns in the operators' REST interface.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use pitstop_types::CampaignId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admin::{ACTOR, Page, Reason, State_};
use super::extract::{Body, MaybeBody, Params};
use super::to_its_end;
use crate::backend::Backend;
use crate::campaigns::CampaignView;
use crate::error::{Error, ErrorBody};
use crate::model::{Assignment, Campaign, CampaignSpec};

pub(super) fn api() -> OpenApiRouter<Arc<Backend>> {
    OpenApiRouter::new()
        .routes(routes!(list_campaigns, create_campaign))
        .routes(routes!(get_campaign))
        .routes(routes!(get_assignments))
        .routes(routes!(start_campaign))
        .routes(routes!(pause_campaign))
        .routes(routes!(resume_campaign))
        .routes(routes!(abort_campaign))
}

pub(super) fn campaign_id(text: String) -> Result<CampaignId, Error> {
    CampaignId::new(text).map_err(|_| Error::NotFound("campaign"))
}

/// All campaigns.
#[utoipa::path(get, path = "/api/v1/campaigns", responses((status = 200, body = Vec<Campaign>)))]
async fn list_campaigns(State(backend): State_) -> Result<Json<Vec<Campaign>>, Error> {
    Ok(Json(backend.repo.campaigns().await?))
}

/// Order an update for many vehicles, as a draft.
#[utoipa::path(post, path = "/api/v1/campaigns", request_body = CampaignSpec,
    responses((status = 200, body = Campaign), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn create_campaign(State(backend): State_, Body(spec): Body<CampaignSpec>) -> Result<Json<Campaign>, Error> {
    backend.create_campaign(ACTOR, spec).await.map(Json)
}

/// One campaign with its progress, per stage and in all.
#[utoipa::path(get, path = "/api/v1/campaigns/{id}", responses((status = 200, body = CampaignView), (status = 404, body = ErrorBody)))]
async fn get_campaign(State(backend): State_, Path(id): Path<String>) -> Result<Json<CampaignView>, Error> {
    backend.campaign_view(&campaign_id(id)?).await.map(Json)
}

/// Its vehicles with state and reason, by VIN.
#[utoipa::path(get, path = "/api/v1/campaigns/{id}/assignments", params(Page), responses((status = 200, body = Vec<Assignment>)))]
async fn get_assignments(
    State(backend): State_,
    Path(id): Path<String>,
    Params(page): Params<Page>,
) -> Result<Json<Vec<Assignment>>, Error> {
    let id = campaign_id(id)?;
    Ok(Json(backend.repo.assignments_of_campaign(&id, page.after(), page.limit()).await?))
}

/// Start a draft.
#[utoipa::path(post, path = "/api/v1/campaigns/{id}/start", responses((status = 200, body = Campaign), (status = 409, body = ErrorBody)))]
async fn start_campaign(State(backend): State_, Path(id): Path<String>) -> Result<Json<Campaign>, Error> {
    backend.start(ACTOR, &campaign_id(id)?).await.map(Json)
}

/// Offer nothing new until resumed. The body with a reason may be left out.
#[utoipa::path(post, path = "/api/v1/campaigns/{id}/pause", request_body = Option<Reason>, responses((status = 200, body = Campaign)))]
async fn pause_campaign(
    State(backend): State_,
    Path(id): Path<String>,
    MaybeBody(reason): MaybeBody<Reason>,
) -> Result<Json<Campaign>, Error> {
    backend.pause(ACTOR, &campaign_id(id)?, words(reason, "paused by the operator")).await.map(Json)
}

/// Go on; failures so far count as seen.
#[utoipa::path(post, path = "/api/v1/campaigns/{id}/resume", request_body = Option<Reason>, responses((status = 200, body = Campaign)))]
async fn resume_campaign(
    State(backend): State_,
    Path(id): Path<String>,
    MaybeBody(reason): MaybeBody<Reason>,
) -> Result<Json<Campaign>, Error> {
    backend.resume(ACTOR, &campaign_id(id)?, words(reason, "resumed by the operator")).await.map(Json)
}

/// End it: what has not begun to change a vehicle is cancelled.
#[utoipa::path(post, path = "/api/v1/campaigns/{id}/abort", request_body = Option<Reason>, responses((status = 200, body = Campaign)))]
async fn abort_campaign(
    State(backend): State_,
    Path(id): Path<String>,
    MaybeBody(reason): MaybeBody<Reason>,
) -> Result<Json<Campaign>, Error> {
    let (id, reason) = (campaign_id(id)?, words(reason, "aborted by the operator"));
    to_its_end(async move { backend.abort(ACTOR, &id, reason).await }).await.map(Json)
}

fn words(reason: Option<Reason>, default: &str) -> String {
    let given = reason.map(|reason| reason.reason).filter(|reason| !reason.trim().is_empty());
    given.unwrap_or_else(|| default.to_owned())
}
