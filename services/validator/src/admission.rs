//! Admitting a bundle: copied while it is hashed, and judged on our own copy, so that nobody can change it in between.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pitstop_bundle_io::{BundleReader, Keyring};
use pitstop_dbus::OtaError;
use pitstop_types::{Digest, EcuId, ReleaseCounter, Sha256Writer, SoftwareRef, UnixSeconds, UpdateId};
use sha2::{Digest as _, Sha512};

use crate::refusal;
use crate::vault::{Purpose, Record, Vault};

/// Bytes copied at once: large enough for speed, small enough that a cancel is heard.
const CHUNK: usize = 256 * 1024;

/// One request, with all that the decision says.
pub(crate) struct Admission {
    pub(crate) update: UpdateId,
    pub(crate) ecu: EcuId,
    pub(crate) purpose: Purpose,
    pub(crate) expected: SoftwareRef,
    pub(crate) floor: ReleaseCounter,
    pub(crate) now: UnixSeconds,
}

/// Where a bundle comes from.
pub(crate) enum Source<'s> {
    /// A file of somebody else's, read by position: the caller's own position in it is its business.
    File(&'s File),
    /// Exactly the bundle's bytes, once.
    Stream(&'s mut dyn Read),
}

impl Source<'_> {
    fn read(&mut self, into: &mut [u8], position: u64) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(into, position),
            Self::Stream(stream) => stream.read(into),
        }
    }
}

/// Told how far it is; answers whether to go on.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(&'static str, u64) -> bool;

impl Admission {
    /// Checks `bundle` and admits it. Blocks: for a blocking thread.
    pub(crate) fn run(
        &self,
        vault: &Vault,
        keyring: &Keyring,
        bundle: Source<'_>,
        progress: Progress<'_>,
    ) -> Result<(), OtaError> {
        match self.prepare(vault, keyring, bundle, progress)? {
            Some(record) => vault.admit(&self.update, &self.ecu, self.purpose, &record),
            None => Ok(()),
        }
    }

    /// Everything but the record that admits it; `None` if it is admitted already. A file without a record is swept away.
    pub(crate) fn prepare(
        &self,
        vault: &Vault,
        keyring: &Keyring,
        bundle: Source<'_>,
        progress: Progress<'_>,
    ) -> Result<Option<Record>, OtaError> {
        self.check_floor()?;
        if vault
            .find(&self.update, &self.ecu, self.purpose)?
            .is_some_and(|record| record.sha256 == self.expected.sha256)
        {
            return Ok(None);
        }
        if vault.holds(&self.expected.sha256)? {
            // The same file for a second ECU: what is in the store was hashed on its way in, and is judged again.
            let record = self.placeholder();
            return self.judge(vault.open_bundle(&record)?, keyring, progress).map(Some);
        }
        self.take_in(vault, keyring, bundle, progress).map(Some)
    }

    fn take_in(
        &self,
        vault: &Vault,
        keyring: &Keyring,
        mut bundle: Source<'_>,
        progress: Progress<'_>,
    ) -> Result<Record, OtaError> {
        if let Source::File(file) = &bundle {
            self.check_length(file)?;
        }
        let name = format!("{}-{}-{}", self.update, self.ecu, self.purpose.as_str());
        let (mut copy, path) = vault.begin(&name, self.expected.length)?;
        let result = self
            .copy(&mut bundle, &mut copy, progress)
            .and_then(|()| reopen(&path))
            .and_then(|file| self.judge(file, keyring, progress))
            .and_then(|record| vault.keep(&path, &self.expected.sha256).map(|()| record));
        if result.is_err() {
            // Found at the next start if this fails.
            let _ = std::fs::remove_file(&path);
        }
        result
    }

    fn check_floor(&self) -> Result<(), OtaError> {
        if self.expected.counter < self.floor {
            let text = format!("{}: release counter {}, the floor is {}", self.ecu, self.expected.counter, self.floor);
            return Err(OtaError::BelowFloor(text));
        }
        Ok(())
    }

    /// Before a byte is copied: a pipe or a device has no end that could be known.
    fn check_length(&self, bundle: &File) -> Result<(), OtaError> {
        let found = bundle.metadata().map_err(|error| refusal::io("looking at the bundle", &error))?;
        if !found.is_file() {
            return Err(OtaError::InvalidArgument("the descriptor is not a regular file".to_owned()));
        }
        if found.len() != self.expected.length {
            let text = format!("{}: {} bytes, {} were decided", self.expected.name, found.len(), self.expected.length);
            return Err(OtaError::LengthMismatch(text));
        }
        Ok(())
    }

