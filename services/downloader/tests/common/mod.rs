//! A download server that misbehaves on request, and the service under test on a bus without a bus.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it; a panic is the report"
)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use pitstop_dbus::{CacheUsage, DownloaderProxy, OtaError};
use pitstop_downloader::bus::Downloader;
use pitstop_downloader::config::{Config, Settings};
use pitstop_downloader::ports::LinkSource;
use pitstop_downloader::service::Service;
use pitstop_downloader::store::Cache;
use pitstop_runtime::{Operations, operation};
use pitstop_store::{FileStorage, Storage};
use pitstop_types::Digest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::task::JoinHandle;

/// How the server treats the next requests.
#[derive(Debug, Clone, Default)]
pub struct Mood {
    /// Breaks the connection after so many bytes of each answer.
    pub break_after: Option<usize>,
    /// Between two pieces.
    pub pause: Duration,
    /// Bytes in a piece; 16 KiB if not set.
    pub piece: Option<usize>,
    /// Gives no link so many times first.
    pub withhold: u32,
    /// Answers so many requests with this status first.
    pub refuse: Option<(StatusCode, u32)>,
    /// Knows nothing of ranges.
    pub no_ranges: bool,
    /// Sends this much more than there is, and says so only by sending it.
    pub extra: usize,
    /// Claims this total in Content-Range.
    pub claimed_total: Option<u64>,
    /// Accepts, then says nothing.
    pub silent: bool,
}

#[derive(Default)]
pub struct Inner {
    pub files: BTreeMap<String, Vec<u8>>,
    pub etag: String,
    pub mood: Mood,
    pub requests: u32,
    /// Bytes handed to the network.
    pub sent: u64,
    pub links: u32,
}

pub struct Server {
    pub inner: Arc<Mutex<Inner>>,
    pub address: SocketAddr,
    pub ca_pem: String,
    tls: RustlsConfig,
    handle: Handle<SocketAddr>,
}

impl Server {
    pub async fn start() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let certificate = params.signed_by(&key, &ca).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let mut server = Self {
            inner: Arc::new(Mutex::new(Inner { etag: "\"one\"".into(), ..Inner::default() })),
            address: "127.0.0.1:0".parse().unwrap(),
            ca_pem: ca.pem(),
            tls: RustlsConfig::from_config(Arc::new(config)),
            handle: Handle::new(),
        };
        server.listen();
        server
    }

    /// Listens at the address it has, or at a new one.
    pub fn listen(&mut self) {
        let listener = bind(self.address);
        self.address = listener.local_addr().unwrap();
        self.handle = Handle::new();
        let router = Router::new().route("/dl/{name}", get(download)).with_state(Arc::clone(&self.inner));
        let server = axum_server::from_tcp_rustls(listener, self.tls.clone()).unwrap().handle(self.handle.clone());
        tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() });
    }

    /// Dies with all its connections.
    pub fn die(&self) {
        self.handle.shutdown();
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap())
    }

    /// Offers `content`; returns its hash.
    pub fn offer(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.with(|s| s.files.insert(digest.to_string(), content.to_vec()));
        digest
    }
}

fn bind(address: SocketAddr) -> TcpListener {
    // The old sockets of the address may take a moment to go.
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address) {
            listener.set_nonblocking(true).unwrap();
            // What was handed to the kernel counts as sent; a small buffer keeps that near to what was taken.
            nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::SndBuf, &32_768).unwrap();
            return listener;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{address} stays taken");
}

