//! Uploads: streamed to disk within the limit, hashed on the way, verified whole, then kept under their hash.

use std::path::{Path, PathBuf};

use axum::body::BodyDataStream;
use futures_util::StreamExt as _;
use pitstop_types::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use crate::backend::Backend;
use crate::error::Error;
use crate::model::{Bundle, new_id};
use crate::store::Change;
use crate::verify::verify_bundle;

/// Removes the upload unless it was moved to its place.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Received {
    sha256: Digest,
    sha512: String,
    length: u64,
}

impl Backend {
    /// Takes a bundle. The same file again gives the same answer; another file for the same hardware and version is refused.
    pub async fn upload(&self, actor: &str, name: String, body: BodyDataStream) -> Result<Bundle, Error> {
        check_name(&name)?;
        let upload = Upload(self.dir.uploads().join(new_id("upload")));
        let received = receive(&upload.0, body, self.settings.limits.bundle_bytes).await?;
        if let Some(known) = self.repo.bundle_by_sha256(&received.sha256.to_string()).await? {
            return Ok(known);
        }
        let (path, keyring, now) = (upload.0.clone(), self.dir.keyring(), self.clock.now());
        let verified = tokio::task::spawn_blocking(move || verify_bundle(&path, &keyring, now)).await;
        let facts = verified.map_err(Error::internal("verifying a bundle"))?.map_err(Error::Bundle)?;
        // Part of the hash in the path: one name never stands for two files.
        let sha256 = received.sha256.to_string();
        let short = sha256.get(..16).unwrap_or_default();
        let bundle = Bundle {
            id: new_id("b"),
            name,
            path: format!("{}/{}-{short}.raucb", facts.hardware, facts.counter),
            sha512: received.sha512,
            length: received.length,
            kind: facts.kind.to_owned(),
            hardware: facts.hardware,
            version: facts.version,
            counter: facts.counter,
            manifest_hash: facts.manifest_hash.to_string(),
            security_floor: None,
            created_at: self.clock.now(),
            sha256,
        };
        let _deciding = self.decide().await;
        let same = |other: &&Bundle| other.hardware == bundle.hardware && other.version == bundle.version;
        if self.repo.bundles().await?.values().any(|other| same(&other)) {
            let text = format!("another bundle is {} of {} already", bundle.version, bundle.hardware);
            return Err(Error::Conflict(text));
        }
        self.keep(&upload.0, &bundle.sha256).await?;
        let detail = json!({ "bundle": bundle.id, "sha256": bundle.sha256, "hardware": bundle.hardware, "version": bundle.version });
        let audit = self.audit(actor, "upload", detail).await?;
        self.repo.apply(vec![Change::AddBundle(bundle.clone()), audit]).await?;
        Ok(bundle)
    }

    /// Moves a complete upload to its place, durably, before anything points at it.
    async fn keep(&self, upload: &Path, sha256: &str) -> Result<(), Error> {
        let failed = "keeping a bundle";
        fs::rename(upload, self.dir.objects().join(sha256)).await.map_err(Error::internal(failed))?;
        let folder = fs::File::open(self.dir.objects()).await.map_err(Error::internal(failed))?;
        folder.sync_all().await.map_err(Error::internal(failed))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let legal = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    if legal { Ok(()) } else { Err(Error::Invalid("name: 1 to 200 bytes without control characters".into())) }
}

async fn receive(path: &Path, mut body: BodyDataStream, limit: u64) -> Result<Received, Error> {
    let failed = "writing an upload";
    let mut file = fs::File::create_new(path).await.map_err(Error::internal(failed))?;
    let (mut sha256, mut sha512, mut length) = (Sha256::new(), Sha512::new(), 0_u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Error::Invalid(format!("the upload broke off: {error}")))?;
        length = length.saturating_add(chunk.len() as u64);
        if length > limit {
            return Err(Error::TooLarge("the bundle", limit));
        }
        sha256.update(&chunk);
        sha512.update(&chunk);
        file.write_all(&chunk).await.map_err(Error::internal(failed))?;
    }
    file.sync_all().await.map_err(Error::internal(failed))?;
    let sha256 = Digest::from_bytes(sha256.finalize().into());
    Ok(Received { sha256, sha512: hex::encode(sha512.finalize()), length })
}
