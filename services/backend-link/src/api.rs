//! The backend's HTTPS interface, with a limit on everything that comes back.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_types::{Digest, UpdateId};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::device::Network;

/// To reach the backend's machine at all; a vehicle's network may need some retransmissions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// What crosses the network more slowly than this is given up: eight megabytes may take 14 minutes over a bad line, and a trickle still ends.
const LEAST_BYTES_PER_SEC: u64 = 10 * 1024;
/// Longest metadata file, in bytes (the contract of `FetchMetadata`).
pub const MAX_METADATA: u64 = 8 * 1024 * 1024;
/// Longest answer that is not a metadata file: the certificates of provisioning have some kilobytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// Longest reason kept of a refusal.
const MAX_REASON: usize = 400;

/// Calls to one listener of the backend.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    base: String,
    silence: Duration,
    network: Network,
}

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("the backend could not be reached: {0}")]
    Network(String),
    #[error("the backend did not answer in time")]
    Slow,
    #[error("the backend has no {0}")]
    NotFound(String),
    #[error("the answer is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the backend refused ({status}, {code}): {text}")]
    Refused { status: u16, code: String, text: String },
    #[error("the backend's answer cannot be read: {0}")]
    Malformed(String),
}

impl From<ApiError> for OtaError {
    fn from(error: ApiError) -> Self {
        let text = error.to_string();
        match error {
            ApiError::Network(_) | ApiError::Malformed(_) => Self::Network(text),
            ApiError::Slow => Self::Slow(text),
            ApiError::NotFound(_) => Self::NotFound(text),
            ApiError::TooLarge(_) => Self::TooLarge(text),
            ApiError::Refused { .. } => Self::BackendRefused(text),
        }
    }
}

/// A one-time request for a certificate.
#[derive(Debug, Serialize)]
pub struct ProvisionRequest {
    pub token: String,
    pub vin: String,
    pub csr_pem: String,
    pub identity: Identity,
}

/// The key that signs this vehicle's manifests.
#[derive(Debug, Serialize)]
pub struct Identity {
    pub keyid: String,
    pub public_pem: String,
}

#[derive(Debug, Deserialize)]
pub struct ProvisionAnswer {
    pub device_id: String,
    pub certificate_pem: String,
    pub ca_pem: String,
    pub device_url: String,
    pub public_url: String,
    pub mqtt: MqttAddress,
}

#[derive(Debug, Deserialize)]
pub struct MqttAddress {
    pub host: String,
    pub port: u16,
}

/// A short-lived link to a bundle.
#[derive(Debug, Deserialize)]
pub struct LinkAnswer {
    pub url: String,
    pub expires: i64,
}

/// What the vehicle is to do next.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Next {
    pub rev: u64,
    #[serde(default)]
    pub update: Option<String>,
    #[serde(default)]
    pub poll_secs: Option<u64>,
}

#[derive(Deserialize)]
struct Ack {
    ack: u64,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    text: String,
}

impl Api {
    /// Calls below `base` (`https://host:port`). Each may be silent for `silence`, and take in all so long and what [`LEAST_BYTES_PER_SEC`] allows
    /// for its bytes.
    pub fn new(base: &str, tls: ClientConfig, silence: Duration, network: Network) -> Result<Self, ApiError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(silence))
            .pool_max_idle_per_host(2)
            .user_agent(concat!("pitstop/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ApiError::Network(e.to_string()))?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), silence, network })
    }

    /// `POST /v1/provision` at the public listener.
    pub async fn provision(&self, request: &ProvisionRequest) -> Result<ProvisionAnswer, ApiError> {
        self.json(self.request(Method::POST, "/v1/provision").json(request), "such service").await
    }

    /// One metadata file of `repository` (`director` or `image`), of at most `limit` bytes.
    pub async fn metadata(&self, repository: &str, file: &str, limit: u64) -> Result<Vec<u8>, ApiError> {
        let request = self.request(Method::GET, &format!("/v1/device/metadata/{repository}/{file}"));
        self.call(request, &format!("{repository} metadata {file}"), limit.min(MAX_METADATA)).await
    }

    /// Sends a signed vehicle version manifest.
    pub async fn manifest(&self, manifest: Vec<u8>) -> Result<(), ApiError> {
        let request =
            self.request(Method::PUT, "/v1/device/manifest").header("content-type", "application/json").body(manifest);
        self.call(request, "such service", MAX_ANSWER).await.map(drop)
    }

    /// A link to the bundle with this hash.
    pub async fn link(&self, sha256: &Digest) -> Result<LinkAnswer, ApiError> {
        let request = self.request(Method::POST, "/v1/device/link").json(&json!({ "sha256": sha256 }));
        self.json(request, &format!("bundle {sha256}")).await
    }

    /// Sends reports; returns up to which number the backend has them.
    pub async fn status(&self, reports: &[Value]) -> Result<u64, ApiError> {
        let answer: Ack =
            self.json(self.request(Method::POST, "/v1/device/status").json(reports), "such service").await?;
        Ok(answer.ack)
    }

    /// Asks what to do next.
    pub async fn next(&self) -> Result<Next, ApiError> {
        self.json(self.request(Method::GET, "/v1/device/next"), "such service").await
    }

    /// Progress of `update` (JSON), where no MQTT session carries it.
    pub async fn progress(&self, update: &UpdateId, progress: String) -> Result<(), ApiError> {
        let request = self.request(Method::PUT, &format!("/v1/device/job/{update}/prog"));
        let request = request.header("content-type", "application/json").body(progress);
        self.call(request, "such service", MAX_ANSWER).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, what: &str) -> Result<T, ApiError> {
        let bytes = self.call(request, what, MAX_ANSWER).await?;
        serde_json::from_slice(&bytes).map_err(|e| ApiError::Malformed(e.to_string()))
    }

    /// Sends, judges the status and reads at most `limit` bytes; `what` is what a 404 says is not there.
    ///
    /// On the network's own thread: the handshake waits for the TPM, and status calls must answer meanwhile.
    async fn call(&self, request: RequestBuilder, what: &str, limit: u64) -> Result<Vec<u8>, ApiError> {
        let (contact, what) = (self.network.contact.clone(), what.to_owned());
        let (client, request) = request.build_split();
        let request = request.map_err(transport)?;
        let sent = request.body().and_then(reqwest::Body::as_bytes).map_or(0, |bytes| bytes.len() as u64);
        let time = Allowance { start: Instant::now(), silence: self.silence, sent };
        let work = async move {
            let answer = timeout_at(time.end(0), client.execute(request)).await;
            let response = answer.map_err(|_| ApiError::Slow)?.map_err(transport)?;
            contact.made();
            if response.status().is_success() {
                return body(response, limit, time).await;
            }
            Err(refusal(response, what, time).await)
        };
        self.network.runtime.spawn(work).await.unwrap_or_else(|e| Err(ApiError::Network(e.to_string())))
    }
}

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    start: Instant,
    silence: Duration,
    /// Bytes that the request itself carries.
    sent: u64,
}

