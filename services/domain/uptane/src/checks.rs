//! Checks on one file: form, signatures, and what its parent says of it.

use pitstop_types::{Digest, UnixSeconds};

use crate::metadata::{FileMeta, Metadata, Repository};
use crate::{At, Envelope, PublicKey, VerifyError};

pub(crate) fn at(repository: Repository, role: &str) -> At {
    At { repository, role: role.to_owned() }
}

/// Reads a file's form and sense; says nothing of its signatures.
pub(crate) fn read<M: Metadata>(at: &At, bytes: &[u8], limit: usize) -> Result<M, VerifyError> {
    read_from(at, Envelope::parse(bytes, limit).map_err(|error| error.at(at))?)
}

fn read_from<M: Metadata>(at: &At, envelope: Envelope) -> Result<M, VerifyError> {
    let file: M = serde_json::from_value(envelope.into_signed())
        .map_err(|error| VerifyError::malformed(at, error.to_string()))?;
    file.check().map_err(|error| VerifyError::malformed(at, error.to_string()))?;
    Ok(file)
}

/// Reads a file that `threshold` of `keys` have signed. Signatures are judged before the content is.
pub(crate) fn open<M: Metadata>(
    at: &At,
    bytes: &[u8],
    limit: usize,
    keys: &[PublicKey],
    threshold: u64,
) -> Result<M, VerifyError> {
    let envelope = Envelope::parse(bytes, limit).map_err(|error| error.at(at))?;
    envelope.require(at, keys, threshold)?;
    read_from(at, envelope)
}

/// Metadata is JSON, so UTF-8; kept as text.
pub(crate) fn utf8(at: &At, bytes: Vec<u8>) -> Result<String, VerifyError> {
    String::from_utf8(bytes).map_err(|_| VerifyError::malformed(at, "it is not UTF-8"))
}

/// Length and hash as the parent lists them.
pub(crate) fn matches(at: &At, bytes: &[u8], listed: &FileMeta) -> Result<(), VerifyError> {
    if listed.length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(VerifyError::mixed(at, format!("it is {} bytes long, not as its parent lists", bytes.len())));
    }
    let found = Digest::of(bytes);
    match &listed.hashes {
        Some(hashes) if hashes.sha256 != found => Err(VerifyError::hash(at, found)),
        _ => Ok(()),
    }
}

pub(crate) fn same_version(at: &At, version: u64, listed: &FileMeta) -> Result<(), VerifyError> {
    if version == listed.version.get() {
        return Ok(());
    }
    Err(VerifyError::mixed(at, format!("it is version {version}, its parent lists {}", listed.version)))
}

pub(crate) fn not_expired<M: Metadata>(at: &At, file: &M, now: UnixSeconds) -> Result<(), VerifyError> {
    let expires = file.expires();
    if expires.unix() <= now { Err(VerifyError::Expired { at: at.clone(), expires }) } else { Ok(()) }
}

/// The file name and the largest length of a file that `listed` describes.
pub(crate) fn versioned(role: impl std::fmt::Display, listed: &FileMeta, limit: usize) -> (String, usize) {
    let length = listed.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(limit);
    (format!("{}.{role}.json", listed.version), length.min(limit))
}

pub(crate) fn not_older(at: &At, version: u64, known: u64) -> Result<(), VerifyError> {
    if version < known { Err(VerifyError::Rollback { at: at.clone(), version, known }) } else { Ok(()) }
}
