//! The cache on disk: for each bundle a file, `SHA256.part` until it is whole and `SHA256.bundle` from then on, and two small records.
//!
//! The name is the truth about wholeness: a file gets its final name only after its hash was read back from disk. Of a partial one the record says how
//! much is durable; whatever lies behind that is cut off before it is continued.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::{Digest, Sha256Writer, UpdateId};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;
const CLAIMS: &str = "claims/";

/// Who wants a bundle. Written by the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Length of the bundle in bytes, as the decision says.
    pub length: u64,
    pub updates: BTreeSet<UpdateId>,
}

/// How far a bundle is. Written by whoever fetches it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes from the start that are durable.
    pub durable: u64,
    /// The server's name for this content, to continue the same and no other.
    #[serde(default)]
    pub etag: Option<String>,
    /// Bytes that crossed the network for this bundle.
    #[serde(default)]
    pub fetched: u64,
}

/// The cache's folder and records.
#[derive(Clone)]
pub struct Cache {
    folder: PathBuf,
    storage: Arc<dyn Storage>,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CacheError> for OtaError {
    fn from(error: CacheError) -> Self {
        match &error {
            CacheError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::OutOfSpace(error.to_string())
            }
            CacheError::Io { source, .. } => Self::Storage(format!("{error}: {source}")),
            CacheError::Store(_) => Self::Storage(error.to_string()),
        }
    }
}

impl Cache {
    /// Opens the cache, making `folder` if needed, and takes away files that nothing claims.
    pub fn open(folder: &Path, storage: Arc<dyn Storage>) -> Result<Self, CacheError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("making", folder))?;
        let this = Self { folder: folder.to_owned(), storage };
        let known: BTreeSet<String> = this.claims()?.iter().map(|(digest, _)| digest.to_string()).collect();
        for found in fs::read_dir(folder).map_err(io_error("reading", folder))? {
            let path = found.map_err(io_error("reading", folder))?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if !known.contains(stem) {
                log::info!("taking away {}, which nothing claims", path.display());
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
            }
        }
        Ok(this)
    }

    /// All claims. A damaged one is dropped: whoever wants the bundle asks again.
    pub fn claims(&self) -> Result<Vec<(Digest, Claim)>, CacheError> {
        let mut claims = Vec::new();
        for name in self.storage.list(CLAIMS)? {
            let Some(digest) = name.strip_prefix(CLAIMS).and_then(|n| Digest::parse(n).ok()) else { continue };
            match self.claim_document(&digest).load() {
                Ok(Some(claim)) => claims.push((digest, claim)),
                Ok(None) => {}
                Err(error) => {
                    log::error!("dropping a claim: {error}");
                    self.storage.remove(&name)?;
                }
            }
        }
        Ok(claims)
    }

    /// Stores who wants `digest`.
    pub fn claim(&self, digest: &Digest, claim: &Claim) -> Result<(), CacheError> {
        Ok(self.claim_document(digest).store(claim)?)
    }

    /// How far `digest` is.
    pub fn progress(&self, digest: &Digest) -> Progress {
        match self.progress_document(digest).load() {
            Ok(progress) => progress.unwrap_or_default(),
            Err(error) => {
                log::warn!("starting {digest} anew: {error}");
                Progress::default()
            }
        }
    }

    /// Stores how far `digest` is. What it says must be durable already.
    pub fn store_progress(&self, digest: &Digest, progress: &Progress) -> Result<(), CacheError> {
        Ok(self.progress_document(digest).store(progress)?)
    }

    /// Bytes fetched for bundles that are gone.
    pub fn fetched_before(&self) -> u64 {
        self.fetched_document().load().ok().flatten().unwrap_or(0)
    }

    /// Stores the same.
    pub fn store_fetched_before(&self, bytes: u64) -> Result<(), CacheError> {
        Ok(self.fetched_document().store(&bytes)?)
    }

    /// A whole bundle, read-only.
    pub fn open_whole(&self, digest: &Digest) -> Result<Option<File>, CacheError> {
        let path = self.whole_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CacheError::Io { action: "opening", path, source }),
        }
    }

    /// Whether a bundle is whole.
    pub fn is_whole(&self, digest: &Digest) -> bool {
        self.whole_path(digest).exists()
    }

    /// The partial file, cut to what `progress` says is durable; a file shorter than that makes it start anew.
    pub fn open_part(&self, digest: &Digest, progress: &mut Progress) -> Result<File, CacheError> {
        let path = self.part_path(digest);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        let length = file.metadata().map_err(io_error("reading", &path))?.len();
        if length < progress.durable {
            log::warn!("{} is shorter than its record says: starting anew", path.display());
            (progress.durable, progress.etag) = (0, None);
        }
        file.set_len(progress.durable).map_err(io_error("cutting", &path))?;
        Ok(file)
    }

    /// Reads the partial file back and gives it its final name if its hash is `digest`; otherwise takes it away. True if it was right.
    pub fn finish(&self, digest: &Digest) -> Result<bool, CacheError> {
        let part = self.part_path(digest);
        let mut file = File::open(&part).map_err(io_error("opening", &part))?;
        file.sync_all().map_err(io_error("syncing", &part))?;
        let mut hash = Sha256Writer::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(io_error("reading", &part))? {
                0 => break,
                count => hash.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        if hash.finish() != *digest {
            fs::remove_file(&part).map_err(io_error("removing", &part))?;
            self.sync_folder()?;
            return Ok(false);
        }
        fs::rename(&part, self.whole_path(digest)).map_err(io_error("naming", &part))?;
        self.sync_folder()?;
        Ok(true)
    }

    /// Takes everything of `digest` away. The claim last: as long as it stands the next start finds the rest.
    pub fn remove(&self, digest: &Digest) -> Result<(), CacheError> {
        for path in [self.part_path(digest), self.whole_path(digest)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError::Io { action: "removing", path, source: error });
                }
                _ => {}
            }
        }
        self.progress_document(digest).remove()?;
        Ok(self.claim_document(digest).remove()?)
    }

    /// Free bytes where the cache lies.
    pub fn free_bytes(&self) -> Result<u64, CacheError> {
        let found = nix::sys::statvfs::statvfs(&self.folder).map_err(|e| CacheError::Io {
            action: "asking for the space of",
            path: self.folder.clone(),
            source: e.into(),
        })?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    fn sync_folder(&self) -> Result<(), CacheError> {
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(io_error("syncing", &self.folder))
    }

    fn part_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.part"))
    }

    fn whole_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.bundle"))
    }

    fn claim_document(&self, digest: &Digest) -> Document<Claim> {
        Document::new(Arc::clone(&self.storage), format!("{CLAIMS}{digest}"), FORMAT)
    }

    fn progress_document(&self, digest: &Digest) -> Document<Progress> {
        Document::new(Arc::clone(&self.storage), format!("progress/{digest}"), FORMAT)
    }

    fn fetched_document(&self) -> Document<u64> {
        Document::new(Arc::clone(&self.storage), "fetched", FORMAT)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}
