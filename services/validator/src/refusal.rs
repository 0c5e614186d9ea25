//! Errors of the layers below under the names that the bus knows.

use pitstop_bundle::package::PackageError;
use pitstop_bundle_io::BundleError;
use pitstop_dbus::OtaError;
use pitstop_store::StoreError;
use pitstop_tpm::floor::FloorError;
use pitstop_uptane::{SignError, VerifyError};

/// The named error for metadata that is refused. The text names file, key and version.
pub(crate) fn metadata(error: &VerifyError) -> OtaError {
    let text = error.to_string();
    match error {
        VerifyError::Unsigned { .. } | VerifyError::UnmetThreshold { .. } | VerifyError::BadKeyId { .. } => {
            OtaError::UnmetThreshold(text)
        }
        VerifyError::Expired { .. } | VerifyError::InstallBy { .. } => OtaError::MetadataExpired(text),
        VerifyError::Rollback { .. } => OtaError::MetadataRollback(text),
        VerifyError::ImageRollback { .. } | VerifyError::OlderImage { .. } => OtaError::BelowFloor(text),
        VerifyError::MixAndMatch { .. } => OtaError::MixAndMatch(text),
        VerifyError::TargetMismatch { .. } => OtaError::TargetMismatch(text),
        VerifyError::BadHardwareId { .. } => OtaError::BadHardwareId(text),
        VerifyError::BadEcuId { .. } => OtaError::BadEcuId(text),
        VerifyError::Oversized { .. } => OtaError::Oversized(text),
        VerifyError::Replay { .. } => OtaError::Replay(text),
        VerifyError::TimeUnknown => OtaError::TimeUnknown(text),
        VerifyError::Missing { .. } => OtaError::NotFound(text),
        VerifyError::RepositoryConfusion { .. } | VerifyError::Malformed { .. } => OtaError::MetadataMalformed(text),
        VerifyError::StoreCorrupt { .. } => OtaError::Storage(text),
        VerifyError::OutOfOrder => OtaError::Internal(text),
    }
}

pub(crate) fn bundle(error: &BundleError) -> OtaError {
    OtaError::from_name(error.name(), error.text())
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
pub(crate) fn store(error: StoreError) -> OtaError {
    OtaError::Storage(error.to_string())
}

pub(crate) fn io(doing: &str, error: &std::io::Error) -> OtaError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            OtaError::OutOfSpace(format!("{doing}: {error}"))
        }
        _ => OtaError::Storage(format!("{doing}: {error}")),
    }
}

pub(crate) fn floor(error: &FloorError) -> OtaError {
    match error {
        FloorError::Tpm(cause) => OtaError::NotReady(format!("{error}: {cause}")),
        _ => OtaError::Storage(error.to_string()),
    }
}

/// A bundle or package that comes from elsewhere: what breaks there is not our disk.
pub(crate) fn reading(error: &std::io::Error) -> OtaError {
    match error.kind() {
        std::io::ErrorKind::TimedOut => OtaError::Slow(error.to_string()),
        _ => OtaError::Storage(format!("reading the bundle: {error}")),
    }
}

/// What a package's form refuses.
pub(crate) fn package(error: &PackageError) -> OtaError {
    match error {
        PackageError::TooLarge(_) => OtaError::TooLarge(error.to_string()),
        _ => OtaError::BadBundle(error.to_string()),
    }
}

pub(crate) fn signing(error: &SignError) -> OtaError {
    OtaError::Tpm(error.to_string())
}