impl Allowance {
    /// When an answer of `bytes` must be whole.
    fn end(&self, bytes: u64) -> Instant {
        let transfer = self.sent.saturating_add(bytes).saturating_mul(1000) / LEAST_BYTES_PER_SEC;
        self.start + self.silence + Duration::from_millis(transfer)
    }
}

/// What an answer other than success means.
async fn refusal(response: Response, what: String, time: Allowance) -> ApiError {
    let status = response.status();
    let detail = body(response, MAX_ANSWER, time).await.ok();
    let detail = detail.and_then(|bytes| serde_json::from_slice::<ErrorBody>(&bytes).ok()).map(|b| b.error);
    let (code, text) = detail.map_or_else(Default::default, |d| (printable(&d.code), printable(&d.text)));
    match status {
        StatusCode::NOT_FOUND => ApiError::NotFound(what),
        StatusCode::REQUEST_TIMEOUT => ApiError::Slow,
        // Too many requests and trouble of its own are no judgement on what was asked.
        StatusCode::TOO_MANY_REQUESTS => ApiError::Network(format!("{status} {text}")),
        status if status.is_client_error() => ApiError::Refused { status: status.as_u16(), code, text },
        status => ApiError::Network(format!("{status} {text}")),
    }
}

/// Reads a body of at most `limit` bytes, whatever it claims to have, and for as long as so many may take.
async fn body(mut response: Response, limit: u64, time: Allowance) -> Result<Vec<u8>, ApiError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge(limit));
    }
    let end = time.end(response.content_length().unwrap_or(limit));
    let mut bytes = Vec::new();
    loop {
        let next = timeout_at(end.min(Instant::now() + time.silence), response.chunk());
        let Some(chunk) = next.await.map_err(|_| ApiError::Slow)?.map_err(transport)? else { return Ok(bytes) };
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(ApiError::TooLarge(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
}

fn transport(error: reqwest::Error) -> ApiError {
    if error.is_timeout() {
        return ApiError::Slow;
    }
    // The URL may hold a link's signature; the cause is what helps.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    ApiError::Network(printable(&text))
}

/// A foreign text for logs and D-Bus: bounded, without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_from_the_bytes() {
        let time = Allowance { start: Instant::now(), silence: Duration::from_secs(20), sent: 0 };
        let of = |bytes| time.end(bytes).duration_since(time.start);
        assert_eq!(of(0), Duration::from_secs(20));
        // Callers on the bus wait 30 seconds for what is small.
        assert!(of(MAX_ANSWER) < Duration::from_secs(30));
        // One megabit per second, with room.
        assert!(of(MAX_METADATA) > Duration::from_secs(2 * MAX_METADATA * 8 / 1_000_000));
        assert!(of(MAX_METADATA) < Duration::from_secs(900));
        let upload = Allowance { sent: 100 * 1024, ..time };
        assert_eq!(upload.end(0).duration_since(time.start), Duration::from_secs(30));
    }
}
