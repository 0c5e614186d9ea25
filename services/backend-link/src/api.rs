//! The backend's HTTPS interface, with a limit on everything that comes back.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_types::{Digest, UpdateId};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device::Network;

/// To reach the backend's machine at all; a vehicle's network may need some retransmissions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
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
    /// Calls below `base` (`https://host:port`), each done within `timeout`.
    pub fn new(base: &str, tls: ClientConfig, timeout: Duration, network: Network) -> Result<Self, ApiError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            .pool_max_idle_per_host(2)
            .user_agent(concat!("pitstop/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ApiError::Network(e.to_string()))?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), network })
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
        let work = async move {
            let response = request.send().await.map_err(transport)?;
            contact.made();
            if response.status().is_success() {
                return body(response, limit).await;
            }
            Err(refusal(response, what).await)
        };
        self.network.runtime.spawn(work).await.unwrap_or_else(|e| Err(ApiError::Network(e.to_string())))
    }
}

/// What an answer other than success means.
async fn refusal(response: Response, what: String) -> ApiError {
    let status = response.status();
    let detail = body(response, MAX_ANSWER).await.ok();
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

/// Reads a body of at most `limit` bytes, whatever it claims to have.
async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>, ApiError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(ApiError::TooLarge(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
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
