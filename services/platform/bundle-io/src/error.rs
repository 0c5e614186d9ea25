use std::io;

use pitstop_bundle::layout::LayoutError;
use pitstop_bundle::verity::CheckError;
use pitstop_bundle::{DescriptionError, ManifestError, VerityError};

use crate::keyring::SignatureError;

/// Why a bundle is not taken. Nothing of its content has been handed out as good when one of these comes.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("reading the bundle")]
    Io(#[source] io::Error),
    #[error("the bundle is not a regular file")]
    NotAFile,
    #[error("the bundle's layout is wrong")]
    Layout(#[from] LayoutError),
    #[error("the bundle's signature is refused")]
    Signature(#[from] SignatureError),
    #[error("the bundle's manifest is refused")]
    Manifest(#[from] ManifestError),
    #[error("the bundle's content is not what was signed")]
    Verity(#[from] VerityError),
    #[error("the bundle's squashfs is refused: {0}")]
    Squashfs(String),
    #[error("the bundle has {what} of {found}, at most {limit} are taken")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("the bundle has no file {0}")]
    NoFile(String),
    #[error("the bundle has no [meta.pitstop], which says what it is for")]
    NoMeta,
    #[error("the ECU payload's description is refused")]
    Description(#[from] DescriptionError),
    #[error("file {0} is not what the manifest says")]
    Image(String),
}

impl BundleError {
    /// The named D-Bus error (without prefix) that says the same.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Io(_) => "Storage",
            Self::Signature(SignatureError::TimeUnknown) => "TimeUnknown",
            Self::Signature(_) => "BadSignature",
            Self::Verity(_) | Self::Image(_) => "HashMismatch",
            _ => "BadBundle",
        }
    }

    /// The error and what caused it, in one line.
    pub fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }

    /// Finds a refused block again in an error that has passed through `std::io` or the squashfs reader.
    pub(crate) fn from_io(error: io::Error) -> Self {
        let found = error.get_ref().and_then(|e| e.downcast_ref::<CheckError<io::Error>>());
        match found {
            Some(CheckError::Verity(v)) => Self::Verity(v.clone()),
            _ if error.kind() == io::ErrorKind::InvalidData => Self::Squashfs(error.to_string()),
            _ => Self::Io(error),
        }
    }

    pub(crate) fn from_squashfs(error: backhand::BackhandError) -> Self {
        match error {
            backhand::BackhandError::StdIo(io) => Self::from_io(io),
            // Its text may quote what it read; a line of it is enough.
            other => Self::Squashfs(other.to_string().chars().take(200).collect()),
        }
    }
}
