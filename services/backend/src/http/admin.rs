//! The operators' REST interface. Every handler is documented where it stands; `/api/openapi.json` is made from that.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Body, Params};
use super::view::{self, Timeline, VehicleView};
use super::{admin_campaigns, auth, document, page, prometheus, to_its_end};
use crate::backend::Backend;
use crate::ecus::KnownEcu;
use crate::error::{Error, ErrorBody};
use crate::model::{AuditEntry, Bundle, Ecu, Release, Vehicle};
use crate::releases::NewRelease;
use crate::vehicles::{ClaimToken, Eligibility, RegisterVehicle};

/// The one operator there is so far: whoever holds the token.
pub(super) const ACTOR: &str = "operator";
/// Longest list in one answer.
const MAX_PAGE: u32 = 500;

#[derive(OpenApi)]
#[openapi(info(
    title = "Pitstop backend",
    description = "Update, device and campaign management. Times are Unix seconds. \
    Every request needs `Authorization: Bearer TOKEN`; every error is `{\"error\":{\"code\",\"text\"}}`."
))]
struct Document;

pub(super) type State_ = State<Arc<Backend>>;

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = api().split_for_parts().1;
    document.merge(upload_api().split_for_parts().1);
    document::complete(document)
}

/// By itself: the upload streams to disk and counts for itself.
fn upload_api() -> OpenApiRouter<Arc<Backend>> {
    OpenApiRouter::new().routes(routes!(upload_bundle))
}

fn api() -> OpenApiRouter<Arc<Backend>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list_bundles))
        .routes(routes!(list_releases, create_release))
        .routes(routes!(get_release))
        .routes(routes!(publish_release))
        .routes(routes!(withdraw_release))
        .routes(routes!(list_vehicles, register_vehicle))
        .routes(routes!(get_vehicle))
        .routes(routes!(get_timeline))
        .routes(routes!(get_eligibility))
        .routes(routes!(authorise_vehicle))
        .routes(routes!(correct_ecus))
        .routes(routes!(get_audit))
        .merge(admin_campaigns::api())
}

pub(super) fn router(backend: Arc<Backend>) -> Router {
    let limit = backend.settings.limits.admin_body_bytes;
    let api = api().layer(DefaultBodyLimit::max(limit)).split_for_parts().0;
    let upload = upload_api().layer(DefaultBodyLimit::disable()).split_for_parts().0;
    let document = openapi();
    Router::new()
        .route("/api/openapi.json", get(async move || Json(document)))
        .merge(api)
        .merge(upload)
        .merge(page::router())
        .route("/metrics", get(prometheus::metrics))
        .fallback(view::no_such_path)
        .layer(from_fn_with_state(Arc::clone(&backend), auth::require_token))
        .route("/healthz", get(async || "ok"))
        .layer(map_response(view::in_our_form))
        .with_state(backend)
}

/// A page of a list: the first `limit` entries after `after`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Key of the last entry of the page before.
    #[serde(default)]
    after: String,
    /// At most 500, which is also the default.
    limit: Option<u32>,
}

impl Page {
    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE)
    }
    pub(super) fn after(&self) -> &str {
        &self.after
    }
}

/// Why something is done; kept in the audit log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    pub reason: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UploadName {
    /// File name, for people.
    name: String,
}

/// Upload a bundle: the body is the file. It is verified against the keyring; hardware, version and counter come out of its signed
/// manifest. The same file again gives the same answer.
#[utoipa::path(post, path = "/api/v1/bundles", params(UploadName), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Bundle), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn upload_bundle(
    State(backend): State_,
    Params(query): Params<UploadName>,
    request: Request,
) -> Result<(axum::http::StatusCode, Json<Bundle>), Error> {
    let body = request.into_body().into_data_stream();
    let bundle = backend.upload(ACTOR, query.name, body).await?;
    Ok((axum::http::StatusCode::CREATED, Json(bundle)))
}

/// All bundles.
#[utoipa::path(get, path = "/api/v1/bundles", responses((status = 200, body = Vec<Bundle>)))]
async fn list_bundles(State(backend): State_) -> Result<Json<Vec<Bundle>>, Error> {
    Ok(Json(backend.repo.bundles().await?.into_values().collect()))
}

/// All releases.
#[utoipa::path(get, path = "/api/v1/releases", responses((status = 200, body = Vec<Release>)))]
async fn list_releases(State(backend): State_) -> Result<Json<Vec<Release>>, Error> {
    Ok(Json(backend.repo.releases().await?))
}

/// Describe a release as a draft. `kind` `initial` lists software that vehicles run already, so that they can go back to it.
#[utoipa::path(post, path = "/api/v1/releases", request_body = NewRelease,
    responses((status = 200, body = Release), (status = 400, body = ErrorBody)))]
async fn create_release(State(backend): State_, Body(new): Body<NewRelease>) -> Result<Json<Release>, Error> {
    backend.create_release(ACTOR, new).await.map(Json)
}

#[utoipa::path(get, path = "/api/v1/releases/{id}", responses((status = 200, body = Release), (status = 404, body = ErrorBody)))]
async fn get_release(State(backend): State_, Path(id): Path<String>) -> Result<Json<Release>, Error> {
    backend.need_release(&id).await.map(Json)
}

