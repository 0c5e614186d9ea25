//! A small backend that can misbehave, and the service under test on a bus without a bus.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of it; a panic is the report"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use pitstop_backend_link::bus::{BackendLink, announce};
use pitstop_backend_link::config::{Config, Settings};
use pitstop_backend_link::device::Network;
use pitstop_backend_link::outbox::Outbox;
use pitstop_backend_link::provision::IdentitySource;
use pitstop_backend_link::service::Service;
use pitstop_dbus::{BackendLinkProxy, LinkStatus, OtaError};
use pitstop_runtime::Operations;
use pitstop_store::FileStorage;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PublicKeyData as _, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub const DEVICE: &str = "d-0001";
pub const VIN: &str = "WP0ZZZ99ZTS392124";

/// An authority, and files of what it issued.
pub struct Pki {
    pub ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Certificate and key in PEM; a server's for 127.0.0.1.
    pub fn issue(&self, name: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        (params.signed_by(&key, &self.ca).unwrap().pem(), key)
    }

    fn tls(&self, clients: bool) -> RustlsConfig {
        let (certificate, key) = self.issue("server");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        use rustls_pki_types::pem::PemObject as _;
        let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let config = builder.with_single_cert(chain, key.serialize_der().try_into().unwrap()).unwrap();
        RustlsConfig::from_config(Arc::new(config))
    }
}

/// What the backend was told, and how it is to behave.
#[derive(Default)]
pub struct Inner {
    pub reports: Vec<Value>,
    pub acked: u64,
    pub batches: Vec<usize>,
    /// While set, status is answered with this status code.
    pub status_fails: Option<u16>,
    /// Public keys that certificates were asked for.
    pub keys: Vec<Vec<u8>>,
    /// So many answers to provisioning are lost after the backend took the request.
    pub lost_answers: u32,
    /// While set, every acknowledgement is this one.
    pub stuck_at: Option<u64>,
    /// Reports with this phase are refused, the whole request with them.
    pub poison: Option<String>,
    pub manifests: Vec<Vec<u8>>,
    pub next: Value,
    pub polls: u64,
    pub progress: Vec<(String, Value)>,
    pub mqtt_port: u16,
    pub urls: (String, String),
}

/// The misbehaving backend.
pub struct Backend {
    pub pki: Pki,
    pub inner: Arc<Mutex<Inner>>,
    pub public: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

type Shared = (Arc<Mutex<Inner>>, Arc<CertifiedIssuer<'static, KeyPair>>);

impl Drop for Backend {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Backend {
    pub async fn start(mqtt_port: u16) -> Self {
        let pki = Pki::new();
        let inner = Arc::new(Mutex::new(Inner {
            mqtt_port,
            next: json!({ "rev": 1, "update": null, "poll_secs": 60 }),
            ..Inner::default()
        }));
        // The issuer is not Clone: the handler gets its own, of the same key and certificate.
        let ca = Arc::new(reissue(&pki.ca));
        let shared: Shared = (Arc::clone(&inner), ca);
        let device = Router::new()
            .route("/v1/device/metadata/{repository}/{file}", get(metadata))
            .route("/v1/device/manifest", put(manifest))
            .route("/v1/device/link", post(link))
            .route("/v1/device/status", post(status))
            .route("/v1/device/next", get(next))
            .route("/v1/device/job/{update}/prog", put(progress))
            .with_state(shared.clone());
        let public = Router::new().route("/v1/provision", post(provision)).with_state(shared);
        let (public_at, public_task) = serve(public, pki.tls(false));
        let (device_at, device_task) = serve(device, pki.tls(true));
        inner.lock().unwrap().urls = (format!("https://{public_at}"), format!("https://{device_at}"));
        Self { pki, inner, public: public_at, tasks: vec![public_task, device_task] }
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap())
    }
}

fn reissue(ca: &CertifiedIssuer<'static, KeyPair>) -> CertifiedIssuer<'static, KeyPair> {
    let key = KeyPair::from_pem(&ca.key().serialize_pem()).unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Test authority");
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn serve(router: Router, tls: RustlsConfig) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
    (address, tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() }))
}

fn refusal(status: StatusCode, code: &str, text: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "text": text } }))).into_response()
}

