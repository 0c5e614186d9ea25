//! What several listeners answer alike, and views put together from several rows.

use axum::http::Uri;
use pitstop_types::Vin;
use serde::Serialize;
use utoipa::ToSchema;

use crate::backend::Backend;
use crate::error::Error;
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

/// A VIN out of a path.
pub(super) fn vin(text: &str) -> Result<Vin, Error> {
    Vin::new(text).map_err(|error| Error::Invalid(error.to_string()))
}
