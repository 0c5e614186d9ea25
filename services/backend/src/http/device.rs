//! The device listener. Who asks is known from the client certificate; nothing in a request can say otherwise.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use pitstop_types::Digest;
use pitstop_uptane::Repository;
use serde::Deserialize;
use serde_json::Value;
use tower_http::timeout::TimeoutLayer;

use super::extract::{Body, too_large};
use super::tls::Device;
use crate::backend::Backend;
use crate::director::ManifestAnswer;
use crate::error::Error;
use crate::model::StatusItem;
use crate::status::{Ack, Next};
use crate::vehicles::LinkAnswer;

const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn router(backend: Arc<Backend>) -> Router {
    let limit = backend.settings.limits.device_body_bytes;
    Router::new()
        .route("/v1/device/metadata/{repository}/{file}", get(metadata))
        .route("/v1/device/manifest", put(manifest))
        .route("/v1/device/link", post(link))
        .route("/v1/device/status", post(status))
        .route("/v1/device/next", get(next))
        .route("/v1/device/state", put(state))
        .route("/v1/device/job/{update}/prog", put(progress))
        .fallback(super::view::no_such_path)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
        .layer(DefaultBodyLimit::max(limit))
        .layer(map_response(super::view::in_our_form))
        .with_state(backend)
}

impl Device {
    fn id(&self) -> Result<&str, Error> {
        let unknown = || Error::Forbidden("device-unknown", "this certificate names no device".into());
        self.0.as_ref().map(pitstop_types::DeviceId::as_str).ok_or_else(unknown)
    }
}

async fn metadata(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    Path((repository, file)): Path<(String, String)>,
) -> Result<Response, Error> {
    let repository = match repository.as_str() {
        "director" => Repository::Director,
        "image" => Repository::Image,
        _ => return Err(Error::NotFound("repository")),
    };
    let vehicle = backend.vehicle_of_device(device.id()?).await?;
    let bytes = backend.metadata(&vehicle, repository, &file).await?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, bytes).into_response())
}

async fn manifest(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ManifestAnswer>, Error> {
    let bytes = body.map_err(|error| too_large(&error))?;
    backend.take_manifest(device.id()?, &bytes).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkRequest {
    sha256: Digest,
}

async fn link(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    Body(request): Body<LinkRequest>,
) -> Result<Json<LinkAnswer>, Error> {
    backend.link(device.id()?, request.sha256).await.map(Json)
}

async fn status(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    Body(items): Body<Vec<StatusItem>>,
) -> Result<Json<Ack>, Error> {
    backend.take_status(device.id()?, items).await.map(Json)
}

async fn next(State(backend): State<Arc<Backend>>, Extension(device): Extension<Device>) -> Result<Json<Next>, Error> {
    backend.next(device.id()?).await.map(Json)
}

#[derive(Deserialize)]
struct Presence {
    online: bool,
}

/// The twin of the topic `up/state`.
async fn state(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    Body(presence): Body<Presence>,
) -> Result<StatusCode, Error> {
    let device = device.id()?;
    backend.vehicle_of_device(device).await?;
    backend.presence(device, presence.online).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The twin of the topic `up/job/{id}/prog`.
async fn progress(
    State(backend): State<Arc<Backend>>,
    Extension(device): Extension<Device>,
    Path(update): Path<String>,
    Body(value): Body<Value>,
) -> Result<StatusCode, Error> {
    let device = device.id()?;
    backend.vehicle_of_device(device).await?;
    backend.progress.put(device, &update, value);
    Ok(StatusCode::NO_CONTENT)
}
