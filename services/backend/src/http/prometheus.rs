//! `/metrics` in Prometheus' text format.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::admin::State_;
use crate::campaigns::sum;
use crate::error::Error;
use crate::metrics::gauge;

pub(super) async fn metrics(State(backend): State_) -> Result<impl IntoResponse, Error> {
    let mut out = String::new();
    backend.metrics.write(&mut out);
    let _ = writeln!(
        out,
        "# HELP pitstop_assignments Assignments of a campaign by state.\n# TYPE pitstop_assignments gauge"
    );
    for campaign in backend.repo.campaigns().await? {
        for (state, count) in sum(&backend.repo.counts(&campaign.id).await?).0 {
            gauge(&mut out, "assignments", &[("campaign", campaign.id.as_str()), ("state", state.as_str())], count);
        }
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], out))
}
