//! The backend's state and what its parts share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use pitstop_types::{Digest, Vin};
use pitstop_uptane::{MemorySigner, Repository as Repo, Role, Time};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, mpsc};

use crate::clock::Clock;
use crate::error::Error;
use crate::init::{DeviceCa, key_name};
use crate::links::LinkKey;
use crate::metrics::Metrics;
use crate::model::{AuditEntry, Bundle, Event, Release, ReleaseState, Vehicle};
use crate::mqtt::Hint;
use crate::progress::LiveProgress;
use crate::settings::{DataDir, Settings};
use crate::store::{Change, Repository, SqliteRepository};

/// Keys of one repository's online roles.
pub struct OnlineKeys {
    pub targets: MemorySigner,
    pub snapshot: MemorySigner,
    pub timestamp: MemorySigner,
}

impl OnlineKeys {
    fn load(dir: &DataDir, repository: Repo) -> Result<Self, Error> {
        let key = |role: Role| read_key(&dir.keys().join(key_name(repository, role)));
        Ok(Self { targets: key(Role::Targets)?, snapshot: key(Role::Snapshot)?, timestamp: key(Role::Timestamp)? })
    }
}

/// A signing key from a PEM file (PKCS#8).
pub(crate) fn read_key(path: &std::path::Path) -> Result<MemorySigner, Error> {
    let failed = "reading a signing key";
    let pem = std::fs::read(path).map_err(Error::internal(failed))?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(Error::internal(failed))?;
    MemorySigner::from_pkcs8(der.secret_pkcs8_der()).map_err(Error::internal(failed))
}

/// Where vehicles reach the listeners.
#[derive(Debug, Clone)]
pub struct Urls {
    pub public: String,
    pub device: String,
}

/// Everything the services and listeners share. Cheap to share by `Arc`; nothing in it is a cache of the database.
pub struct Backend {
    pub dir: DataDir,
    pub settings: Settings,
    pub clock: Clock,
    pub repo: Arc<dyn Repository>,
    pub director_keys: OnlineKeys,
    pub image_keys: OnlineKeys,
    pub roots: BTreeMap<&'static str, Vec<u8>>,
    pub ca: DeviceCa,
    pub server_ca_pem: String,
    pub link_key: LinkKey,
    pub admin_token: Digest,
    pub metrics: Metrics,
    pub progress: LiveProgress,
    pub urls: OnceLock<Urls>,
    hints: mpsc::UnboundedSender<Hint>,
    /// Held from reading to writing by whoever decides something, so that two decisions never rest on the same old state.
    deciding: Mutex<()>,
}

impl Backend {
    /// Opens a data folder. The receiver gets every hint for the broker.
    pub async fn open(
        dir: DataDir,
        settings: Settings,
        clock: Clock,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Hint>), Error> {
        let repo = SqliteRepository::open(&dir.database()).await?;
        let read = |path: std::path::PathBuf| std::fs::read(path).map_err(Error::internal("reading the data folder"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let (hints, receiver) = mpsc::unbounded_channel();
        let roots = BTreeMap::from([
            ("director", read(dir.root_metadata("director"))?),
            ("image", read(dir.root_metadata("image"))?),
        ]);
        let backend = Self {
            director_keys: OnlineKeys::load(&dir, Repo::Director)?,
            image_keys: OnlineKeys::load(&dir, Repo::Image)?,
            roots,
            ca: DeviceCa::load(&dir).map_err(Error::internal("loading the device CA"))?,
            server_ca_pem: String::from_utf8_lossy(&read(dir.tls().join("server-ca.pem"))?).into_owned(),
            link_key: LinkKey::new(text(read(dir.link_key())?).as_bytes()),
            admin_token: Digest::of(text(read(dir.admin_token())?).as_bytes()),
            metrics: Metrics::default(),
            progress: LiveProgress::default(),
            urls: OnceLock::new(),
            repo: Arc::new(repo),
            hints,
            deciding: Mutex::new(()),
            dir,
            settings,
            clock,
        };
        backend.refresh_image_repository().await?;
        Ok((Arc::new(backend), receiver))
    }

    /// To be held from reading what a decision rests on until it is written.
    pub(crate) async fn decide(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().await
    }

    /// Tells a device that its next job changed, if the broker is there; a hint that is lost costs time only.
    pub(crate) fn hint(&self, vehicle: &Vehicle) {
        if let Some(device) = &vehicle.device {
            let _ = self.hints.send(Hint { device: device.clone(), rev: vehicle.rev });
        }
    }

    pub(crate) fn time_after(&self, secs: u64) -> Result<Time, Error> {
        Time::from_unix(crate::clock::later(self.clock.now(), secs)).map_err(Error::internal("reading the clock"))
    }

    pub(crate) async fn need_vehicle(&self, vin: &Vin) -> Result<Vehicle, Error> {
        self.repo.vehicle(vin).await?.ok_or(Error::NotFound("vehicle"))
    }

    /// The vehicle that a device certificate speaks for now; only while it is authorised.
    pub(crate) async fn vehicle_of_device(&self, device: &str) -> Result<Vehicle, Error> {
        let found = self.repo.vehicle_by_device(device).await?;
        let vehicle = found
            .ok_or_else(|| Error::Forbidden("device-unknown", "this certificate speaks for no vehicle".to_owned()))?;
        if !vehicle.authorised {
            return Err(Error::Forbidden("not-authorised", format!("not authorised: {}", vehicle.authorised_reason)));
        }
        Ok(vehicle)
    }

    /// Bundles that stand in the Image repository: those of published and withdrawn releases.
    pub(crate) async fn listed_bundles(&self) -> Result<BTreeMap<String, Bundle>, Error> {
        let mut all = self.repo.bundles().await?;
        let releases = self.repo.releases().await?;
        let listed: std::collections::BTreeSet<&String> =
            releases.iter().filter(|r| r.state != ReleaseState::Draft).flat_map(|r| &r.bundles).collect();
        all.retain(|id, _| listed.contains(id));
        Ok(all)
    }

    pub(crate) async fn need_release(&self, id: &str) -> Result<Release, Error> {
        self.repo.release(id).await?.ok_or(Error::NotFound("release"))
    }

    /// The next line of the audit log. At most one in a transaction, and only while deciding.
    pub(crate) async fn audit(&self, actor: &str, action: &str, detail: Value) -> Result<Change, Error> {
        let head = self.repo.audit_head().await?;
        Ok(Change::AddAudit(AuditEntry::after(head.as_ref(), self.clock.now(), actor, action, detail)))
    }

    pub(crate) fn event(&self, vin: &Vin, kind: &str, text: impl Into<String>, data: Value) -> Change {
        Change::AddEvent(Event {
            at: self.clock.now(),
            vin: vin.clone(),
            kind: kind.to_owned(),
            text: text.into(),
            data,
        })
    }
}
