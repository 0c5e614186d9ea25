//! The admitted store: bundles by their SHA-256, and records that say for whom they were admitted.
//!
//! A file is whole, checked and flushed before its record is written; a file without a record is a left-over. So whatever is
//! interrupted leaves nothing that could be taken for admitted.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use pitstop_dbus::{AdmittedBundle, OtaError};
use pitstop_store::{Document, Storage};
use pitstop_types::{Digest, EcuId, HardwareId, ReleaseCounter, SoftwareVersion, UnixSeconds, UpdateId};
use serde::{Deserialize, Serialize};

use crate::refusal;

const FOLDER: &str = "admitted/";
/// Ends the name of a copy that is not finished.
const UNFINISHED: &str = ".part";

/// What a bundle is admitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Target,
    Fallback,
}

impl Purpose {
    pub(crate) fn parse(text: &str) -> Result<Self, OtaError> {
        match text {
            "target" => Ok(Self::Target),
            "fallback" => Ok(Self::Fallback),
            _ => Err(OtaError::InvalidArgument(format!("role {text:?} is not \"target\" or \"fallback\""))),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Fallback => "fallback",
        }
    }
}

/// A bundle that was admitted, as its installer is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sha256: Digest,
    pub(crate) length: u64,
    pub(crate) verity_root: Digest,
    pub(crate) hardware: HardwareId,
    pub(crate) counter: ReleaseCounter,
    pub(crate) manifest_hash: Digest,
    pub(crate) version: SoftwareVersion,
    pub(crate) admitted_at: UnixSeconds,
}

impl Record {
    pub(crate) fn describe(&self) -> AdmittedBundle {
        AdmittedBundle {
            verity_root: self.verity_root.to_string(),
            hardware: self.hardware.to_string(),
            counter: self.counter.0,
            manifest_hash: self.manifest_hash.to_string(),
            version: self.version.to_string(),
            length: self.length,
            admitted_at: self.admitted_at,
        }
    }
}

pub(crate) struct Vault {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    /// Bytes that stay free for the small files of all services.
    reserve: u64,
}

impl Vault {
    /// Opens the store, making its folder, and removes what nothing refers to.
    pub(crate) fn open(storage: Arc<dyn Storage>, folder: PathBuf, reserve: u64) -> Result<Self, OtaError> {
        fs::create_dir_all(&folder).map_err(|error| refusal::io("making the admitted store", &error))?;
        let vault = Self { storage, folder, reserve };
        vault.drop_records_without_file()?;
        vault.sweep()?;
        Ok(vault)
    }

    /// The record, if the bundle is admitted.
    pub(crate) fn find(&self, update: &UpdateId, ecu: &EcuId, purpose: Purpose) -> Result<Option<Record>, OtaError> {
        self.record(update, ecu, purpose).load().map_err(refusal::store)
    }

    /// An admitted bundle, read-only.
    pub(crate) fn open_bundle(&self, record: &Record) -> Result<File, OtaError> {
        File::open(self.path(&record.sha256)).map_err(|error| refusal::io("opening an admitted bundle", &error))
    }

    /// Whether this very file is in the store for some other purpose already.
    pub(crate) fn holds(&self, sha256: &Digest) -> Result<bool, OtaError> {
        Ok(self.references()?.contains(sha256) && self.path(sha256).exists())
    }

    /// A new empty copy. The space for `length` bytes must be there, and the reserve besides.
    pub(crate) fn begin(&self, name: &str, length: u64) -> Result<(File, PathBuf), OtaError> {
        let path = self.folder.join(format!("{name}{UNFINISHED}"));
        let doing = "making a copy in the admitted store";
        let _ = fs::remove_file(&path);
        let room = nix::sys::statvfs::statvfs(&self.folder).map_err(|error| refusal::io(doing, &error.into()))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        if free < length.saturating_add(self.reserve) {
            return Err(OtaError::OutOfSpace(format!(
                "{length} bytes and {} in reserve, {free} are free",
                self.reserve
            )));
        }
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o400).open(&path);
        Ok((file.map_err(|error| refusal::io(doing, &error))?, path))
    }

    /// Makes a flushed and checked copy part of the store.
    pub(crate) fn keep(&self, copy: &PathBuf, sha256: &Digest) -> Result<(), OtaError> {
        let doing = "keeping a bundle";
        fs::rename(copy, self.path(sha256)).map_err(|error| refusal::io(doing, &error))?;
        // Without this the rename may be lost after the record was written.
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|error| refusal::io(doing, &error))
    }

    /// Says durably that the bundle is admitted. Its file is in the store.
    pub(crate) fn admit(
        &self,
        update: &UpdateId,
        ecu: &EcuId,
        purpose: Purpose,
        record: &Record,
    ) -> Result<(), OtaError> {
        self.record(update, ecu, purpose).store(record).map_err(refusal::store)
    }

    /// Whether anything is admitted for `update`.
    pub(crate) fn has_any(&self, update: &UpdateId) -> bool {
        // Not readable counts as needed.
        self.storage.list(&format!("{FOLDER}{update}/")).map_or(true, |names| !names.is_empty())
    }

    /// Forgets an ended update's bundles.
    pub(crate) fn release(&self, update: &UpdateId) -> Result<(), OtaError> {
        for name in self.storage.list(&format!("{FOLDER}{update}/")).map_err(refusal::store)? {
            self.storage.remove(&name).map_err(refusal::store)?;
        }
        self.sweep()
    }

    /// Removes files that no record refers to. Not called while a copy is made.
    pub(crate) fn sweep(&self) -> Result<(), OtaError> {
        let doing = "sweeping the admitted store";
        let wanted: BTreeSet<_> = self.references()?.iter().map(Digest::to_string).collect();
        let entries = fs::read_dir(&self.folder).map_err(|error| refusal::io(doing, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| refusal::io(doing, &error))?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| wanted.contains(name)) {
                fs::remove_file(entry.path()).map_err(|error| refusal::io(doing, &error))?;
            }
        }
        Ok(())
    }

    /// A record whose file is not there, or not of its length, is no admission.
    fn drop_records_without_file(&self) -> Result<(), OtaError> {
        for name in self.storage.list(FOLDER).map_err(refusal::store)? {
            let record = Document::<Record>::new(self.storage.clone(), &name, 1).load();
            let whole = record.ok().flatten().is_some_and(|record| {
                fs::metadata(self.path(&record.sha256)).is_ok_and(|found| found.len() == record.length)
            });
            if !whole {
                log::warn!("{name} is admitted no more: its bundle is not whole");
                self.storage.remove(&name).map_err(refusal::store)?;
            }
        }
        Ok(())
    }

    fn references(&self) -> Result<BTreeSet<Digest>, OtaError> {
        let mut wanted = BTreeSet::new();
        for name in self.storage.list(FOLDER).map_err(refusal::store)? {
            let record = Document::<Record>::new(self.storage.clone(), &name, 1).load().map_err(refusal::store)?;
            wanted.extend(record.map(|record| record.sha256));
        }
        Ok(wanted)
    }

    fn record(&self, update: &UpdateId, ecu: &EcuId, purpose: Purpose) -> Document<Record> {
        Document::new(self.storage.clone(), format!("{FOLDER}{update}/{ecu}.{}", purpose.as_str()), 1)
    }

    fn path(&self, sha256: &Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }
}