/// List its bundles in the Image repository. Refused while one of the driver's five facts is missing.
#[utoipa::path(post, path = "/api/v1/releases/{id}/publish",
    responses((status = 200, body = Release), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn publish_release(State(backend): State_, Path(id): Path<String>) -> Result<Json<Release>, Error> {
    backend.publish(ACTOR, &id).await.map(Json)
}

/// Offer it no longer; campaigns with it are aborted.
#[utoipa::path(post, path = "/api/v1/releases/{id}/withdraw", request_body = Reason, responses((status = 200, body = Release)))]
async fn withdraw_release(
    State(backend): State_,
    Path(id): Path<String>,
    Body(reason): Body<Reason>,
) -> Result<Json<Release>, Error> {
    to_its_end(async move { backend.withdraw(ACTOR, &id, reason.reason).await }).await.map(Json)
}

/// Vehicles by VIN.
#[utoipa::path(get, path = "/api/v1/vehicles", params(Page), responses((status = 200, body = Vec<Vehicle>)))]
async fn list_vehicles(State(backend): State_, Params(page): Params<Page>) -> Result<Json<Vec<Vehicle>>, Error> {
    Ok(Json(backend.repo.vehicles(page.after(), page.limit()).await?))
}

/// Register a vehicle and get a one-time token with which its TCU fetches a certificate. For a registered vehicle: a new token.
#[utoipa::path(post, path = "/api/v1/vehicles", request_body = RegisterVehicle,
    responses((status = 200, body = ClaimToken), (status = 400, body = ErrorBody)))]
async fn register_vehicle(
    State(backend): State_,
    Body(request): Body<RegisterVehicle>,
) -> Result<Json<ClaimToken>, Error> {
    backend.register(ACTOR, request).await.map(Json)
}

/// One vehicle with its ECUs and assignments.
#[utoipa::path(get, path = "/api/v1/vehicles/{vin}", responses((status = 200, body = VehicleView), (status = 404, body = ErrorBody)))]
async fn get_vehicle(State(backend): State_, Path(vin): Path<String>) -> Result<Json<VehicleView>, Error> {
    view::vehicle_view(&backend, &view::vin(&vin)?).await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TimelineLimit {
    /// At most 500, which is also the default.
    limit: Option<u32>,
}

/// What happened to a vehicle, newest first.
#[utoipa::path(get, path = "/api/v1/vehicles/{vin}/timeline", params(TimelineLimit), responses((status = 200, body = Timeline)))]
async fn get_timeline(
    State(backend): State_,
    Path(vin): Path<String>,
    Params(query): Params<TimelineLimit>,
) -> Result<Json<Timeline>, Error> {
    let limit = query.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    view::timeline(&backend, &view::vin(&vin)?, limit).await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhichRelease {
    /// Id of a release.
    release: String,
}

/// May this vehicle get this release, and if not, why?
#[utoipa::path(get, path = "/api/v1/vehicles/{vin}/eligibility", params(WhichRelease), responses((status = 200, body = Eligibility)))]
async fn get_eligibility(
    State(backend): State_,
    Path(vin): Path<String>,
    Params(query): Params<WhichRelease>,
) -> Result<Json<Eligibility>, Error> {
    backend.eligibility(&view::vin(&vin)?, &query.release).await.map(Json)
}

/// Whether a vehicle is served.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Authorisation {
    authorised: bool,
    reason: String,
}

/// Block a vehicle or admit it again. A blocked one gets no metadata, links or downloads.
#[utoipa::path(post, path = "/api/v1/vehicles/{vin}/authorisation", request_body = Authorisation, responses((status = 200, body = Vehicle)))]
async fn authorise_vehicle(
    State(backend): State_,
    Path(vin): Path<String>,
    Body(request): Body<Authorisation>,
) -> Result<Json<Vehicle>, Error> {
    backend.authorise(ACTOR, &view::vin(&vin)?, request.authorised, request.reason).await.map(Json)
}

/// Replace the list of a vehicle's ECUs, where a workshop built in another one: a manifest that differs from the list is refused. After an
/// empty list the vehicle's next manifest names them. Refused while an update is under way on one that would go.
#[utoipa::path(put, path = "/api/v1/vehicles/{vin}/ecus", request_body = Vec<KnownEcu>,
    responses((status = 200, body = Vec<Ecu>), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn correct_ecus(
    State(backend): State_,
    Path(vin): Path<String>,
    Body(list): Body<Vec<KnownEcu>>,
) -> Result<Json<Vec<Ecu>>, Error> {
    backend.correct_ecus(ACTOR, &view::vin(&vin)?, list).await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditPage {
    /// Sequence number of the last entry of the page before.
    #[serde(default)]
    after: u64,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
struct AuditView {
    entries: Vec<AuditEntry>,
    /// First entry of this page that does not follow from the one before it.
    first_broken: Option<u64>,
}

/// The audit log, oldest first, 500 entries at a time, with the check of its hash chain.
#[utoipa::path(get, path = "/api/v1/audit", params(AuditPage), responses((status = 200, body = AuditView)))]
async fn get_audit(State(backend): State_, Params(page): Params<AuditPage>) -> Result<Json<AuditView>, Error> {
    let entries = backend.repo.audit(page.after, MAX_PAGE).await?;
    let first_broken = AuditEntry::first_broken(&entries);
    Ok(Json(AuditView { entries, first_broken }))
}