async fn provision(State((inner, ca)): State<Shared>, Json(request): Json<Value>) -> Response {
    if request["token"] != "good-token" || request["vin"] != VIN || request["identity"]["keyid"] != "k" {
        return refusal(StatusCode::FORBIDDEN, "claim-refused", "the token is unknown");
    }
    let mut csr = CertificateSigningRequestParams::from_pem(request["csr_pem"].as_str().unwrap()).unwrap();
    csr.params.distinguished_name = rcgen::DistinguishedName::new();
    csr.params.distinguished_name.push(DnType::CommonName, DEVICE);
    let mut inner = inner.lock().unwrap();
    inner.keys.push(csr.public_key.subject_public_key_info());
    if inner.lost_answers > 0 {
        inner.lost_answers -= 1;
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let (public_url, device_url) = inner.urls.clone();
    Json(json!({
        "device_id": DEVICE, "certificate_pem": csr.signed_by(&*ca).unwrap().pem(), "ca_pem": ca.pem(),
        "device_url": device_url, "public_url": public_url, "mqtt": { "host": "127.0.0.1", "port": inner.mqtt_port },
    }))
    .into_response()
}

async fn metadata(UrlPath((repository, file)): UrlPath<(String, String)>) -> Response {
    match file.as_str() {
        "timestamp.json" => format!("{repository}:{file}").into_response(),
        "long.json" => vec![b'x'; 5000].into_response(),
        // No Content-Length: only counting finds out.
        "endless.json" => {
            let chunks = (0..1_000_000).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 4096]));
            Body::from_stream(futures_stream(chunks)).into_response()
        }
        // Twenty kilobytes in a second.
        "steady.json" => Body::from_stream(paced(15, 4096, Duration::from_millis(200))).into_response(),
        "trickle.json" => Body::from_stream(paced(usize::MAX, 1, Duration::from_millis(200))).into_response(),
        "halted.json" => Body::from_stream(paced(2, 10, Duration::from_secs(3600))).into_response(),
        "broken.json" => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "trouble"),
        "slow.json" => {
            std::future::pending::<()>().await;
            ().into_response()
        }
        _ => refusal(StatusCode::NOT_FOUND, "not-found", "no such file"),
    }
}

fn futures_stream<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::iter(items)
}

/// So many pieces, the first at once and then one after each pause.
fn paced(
    count: usize,
    bytes: usize,
    pause: Duration,
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>> + Send {
    futures_util::stream::unfold(0, move |sent| async move {
        if sent > 0 {
            tokio::time::sleep(pause).await;
        }
        (sent < count).then(|| (Ok(vec![b'x'; bytes]), sent + 1))
    })
}

async fn manifest(State((inner, _)): State<Shared>, body: axum::body::Bytes) -> Response {
    if body.starts_with(b"bad") {
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, "unknown-ecu", "ECU x is not this vehicle's");
    }
    inner.lock().unwrap().manifests.push(body.to_vec());
    Json(json!({})).into_response()
}

async fn link(Json(request): Json<Value>) -> Response {
    let sha256 = request["sha256"].as_str().unwrap();
    if sha256.starts_with("00") {
        return refusal(StatusCode::NOT_FOUND, "not-found", "no such bundle");
    }
    Json(json!({ "url": format!("https://127.0.0.1/dl/{sha256}"), "expires": 4_000_000_000i64 })).into_response()
}

async fn status(State((inner, _)): State<Shared>, Json(items): Json<Vec<Value>>) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.batches.push(items.len());
    if let Some(code) = inner.status_fails {
        return refusal(StatusCode::from_u16(code).unwrap(), "internal", "trouble");
    }
    let poison = inner.poison.clone();
    if poison.is_some_and(|p| items.iter().any(|i| i["phase"] == p.as_str())) {
        return refusal(StatusCode::BAD_REQUEST, "invalid", "cannot be read");
    }
    for item in items {
        let seq = item["seq"].as_u64().unwrap();
        if seq > inner.acked {
            inner.acked = seq;
            inner.reports.push(item);
        }
    }
    Json(json!({ "ack": inner.stuck_at.unwrap_or(inner.acked) })).into_response()
}

