//! One bundle, from the first byte to its checked hash: a loop of connections, each going on where the last one stopped.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitstop_dbus::OtaError;
use pitstop_runtime::Backoff;
use pitstop_types::Digest;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Client, Response};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::{mpsc, watch};

use crate::answer::{self, Head, Verdict};
use crate::config::Settings;
use crate::pace::{Pace, Patience, RateLimit, StallGuard};
use crate::ports::LinkSource;
use crate::store::{Cache, Progress};

/// To reach the server at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Collected before it is written: a write for each packet would only cost time.
const WRITE_BYTES: usize = 256 * 1024;
/// A link that ends sooner than this is not used any more.
const LINK_MARGIN_SECS: i64 = 5;
/// New links in a row that the server refuses, before that is believed.
const MAX_REFUSED_LINKS: u32 = 3;
/// What may cross the network for one bundle beyond twice its length: a server that sends rubbish must not empty the owner's data plan.
const OVERHEAD_BYTES: u64 = 16 << 20;

/// What the fetch tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes that are there, durable or not.
    pub have: u64,
    /// Bytes that crossed the network in all.
    pub fetched: u64,
}

/// One bundle to fetch.
pub struct Fetch {
    pub digest: Digest,
    pub length: u64,
    pub cache: Cache,
    pub settings: Arc<Settings>,
    pub links: Arc<dyn LinkSource>,
    /// Turns true when nobody wants it any more.
    pub cancel: watch::Receiver<bool>,
    pub steps: mpsc::UnboundedSender<(Digest, Step)>,
}

/// How one connection ended, if not with all bytes.
enum Failure {
    /// Trying again may help.
    Again(OtaError),
    /// It will not.
    Final(OtaError),
}

impl From<crate::store::CacheError> for Failure {
    fn from(error: crate::store::CacheError) -> Self {
        Self::Final(error.into())
    }
}

/// What lives as long as the fetch.
struct Run {
    fetch: Fetch,
    client: Client,
    file: Arc<File>,
    progress: Progress,
    /// Written, durable or not.
    written: u64,
    buffer: Vec<u8>,
    link: Option<(String, i64)>,
    refused_links: u32,
    rate: RateLimit,
}

impl Fetch {
    /// Fetches until the bundle is whole and its hash right; returns the bytes that crossed the network for it in all. `told` hears every step.
    pub async fn run(self, mut told: impl FnMut(Step)) -> Result<u64, OtaError> {
        let mut progress = self.cache.progress(&self.digest);
        if self.cache.is_whole(&self.digest) {
            told(Step { have: self.length, fetched: progress.fetched });
            return Ok(progress.fetched);
        }
        let client = client(&self.settings)?;
        let file = Arc::new(self.cache.open_part(&self.digest, &mut progress).map_err(OtaError::from)?);
        self.check_space(progress.durable)?;
        let rate = RateLimit::new(self.settings.rate_limit);
        let written = progress.durable;
        let mut run = Run {
            fetch: self,
            client,
            file,
            progress,
            written,
            buffer: Vec::new(),
            link: None,
            refused_links: 0,
            rate,
        };
        let outcome = run.all(&mut told).await;
        if outcome.is_err() {
            // What came so far is kept for the next time, also after a cancellation.
            if let Err(Failure::Final(error) | Failure::Again(error)) = run.flush().await {
                log::warn!("keeping what was fetched: {error}");
            }
        }
        outcome?;
        run.finish().await
    }

    fn check_space(&self, durable: u64) -> Result<(), OtaError> {
        let missing = self.length.saturating_sub(durable).saturating_add(self.settings.reserve_bytes);
        let free = self.cache.free_bytes()?;
        if free < missing {
            return Err(OtaError::OutOfSpace(format!("{missing} bytes are needed, {free} are free")));
        }
        Ok(())
    }
}

