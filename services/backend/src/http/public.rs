//! The public listener: provisioning and downloads.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use pitstop_types::Digest;
use serde::Deserialize;
use tower_http::timeout::TimeoutLayer;

use super::download;
use super::extract::{Body, Params};
use crate::backend::Backend;
use crate::error::Error;
use crate::links::{Link, LinkError};
use crate::vehicles::{ProvisionAnswer, ProvisionRequest};

/// A certificate request and a public key have two kilobytes.
const MAX_PROVISION_BODY: usize = 32 * 1024;
/// For the request and the start of the answer; a download's body may take as long as it needs.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn router(backend: Arc<Backend>) -> Router {
    Router::new()
        .route("/v1/provision", post(provision))
        .route("/dl/{sha256}", get(download))
        .fallback(super::view::no_such_path)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
        .layer(DefaultBodyLimit::max(MAX_PROVISION_BODY))
        .layer(map_response(super::view::in_our_form))
        .with_state(backend)
}

async fn provision(
    State(backend): State<Arc<Backend>>,
    Body(request): Body<ProvisionRequest>,
) -> Result<Json<ProvisionAnswer>, Error> {
    backend.provision(request).await.map(Json)
}

#[derive(Deserialize)]
struct LinkQuery {
    dev: String,
    exp: i64,
    sig: String,
}

async fn download(
    State(backend): State<Arc<Backend>>,
    Path(sha256): Path<String>,
    Params(query): Params<LinkQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let sha256: Digest = sha256.parse().map_err(|_| Error::NotFound("bundle"))?;
    let link = Link { sha256, device: &query.dev, expires: query.exp };
    backend.link_key.check(&link, &query.sig, backend.clock.now()).map_err(|error| {
        let code = if error == LinkError::Expired { "link-expired" } else { "link-refused" };
        Error::Forbidden(code, error.to_string())
    })?;
    // A device that was blocked or replaced since loses its links at once.
    backend.vehicle_of_device(&query.dev).await?;
    let bundle = backend.repo.bundle_by_sha256(&sha256.to_string()).await?.ok_or(Error::NotFound("bundle"))?;
    download::send(backend, &bundle, &headers).await
}
