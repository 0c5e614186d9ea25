//! The status page: fleet, campaigns, one vehicle's timeline. Plain HTML, no script; it refreshes itself.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::admin::State_;
use super::admin_campaigns::campaign_id;
use super::view;
use crate::backend::Backend;
use crate::campaigns::{CampaignView, Progress};
use crate::error::Error;
use crate::model::{AssignmentState, Vehicle};

/// Rows shown; more are for the REST interface.
const MAX_ROWS: u32 = 200;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2530;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d9dee5;vertical-align:top}th{color:#56606d;font-weight:600}\
a{color:#0b57a4}.bar{display:flex;height:1.1rem;background:#e8ebef;border-radius:3px;overflow:hidden;min-width:16rem}\
.good{background:#2e7d4f}.bad{background:#b3372c}.busy{background:#2f6fb3}.wait{background:#a9b4c2}.out{background:#d4b24c}\
code{font-size:.9em}.dim{color:#56606d}\
@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}th,td{border-color:#303841}th,.dim{color:#98a4b3}a{color:#7db5f0}.bar{background:#2a323b}}";

pub(super) fn router() -> Router<Arc<Backend>> {
    Router::new().route("/", get(fleet)).route("/campaigns/{id}", get(campaign)).route("/vehicles/{vin}", get(vehicle))
}

fn page(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="refresh" content="3";
                title { (title) " - Pitstop" }
                style { (PreEscaped(STYLE)) }
            }
            body { p { a href="/" { "Pitstop backend" } } h1 { (title) } (body) }
        }
    }
}

async fn fleet(State(backend): State_) -> Result<Markup, Error> {
    let vehicles = backend.repo.vehicles("", MAX_ROWS).await?;
    let mut campaigns = Vec::new();
    for campaign in backend.repo.campaigns().await?.into_iter().rev().take(50) {
        campaigns.push(backend.campaign_view(&campaign.id).await?);
    }
    let mut fleet = Vec::new();
    for vehicle in vehicles {
        let last = backend.repo.assignments_of_vehicle(&vehicle.vin).await?.pop();
        fleet.push((vehicle, last));
    }
    Ok(page(
        "Fleet",
        &html! {
            h2 { "Campaigns" }
            table {
                tr { th { "Campaign" } th { "State" } th { "Progress" } th { "Vehicles" } }
                @for view in &campaigns {
                    tr {
                        td { a href=(format!("/campaigns/{}", view.campaign.id)) { (view.campaign.spec.name) } }
                        td {
                            (view.campaign.state.as_str()) br; span.dim { (view.campaign.reason) }
                            @for why in view.stages.iter().filter_map(|stage| stage.next_shut.as_ref()) { br; span.dim { (why) } }
                        }
                        td { (bar(&view.progress)) }
                        td { (view.progress.finished) " of " (view.progress.total) " ended" }
                    }
                }
            }
            h2 { "Vehicles" }
            table {
                tr { th { "VIN" } th { "Served" } th { "Seen" } th { "Last update" } }
                @for (vehicle, last) in &fleet {
                    tr {
                        td { a href=(format!("/vehicles/{}", vehicle.vin)) { code { (vehicle.vin) } } }
                        td { (served(vehicle)) }
                        td { (at(vehicle.last_seen)) @if vehicle.online { " (online)" } }
                        td { @if let Some(last) = last { b { (last.state) } ": " (last.reason) } @else { span.dim { "none" } } }
                    }
                }
            }
        },
    ))
}

async fn campaign(State(backend): State_, Path(id): Path<String>) -> Result<Markup, Error> {
    let id = campaign_id(id)?;
    let view: CampaignView = backend.campaign_view(&id).await?;
    let assignments = backend.repo.assignments_of_campaign(&id, "", MAX_ROWS).await?;
    Ok(page(
        &view.campaign.spec.name,
        &html! {
            p { "State: " b { (view.campaign.state.as_str()) } " - " (view.campaign.reason) }
            (bar(&view.progress))
            p { @for (state, count) in &view.progress.states { (state) ": " b { (count) } " " } }
            h2 { "Stages" }
            table {
                @for stage in &view.stages {
                    tr {
                        td { (stage.stage) } td {
                            @if stage.open { "open" } @else { "not open yet" }
                            @if let Some(why) = &stage.next_shut { br; span.dim { "The next one is not: " (why) } }
                        }
                        td { (bar(stage)) } td { (stage.total) " vehicles, " (stage.failures) " failures" }
                    }
                }
            }
            h2 { "Vehicles" }
            table {
                tr { th { "VIN" } th { "State" } th { "Reason" } th { "Since" } }
                @for assignment in &assignments {
                    tr {
                        td { a href=(format!("/vehicles/{}", assignment.vin)) { code { (assignment.vin) } } }
                        td { b { (assignment.state) } } td { (assignment.reason) } td { (at(assignment.since)) }
                    }
                }
            }
        },
    ))
}

async fn vehicle(State(backend): State_, Path(vin): Path<String>) -> Result<Markup, Error> {
    let vin = view::vin(&vin)?;
    let seen = view::vehicle_view(&backend, &vin).await?;
    let timeline = view::timeline(&backend, &vin, MAX_ROWS).await?;
    Ok(page(
        vin.as_str(),
        &html! {
            p { "Served: " (served(&seen.vehicle)) ". Device: " code { (seen.vehicle.device.as_deref().unwrap_or("none")) } }
            h2 { "Control units" }
            table {
                tr { th { "ECU" } th { "Hardware" } th { "Version" } th { "Software number" } th { "Serial" } th { "Reported" } }
                @for ecu in &seen.ecus {
                    tr {
                        td { (ecu.ecu) } td { (ecu.hardware) }
                        td { @if let Some(version) = &ecu.version { b { (version) } } @else { "none" } }
                        td { (ecu.software_number) } td { (ecu.serial) } td { @if ecu.unreported { "not yet" } @else { (at(ecu.updated_at)) } }
                    }
                }
            }
            h2 { "Updates" }
            table {
                @for one in seen.assignments.iter().rev() {
                    tr {
                        td { b { (one.assignment.state) } } td { (one.assignment.reason) }
                        td { @for part in &one.assignment.plan { (part.ecu) " " (part.from_version) " to " (part.to_version) br; } }
                        td { @if let Some(progress) = &one.progress { code { (progress) } } }
                    }
                }
            }
            h2 { "Timeline" }
            table {
                @for event in &timeline.events { tr { td { (at(event.at)) } td { (event.kind) } td { (event.text) } } }
            }
        },
    ))
}

fn served(vehicle: &Vehicle) -> String {
    let word = if vehicle.authorised { "yes" } else { "no" };
    format!("{word}, because {}", vehicle.authorised_reason)
}

fn at(unix: i64) -> String {
    match chrono::DateTime::from_timestamp(unix, 0) {
        Some(at) if unix > 0 => at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        _ => "never".to_owned(),
    }
}

/// A stage bar: succeeded, failed, under way, planned, not taking part.
fn bar(progress: &Progress) -> Markup {
    let class = |state: AssignmentState| match state {
        AssignmentState::Succeeded => "good",
        state if state.is_failure() => "bad",
        state if state.is_under_way() => "busy",
        AssignmentState::Planned => "wait",
        _ => "out",
    };
    let mut widths = [("good", 0), ("bad", 0), ("busy", 0), ("wait", 0), ("out", 0)];
    for (state, count) in &progress.states {
        if let Some((_, width)) = widths.iter_mut().find(|(name, _)| *name == class(*state)) {
            *width += count;
        }
    }
    html! {
        div.bar {
            @for (name, width) in widths.iter().filter(|(_, width)| *width > 0) {
                div class=(name) style=(format!("flex-grow:{width}")) title=(format!("{width}")) {}
            }
        }
    }
}