async fn download(
    State(inner): State<Arc<Mutex<Inner>>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let (mood, etag, content) = {
        let mut inner = inner.lock().unwrap();
        inner.requests += 1;
        if let Some((status, left)) = &mut inner.mood.refuse
            && *left > 0
        {
            *left -= 1;
            return status.into_response();
        }
        let Some(content) = inner.files.get(&name).cloned() else { return StatusCode::NOT_FOUND.into_response() };
        (inner.mood.clone(), inner.etag.clone(), content)
    };
    if mood.silent {
        std::future::pending::<()>().await;
    }
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let same = header("if-range").is_none_or(|tag| tag == etag);
    let range = header("range").filter(|_| same && !mood.no_ranges);
    let Some(range) = range else {
        return (StatusCode::OK, [("etag", etag)], body(inner, content, mood)).into_response();
    };
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    if start >= content.len() {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let end = end.parse::<usize>().unwrap().min(content.len() - 1);
    let total = mood.claimed_total.unwrap_or(content.len() as u64);
    let content_range = format!("bytes {start}-{end}/{total}");
    let part = content[start..=end].to_vec();
    (StatusCode::PARTIAL_CONTENT, [("etag", etag), ("content-range", content_range)], body(inner, part, mood))
        .into_response()
}

/// Without Content-Length, in pieces.
fn body(inner: Arc<Mutex<Inner>>, mut content: Vec<u8>, mood: Mood) -> Body {
    content.extend(vec![0; mood.extra]);
    let pieces: Vec<Vec<u8>> = content.chunks(mood.piece.unwrap_or(16 * 1024)).map(<[u8]>::to_vec).collect();
    let state = (pieces.into_iter(), 0usize);
    Body::from_stream(futures_util::stream::unfold(state, move |(mut pieces, sent)| {
        let (inner, mood) = (Arc::clone(&inner), mood.clone());
        async move {
            if mood.break_after.is_some_and(|limit| sent >= limit) {
                return Some((Err(std::io::Error::other("broken on request")), (pieces, sent)));
            }
            let piece = pieces.next()?;
            if !mood.pause.is_zero() {
                tokio::time::sleep(mood.pause).await;
            }
            inner.lock().unwrap().sent += piece.len() as u64;
            let sent = sent + piece.len();
            Some((Ok(piece), (pieces, sent)))
        }
    }))
}

struct Links {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
}

#[async_trait]
impl LinkSource for Links {
    async fn link(&self, sha256: &Digest) -> Result<(String, i64), OtaError> {
        let mut inner = self.inner.lock().unwrap();
        inner.links += 1;
        if inner.mood.withhold > 0 {
            inner.mood.withhold -= 1;
            return Err(OtaError::BackendRefused("not assigned".into()));
        }
        Ok((format!("https://{}/dl/{sha256}", self.address), 4_000_000_000))
    }
}

/// The service; `client` is its caller.
pub struct Running {
    pub client: zbus::Connection,
    server: zbus::Connection,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const DEFAULTS: &str = include_str!("../../../../rootfs-overlay/usr/lib/pitstop/downloader.toml");

/// Settings below `root` with short pauses; `change` edits the defaults' text.
pub fn settings(root: &Path, server: &Server, change: impl Fn(String) -> String) -> Settings {
    std::fs::create_dir_all(root.join("etc/pitstop")).unwrap();
    std::fs::write(root.join("etc/pitstop/backend-ca.pem"), &server.ca_pem).unwrap();
    let text = DEFAULTS
        .replace("back_off_first_ms = 500", "back_off_first_ms = 20")
        .replace("back_off_cap_secs = 15", "back_off_cap_secs = 1");
    toml::from_str::<Config>(&change(text)).unwrap().settings(|p: &Path| -> PathBuf { root.join(p) }).unwrap()
}

impl Running {
    pub async fn start(root: &Path, server: &Server, change: impl Fn(String) -> String) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(root.join("state")).unwrap());
        Self::start_on(root, storage, server, change).await
    }

    /// The same with its records on another disk.
    pub async fn start_on(
        root: &Path,
        storage: Arc<dyn Storage>,
        server: &Server,
        change: impl Fn(String) -> String,
    ) -> Self {
        let (bus, client) = pitstop_runtime::testing::pair().await;
        let cache = Cache::open(&root.join("cache"), Arc::clone(&storage)).unwrap();
        let operations = Operations::new(&bus, "Downloader", storage).await.unwrap();
        let links = Arc::new(Links { inner: Arc::clone(&server.inner), address: server.address });
        let (service, handle) = Service::new(Arc::new(settings(root, server, change)), cache, links).unwrap();
        bus.object_server()
            .at(pitstop_dbus::object_path("Downloader"), Downloader::new(handle, operations))
            .await
            .unwrap();
        Self { client, server: bus, task: tokio::spawn(service.run()) }
    }

    pub async fn proxy(&self) -> DownloaderProxy<'static> {
        DownloaderProxy::new(&self.client).await.unwrap()
    }

    /// Fetches to the end; the bytes that crossed the network in all.
    pub async fn fetch(&self, update: &str, digest: &Digest, length: usize) -> Result<u64, OtaError> {
        let path = self.proxy().await.fetch(update, &digest.to_string(), length as u64).await?;
        let wait = operation::wait(&self.client, "Downloader", &path, |_| {});
        let data = tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the fetch never ended")?;
        Ok(u64::try_from(data["fetched"].try_clone().unwrap()).unwrap())
    }

    pub async fn read(&self, digest: &Digest) -> Result<Vec<u8>, OtaError> {
        let fd = self.proxy().await.open(&digest.to_string()).await?;
        let mut content = Vec::new();
        std::fs::File::from(std::os::fd::OwnedFd::from(fd)).read_to_end(&mut content).unwrap();
        Ok(content)
    }

    pub async fn usage(&self) -> CacheUsage {
        self.proxy().await.get_usage().await.unwrap()
    }

    /// Waits until `good` holds of the usage.
    pub async fn until(&self, good: impl Fn(&CacheUsage) -> bool) {
        let look = async {
            while !good(&self.usage().await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.expect("the usage never came");
    }
}

/// Bytes that differ everywhere, the same on every run.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