impl Run {
    /// Connection after connection until all bytes are written.
    async fn all(&mut self, told: &mut impl FnMut(Step)) -> Result<(), OtaError> {
        let settings = Arc::clone(&self.fetch.settings);
        let mut backoff = Backoff::new(settings.back_off_first, settings.back_off_cap);
        let mut patience = Patience::new(Instant::now(), settings.give_up);
        while self.have() < self.fetch.length {
            let before = self.progress.fetched;
            let failure = match self.connection(told).await {
                Ok(()) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => error,
            };
            match self.flush().await {
                Err(Failure::Final(error) | Failure::Again(error)) => return Err(error),
                Ok(()) => {}
            }
            match patience.ended(Instant::now(), self.progress.fetched.saturating_sub(before)) {
                Pace::GetsOn => backoff.reset(),
                Pace::Waiting => {}
                Pace::Silent => return Err(failure),
                Pace::TooSlow => return Err(too_slow(&patience, &settings, &failure)),
            }
            let pause = backoff.next(rand::random());
            log::info!(
                "bundle {}: {failure}; going on at byte {} in {:.1} s",
                self.fetch.digest,
                self.have(),
                pause.as_secs_f64()
            );
            match unless(&mut self.fetch.cancel, tokio::time::sleep(pause)).await {
                Err(Failure::Final(error) | Failure::Again(error)) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// One connection, from where the file ends.
    async fn connection(&mut self, told: &mut impl FnMut(Step)) -> Result<(), Failure> {
        self.flush().await?;
        let url = self.url().await?;
        let mut request = self
            .client
            .get(url)
            .header(ACCEPT_ENCODING, "identity")
            .header(RANGE, format!("bytes={}-{}", self.written, self.fetch.length.saturating_sub(1)));
        if let Some(etag) = self.progress.etag.as_ref().filter(|_| self.written > 0) {
            request = request.header(IF_RANGE, etag);
        }
        let sent = tokio::time::timeout(self.fetch.settings.stall_window, request.send());
        let answer = unless(&mut self.fetch.cancel, sent).await?;
        let response = answer.map_err(|_| slow("the server does not answer"))?.map_err(network)?;
        self.judge(&response)?;
        self.body(response, told).await
    }

    async fn url(&mut self) -> Result<String, Failure> {
        let now = pitstop_runtime::wall_clock().unwrap_or(0);
        if let Some((url, expires)) = &self.link
            && now.saturating_add(LINK_MARGIN_SECS) < *expires
        {
            return Ok(url.clone());
        }
        let links = Arc::clone(&self.fetch.links);
        match unless(&mut self.fetch.cancel, links.link(&self.fetch.digest)).await? {
            Ok((url, expires)) => {
                self.link = Some((url.clone(), expires));
                Ok(url)
            }
            Err(error @ (OtaError::NotFound(_) | OtaError::InvalidArgument(_))) => Err(Failure::Final(error)),
            // The backend's own word: nobody may have this bundle, or not this vehicle.
            Err(error @ OtaError::BackendRefused(_)) => Err(self.link_refused(error)),
            Err(error) => Err(Failure::Again(OtaError::Network(format!("asking for a link: {error}")))),
        }
    }

    /// Judges the answer's head. After it, the body begins at `self.written`.
    fn judge(&mut self, response: &Response) -> Result<(), Failure> {
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let head = Head {
            status: response.status().as_u16(),
            length: response.content_length(),
            range: header(CONTENT_RANGE),
            etag: header(ETAG),
        };
        match answer::judge(&head, self.written, self.fetch.length) {
            Verdict::GoesOn { etag } => self.progress.etag = etag,
            Verdict::Anew { etag } => {
                self.start_anew()?;
                self.progress.etag = etag;
            }
            Verdict::LinkRefused => {
                let text = format!("the server refuses the link ({})", response.status());
                return Err(self.link_refused(OtaError::Network(text)));
            }
            Verdict::Again(text) => return Err(Failure::Again(OtaError::Network(text))),
            Verdict::NotFound => {
                return Err(Failure::Final(OtaError::NotFound(format!(
                    "the server has no bundle {}",
                    self.fetch.digest
                ))));
            }
            Verdict::Longer(text) => return Err(Failure::Final(OtaError::TooLarge(text))),
            Verdict::Other(text) => return Err(Failure::Final(OtaError::HashMismatch(text))),
        }
        self.refused_links = 0;
        Ok(())
    }

    /// The server sends the whole file: it knows no ranges, or has another file than the one that was begun.
    fn start_anew(&mut self) -> Result<(), Failure> {
        if self.written == 0 {
            return Ok(());
        }
        log::warn!("bundle {}: the server starts anew, so {} bytes are fetched again", self.fetch.digest, self.written);
        let fetched = self.progress.fetched;
        self.progress = Progress { fetched, ..Progress::default() };
        self.fetch.cache.store_progress(&self.fetch.digest, &self.progress)?;
        self.file = Arc::new(self.fetch.cache.open_part(&self.fetch.digest, &mut self.progress)?);
        self.written = 0;
        Ok(())
    }

    fn link_refused(&mut self, error: OtaError) -> Failure {
        self.link = None;
        self.refused_links += 1;
        if self.refused_links >= MAX_REFUSED_LINKS { Failure::Final(error) } else { Failure::Again(error) }
    }

    async fn body(&mut self, mut response: Response, told: &mut impl FnMut(Step)) -> Result<(), Failure> {
        let settings = Arc::clone(&self.fetch.settings);
        let mut guard = StallGuard::new(Instant::now(), settings.stall_window, settings.stall_min_bytes);
        while self.have() < self.fetch.length {
            let deadline = tokio::time::Instant::from_std(guard.deadline());
            let next = tokio::time::timeout_at(deadline, response.chunk());
            let chunk = match unless(&mut self.fetch.cancel, next).await? {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Err(Failure::Again(OtaError::Network("the connection ended early".into()))),
                Ok(Err(error)) => return Err(network(error)),
                Err(_) => Default::default(),
            };
            guard.took(chunk.len());
            self.take(&chunk, told)?;
            // What is not durable yet would be fetched again after a power cut, written or not.
            if self.have() - self.progress.durable >= settings.flush_bytes {
                self.flush().await?;
            } else if self.buffer.len() >= WRITE_BYTES {
                self.write().await?;
            }
            let last = self.have() >= self.fetch.length;
            if !last && guard.is_slow(Instant::now()) {
                return Err(slow("data comes too slowly"));
            }
            let pause = self.rate.took(Instant::now(), chunk.len());
            if !pause.is_zero() && !last {
                unless(&mut self.fetch.cancel, tokio::time::sleep(pause)).await?;
            }
        }
        self.flush().await
    }

    fn take(&mut self, chunk: &[u8], told: &mut impl FnMut(Step)) -> Result<(), Failure> {
        self.progress.fetched = self.progress.fetched.saturating_add(chunk.len() as u64);
        if self.have() + chunk.len() as u64 > self.fetch.length {
            return Err(Failure::Final(OtaError::TooLarge(format!(
                "the server sends more than the {} bytes decided",
                self.fetch.length
            ))));
        }
        let allowed = self.fetch.length.saturating_mul(2).saturating_add(OVERHEAD_BYTES);
        if self.progress.fetched > allowed {
            return Err(Failure::Final(OtaError::TooLarge(format!(
                "{allowed} bytes were fetched for {} and it is still not whole",
                self.fetch.length
            ))));
        }
        self.buffer.extend_from_slice(chunk);
        let step = Step { have: self.have(), fetched: self.progress.fetched };
        let _ = self.fetch.steps.send((self.fetch.digest, step));
        told(step);
        Ok(())
    }

    fn have(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.write().await?;
        self.sync().await
    }

    async fn write(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (file, buffer) = (Arc::clone(&self.file), std::mem::take(&mut self.buffer));
        let length = buffer.len() as u64;
        let written = blocking(move || (&*file).write_all(&buffer).map(|()| buffer)).await?;
        let mut buffer = written.map_err(|e| Failure::Final(disk(&e)))?;
        buffer.clear();
        self.buffer = buffer;
        self.written += length;
        Ok(())
    }

    /// Makes what was written durable, then says so in the record: in this order.
    async fn sync(&mut self) -> Result<(), Failure> {
        if self.written == self.progress.durable {
            return Ok(());
        }
        let (file, cache, digest) = (Arc::clone(&self.file), self.fetch.cache.clone(), self.fetch.digest);
        let progress = Progress { durable: self.written, ..self.progress.clone() };
        let stored = progress.clone();
        let done = blocking(move || {
            file.sync_data().map_err(|e| disk(&e))?;
            cache.store_progress(&digest, &stored).map_err(OtaError::from)
        });
        done.await?.map_err(Failure::Final)?;
        self.progress = progress;
        Ok(())
    }

    async fn finish(self) -> Result<u64, OtaError> {
        let (cache, digest) = (self.fetch.cache.clone(), self.fetch.digest);
        let mut progress = self.progress;
        let right = tokio::task::spawn_blocking(move || cache.finish(&digest))
            .await
            .map_err(|e| OtaError::Internal(e.to_string()))??;
        if right {
            return Ok(progress.fetched);
        }
        (progress.durable, progress.etag) = (0, None);
        self.fetch.cache.store_progress(&digest, &progress)?;
        Err(OtaError::HashMismatch(format!("what was fetched is not the bundle {digest}; it was taken away")))
    }
}

fn client(settings: &Settings) -> Result<Client, OtaError> {
    let pem = std::fs::read(&settings.ca_file)
        .map_err(|e| OtaError::Network(format!("reading {}: {e}", settings.ca_file.display())))?;
    let wrong = |text: String| OtaError::Network(format!("{}: {text}", settings.ca_file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| wrong(e.to_string()))?).map_err(|e| wrong(e.to_string()))?;
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| OtaError::Internal(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("pitstop/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| OtaError::Internal(e.to_string()))
}

fn network(error: reqwest::Error) -> Failure {
    // The URL holds the link's signature.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    if error.is_timeout() {
        slow("the server cannot be reached in time")
    } else {
        Failure::Again(OtaError::Network(text))
    }
}

fn slow(text: &str) -> Failure {
    Failure::Again(OtaError::Slow(text.to_owned()))
}

fn too_slow(patience: &Patience, settings: &Settings, last: &OtaError) -> OtaError {
    let (least, secs) = (patience.least_bytes(), settings.give_up.as_secs());
    OtaError::Slow(format!("fewer than {least} bytes came in {secs} s; at last: {last}"))
}

fn disk(error: &std::io::Error) -> OtaError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => OtaError::OutOfSpace(error.to_string()),
        _ => OtaError::Storage(error.to_string()),
    }
}

/// Waits for the network or the clock, unless the fetch is cancelled first. Only such waits are given up in the middle: a write that was begun ends, so
/// that nothing is still being written when the next fetch of the same bundle opens the file.
async fn unless<T>(cancel: &mut watch::Receiver<bool>, wait: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        value = wait => Ok(value),
        () = is_true(cancel) => Err(Failure::Final(OtaError::Cancelled("the fetch was cancelled".into()))),
    }
}

/// Returns when `flag` is true; never if its sender is gone before.
pub(crate) async fn is_true(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|&set| set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::Final(OtaError::Internal(e.to_string())))
}