    fn copy(&self, from: &mut Source<'_>, to: &mut File, progress: Progress<'_>) -> Result<(), OtaError> {
        let (mut sha256, mut sha512) = (Sha256Writer::new(), Sha512::new());
        let mut buffer = vec![0; CHUNK];
        let mut position = 0;
        while position < self.expected.length {
            let left = usize::try_from(self.expected.length - position).unwrap_or(CHUNK).min(CHUNK);
            let Some(window) = buffer.get_mut(..left) else { break };
            let count = from.read(window, position).map_err(|error| refusal::reading(&error))?;
            let bytes = window.get(..count).filter(|bytes| !bytes.is_empty());
            let Some(bytes) = bytes else {
                return Err(OtaError::LengthMismatch(format!("{} ended at byte {position}", self.expected.name)));
            };
            sha256.update(bytes);
            sha512.update(bytes);
            to.write_all(bytes).map_err(|error| refusal::io("copying the bundle", &error))?;
            position += count as u64;
            if !progress("copying", position) {
                return Err(OtaError::Cancelled(format!("{} was being admitted", self.expected.name)));
            }
        }
        self.check_hashes(sha256.finish(), &hex::encode(sha512.finalize()))?;
        to.sync_all().map_err(|error| refusal::io("flushing the copy", &error))
    }

    /// Every hash that the decision lists.
    fn check_hashes(&self, sha256: Digest, sha512: &str) -> Result<(), OtaError> {
        if sha256 != self.expected.sha256 {
            let text = format!("{}: SHA-256 is {sha256}, {} was decided", self.expected.name, self.expected.sha256);
            return Err(OtaError::HashMismatch(text));
        }
        if self.expected.sha512.as_ref().is_some_and(|expected| expected != sha512) {
            return Err(OtaError::HashMismatch(format!(
                "{}: SHA-512 is not the one that was decided",
                self.expected.name
            )));
        }
        Ok(())
    }

    /// Signature, manifest and every block of the file that will be installed.
    fn judge(&self, file: File, keyring: &Keyring, progress: Progress<'_>) -> Result<Record, OtaError> {
        let reader = BundleReader::open(file, keyring, self.now).map_err(|error| refusal::bundle(&error))?;
        let info = reader.info();
        if info.manifest_hash != self.expected.manifest_hash {
            let text = format!("{}: manifest hash {} was not decided", self.expected.name, info.manifest_hash);
            return Err(OtaError::ManifestMismatch(text));
        }
        let meta = reader.meta().map_err(|error| refusal::bundle(&error))?;
        if meta.hardware != self.expected.hardware {
            let text = format!(
                "{} is made for {}, {} is {}",
                self.expected.name, meta.hardware, self.ecu, self.expected.hardware
            );
            return Err(OtaError::BadHardwareId(text));
        }
        if (meta.release_counter, &meta.version) != (self.expected.counter, &self.expected.version) {
            let text = format!("{} says version {} ({})", self.expected.name, meta.version, meta.release_counter);
            return Err(OtaError::ManifestMismatch(text));
        }
        if (meta.kind == pitstop_bundle::Kind::Tcu) != self.ecu.is_tcu() {
            return Err(OtaError::ManifestMismatch(format!(
                "{} is not of the kind that {} takes",
                self.expected.name, self.ecu
            )));
        }
        let mut go_on = true;
        reader.check_blocks(|done| go_on &= progress("checking", done)).map_err(|error| refusal::bundle(&error))?;
        reader.check_files().map_err(|error| refusal::bundle(&error))?;
        if !go_on {
            return Err(OtaError::Cancelled(format!("{} was being admitted", self.expected.name)));
        }
        Ok(Record { verity_root: info.verity.params().root, ..self.placeholder() })
    }

    fn placeholder(&self) -> Record {
        Record {
            sha256: self.expected.sha256,
            length: self.expected.length,
            verity_root: Digest::from_bytes([0; 32]),
            hardware: self.expected.hardware.clone(),
            counter: self.expected.counter,
            manifest_hash: self.expected.manifest_hash,
            version: self.expected.version.clone(),
            admitted_at: self.now,
        }
    }
}

/// The copy again, without the right to write.
fn reopen(path: &Path) -> Result<File, OtaError> {
    File::open(path).map_err(|error| refusal::io("opening the copy", &error))
}