async fn progress(
    State((inner, _)): State<Shared>,
    UrlPath(update): UrlPath<String>,
    Json(value): Json<Value>,
) -> StatusCode {
    inner.lock().unwrap().progress.push((update, value));
    StatusCode::NO_CONTENT
}

async fn next(State((inner, _)): State<Shared>) -> Json<Value> {
    let mut inner = inner.lock().unwrap();
    inner.polls += 1;
    Json(inner.next.clone())
}

struct FixedIdentity;

#[async_trait]
impl IdentitySource for FixedIdentity {
    async fn identity(&self) -> Result<(String, String), OtaError> {
        Ok(("k".into(), "pem".into()))
    }
}

/// The service, served on one end of a connection; `client` is the other.
pub struct Link {
    pub client: zbus::Connection,
    server: zbus::Connection,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

const DEFAULTS: &str = include_str!("../../../../rootfs-overlay/usr/lib/pitstop/backend-link.toml");

/// Settings below `root`, with a file key and short pauses.
pub fn settings(root: &Path, backend: &Backend, mqtt: bool) -> Settings {
    std::fs::create_dir_all(root.join("etc/pitstop")).unwrap();
    std::fs::write(root.join("etc/pitstop/backend-ca.pem"), backend.pki.ca.pem()).unwrap();
    std::fs::write(root.join("etc/pitstop/vehicle.toml"), format!("vin = \"{VIN}\"\n")).unwrap();
    let text = DEFAULTS
        .replace("back_off_first_ms = 1000", "back_off_first_ms = 20")
        .replace("back_off_cap_secs = 600", "back_off_cap_secs = 1")
        .replace("request_timeout_secs = 20", "request_timeout_secs = 2")
        .replace("will_delay_secs = 90", "will_delay_secs = 0")
        .replace("enabled = true", if mqtt { "enabled = true" } else { "enabled = false" });
    let text = format!("provision_url = \"https://{}\"\n{text}", backend.public)
        .replace("store = \"tpm\"", "store = \"file\"\nfile = \"tls.key\"\ninsecure_file_keys = true");
    toml::from_str::<Config>(&text).unwrap().settings(|p: &Path| -> PathBuf { root.join(p) }).unwrap()
}

impl Link {
    pub async fn start(root: &Path, settings: Settings) -> Self {
        let (server, client) = pitstop_runtime::testing::pair().await;
        let storage: Arc<dyn pitstop_store::Storage> = Arc::new(FileStorage::open(root.join("state")).unwrap());
        let outbox = Outbox::open(Arc::clone(&storage)).unwrap();
        let operations = Operations::new(&server, "BackendLink", Arc::clone(&storage)).await.unwrap();
        let (announcements, announced) = tokio::sync::mpsc::unbounded_channel();
        let (service, handle) = Service::new(
            Arc::new(settings),
            storage,
            outbox,
            Network::new(tokio::runtime::Handle::current()),
            announcements,
        );
        let object = BackendLink::new(handle, operations, Arc::new(FixedIdentity));
        server.object_server().at(pitstop_dbus::object_path("BackendLink"), object).await.unwrap();
        let tasks = vec![tokio::spawn(service.run()), tokio::spawn(announce(server.clone(), announced))];
        Self { client, server, tasks }
    }

    pub async fn proxy(&self) -> BackendLinkProxy<'static> {
        BackendLinkProxy::new(&self.client).await.unwrap()
    }

    pub async fn provision(&self, token: &str) -> Result<String, OtaError> {
        let path = self.proxy().await.provision(token).await?;
        let data = pitstop_runtime::operation::wait(&self.client, "BackendLink", &path, |_| {}).await?;
        Ok(String::try_from(data["device"].try_clone().unwrap()).unwrap())
    }

    /// Looks at the status until `good`.
    pub async fn until(&self, good: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        let proxy = self.proxy().await;
        let look = async {
            loop {
                let status = proxy.get_status().await.unwrap();
                if good(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), look).await.expect("the status never came")
    }
}

/// Waits until `good`.
pub async fn until(what: &str, mut good: impl FnMut() -> bool) {
    let look = async {
        while !good() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), look).await.unwrap_or_else(|_| panic!("{what} never came"));
}
