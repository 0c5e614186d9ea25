//! The page, a stream of what is to be shown, and the answers.

use std::convert::Infallible;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use pitstop_dbus::{NoticeProxy, OtaError, PromptProxy};
use serde::Deserialize;
use tokio::sync::watch;
use zbus::Connection;

use crate::failure::Failure;
use crate::mirror::Screen;

/// An answer's origin, as the consent log names it.
const ORIGIN: &str = "hmi";
/// Only objects below this are called, whatever the browser sends.
const OBJECTS: &str = "/io/pitstop/Ota1/Hmi/";
/// Set by the page's own requests. Another site's page cannot set it without asking first, and is not answered.
const OWN_HEADER: &str = "x-pitstop";
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

#[derive(Clone)]
struct App {
    bus: Connection,
    screen: watch::Receiver<Screen>,
}

/// Everything that is served.
pub fn router(bus: Connection, screen: watch::Receiver<Screen>) -> Router {
    let actions = Router::new()
        .route("/answer", post(answer))
        .route("/acknowledge", post(acknowledge))
        .layer(middleware::from_fn(from_own_page));
    Router::new()
        .route("/", get(|| async { Html(include_str!("../page/index.html")) }))
        .route("/hmi.js", get(|| file("text/javascript", include_str!("../page/hmi.js"))))
        .route("/hmi.css", get(|| file("text/css", include_str!("../page/hmi.css"))))
        .route("/events", get(events))
        .merge(actions)
        .layer(middleware::from_fn(on_this_computer))
        .with_state(App { bus, screen })
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

/// A browser that was led here by another site's name (DNS rebinding) sends that name as host.
async fn on_this_computer(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return (StatusCode::MISDIRECTED_REQUEST, "this page is served to this computer only\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn from_own_page(headers: HeaderMap, request: Request, next: Next) -> Response {
    if headers.contains_key(OWN_HEADER) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "only this program's own page sends answers\n").into_response()
}

/// The screen now, and again whenever it changes.
async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut screen = app.screen;
    screen.mark_changed();
    let changes = stream::unfold(screen, |mut screen| async move {
        screen.changed().await.ok()?;
        let text = serde_json::to_string(&*screen.borrow_and_update()).ok()?;
        Some((Ok(Event::default().data(text)), screen))
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    path: String,
    choice: String,
    /// Unix seconds; 0 for every choice but "at".
    at: i64,
    text_digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    path: String,
}

async fn answer(State(app): State<App>, Json(answer): Json<Answer>) -> Result<StatusCode, Refused> {
    let path = own_object(answer.path)?;
    let prompt = PromptProxy::builder(&app.bus).path(path).build().await.map_err(OtaError::Bus)?;
    // A new text has an object of its own; that of the old one is gone, as is the object of a prompt that is forgotten.
    let replaced = "this question was replaced or withdrawn; read the screen again";
    let answered = prompt.answer(&answer.choice, answer.at, ORIGIN, &answer.text_digest).await;
    answered.map_err(|error| if error.is_gone() { OtaError::TextChanged(replaced.to_owned()) } else { error })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn acknowledge(State(app): State<App>, Json(notice): Json<Acknowledge>) -> Result<StatusCode, Refused> {
    let path = own_object(notice.path)?;
    let notice = NoticeProxy::builder(&app.bus).path(path).build().await.map_err(OtaError::Bus)?;
    // A notice's object goes when somebody acknowledges it, not with a new text.
    let seen = "this notice was acknowledged already; read the screen again";
    let acknowledged = notice.acknowledge().await;
    acknowledged.map_err(|error| if error.is_gone() { OtaError::AlreadyAnswered(seen.to_owned()) } else { error })?;
    Ok(StatusCode::NO_CONTENT)
}

fn own_object(path: String) -> Result<String, Refused> {
    if path.starts_with(OBJECTS) && path.len() <= 255 {
        return Ok(path);
    }
    Err(Refused(OtaError::InvalidArgument("this is no prompt and no notice".to_owned())))
}

/// A named error as the page shows it.
struct Refused(OtaError);

impl From<OtaError> for Refused {
    fn from(error: OtaError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            OtaError::InvalidArgument(_) => StatusCode::BAD_REQUEST,
            OtaError::AlreadyAnswered(_) | OtaError::TextChanged(_) | OtaError::WrongPhase(_) => StatusCode::CONFLICT,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, Json(serde_json::json!({"error": Failure::from(&self.0)}))).into_response()
    }
}

#[cfg(test)]
mod tests;
