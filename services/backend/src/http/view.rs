//! What several listeners answer alike, and views put together from several rows.

use axum::Json;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use pitstop_types::Vin;
use serde::Serialize;
use utoipa::ToSchema;

use crate::backend::Backend;
use crate::error::{Error, ErrorBody};
use crate::model::{Assignment, Ecu, Event, Transition, Vehicle};

/// A vehicle with what hangs on it.
#[derive(Debug, Serialize, ToSchema)]
pub struct VehicleView {
    #[serde(flatten)]
    pub vehicle: Vehicle,
    pub ecus: Vec<Ecu>,
    /// Oldest first.
    pub assignments: Vec<AssignmentView>,
}

/// An assignment with the newest unstored progress.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssignmentView {
    #[serde(flatten)]
    pub assignment: Assignment,
    #[schema(value_type = Option<Object>)]
    pub progress: Option<serde_json::Value>,
}

/// Everything that happened to a vehicle, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    #[schema(value_type = String)]
    pub vin: Vin,
    pub events: Vec<Event>,
    /// Each step of its assignments with the reason.
    pub transitions: Vec<Transition>,
}

pub(super) async fn vehicle_view(backend: &Backend, vin: &Vin) -> Result<VehicleView, Error> {
    let vehicle = backend.need_vehicle(vin).await?;
    let assignments = backend.repo.assignments_of_vehicle(vin).await?.into_iter();
    let device = vehicle.device.clone().unwrap_or_default();
    let assignments = assignments
        .map(|assignment| AssignmentView { progress: backend.progress.of(&device, assignment.id.as_str()), assignment })
        .collect();
    Ok(VehicleView { ecus: backend.repo.ecus(vin).await?, assignments, vehicle })
}

pub(super) async fn timeline(backend: &Backend, vin: &Vin, limit: u32) -> Result<Timeline, Error> {
    let vehicle = backend.need_vehicle(vin).await?;
    Ok(Timeline {
        events: backend.repo.events(vin, limit).await?,
        transitions: backend.repo.transitions(vin, limit).await?,
        vin: vehicle.vin,
    })
}

pub(super) async fn no_such_path(uri: Uri) -> Error {
    log::debug!("no such path: {}", uri.path());
    Error::NotFound("path")
}

/// Gives our form to the errors that are answered around the handlers (another method, too late, no such range): the status says
/// all there is. What else such an answer tells in its head stays.
pub(super) async fn in_our_form(mut response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !(status.is_client_error() || status.is_server_error()) || kind == Some("application/json") {
        return response;
    }
    let text = status.canonical_reason().unwrap_or("error").to_ascii_lowercase();
    let body = Json(ErrorBody::new(&text.replace(' ', "-"), text)).into_response();
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = body.into_body();
    response
}

/// A VIN out of a path.
pub(super) fn vin(text: &str) -> Result<Vin, Error> {
    Vin::new(text).map_err(|error| Error::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    async fn told(response: Response) -> (StatusCode, serde_json::Value) {
        let response = in_our_form(response).await;
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[tokio::test]
    async fn an_error_without_our_form_gets_it_and_anything_else_stays() {
        let (status, body) = told(StatusCode::REQUEST_TIMEOUT.into_response()).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (408, Some("request-timeout")));
        let (status, body) = told((StatusCode::BAD_REQUEST, "x".repeat(100)).into_response()).await;
        assert_eq!((status.as_u16(), body["error"]["text"].as_str()), (400, Some("bad request")));
        let (_, body) = told(Error::NotFound("bundle").into_response()).await;
        assert_eq!(body["error"]["text"], "there is no such bundle");
        assert_eq!(told((StatusCode::OK, "2").into_response()).await.1, 2);
    }
}
