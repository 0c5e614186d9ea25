//! Uptane for Pitstop: what this vehicle may install, and who says so. No I/O, no clock.
//!
//! Two sides meet here on one set of types:
//!
//! - the vehicle (`validator`): [`Verification`] says which metadata file it wants next, takes it, checks it, and ends in a
//!   [`Verified`] outcome that nothing else can make; [`ManifestBuilder`] makes the signed vehicle version manifest;
//! - the backend: constructors on [`Root`], [`Timestamp`], [`Snapshot`] and [`Targets`], [`sign`] and a [`Signer`] make the files,
//!   [`check_manifest`] judges what a vehicle reports.
//!
//! Read in this order: [`metadata`] (the files), [`strict`] and [`canonical`] (their bytes), [`key`] and [`envelope`] (their
//! signatures), `repository` and `checks` (one repository's four roles), `verification` (both repositories together),
//! `pairing` (from signed targets to a decision), `offline` (the same without a network), [`manifest`].
//!
//! Sources: the Uptane standard 2.1.0 and the TUF specification 1.0; the format is TUF's JSON with OLPC canonical JSON, so that
//! TUF tools read both repositories.

pub mod canonical;
pub mod envelope;
pub mod error;
pub mod key;
pub mod manifest;
pub mod metadata;
pub mod sign;
pub mod strict;
pub mod time;

mod checks;
mod delegation;
mod offline;
mod pairing;
mod repository;
mod verification;
mod verified;

pub use envelope::{Envelope, SignedFile, sign};
pub use error::{At, VerifyError};
pub use key::{KeyError, KeyId, PublicKey, Scheme};
pub use manifest::{
    CheckedManifest, EcuVersionReport, InstalledImage, Inventory, InventoryEcu, ManifestBuilder, ManifestError,
    VehicleManifest, check_manifest,
};
pub use metadata::{
    BuildError, Delegation, DirectorTarget, EcuPairing, ImageTarget, Metadata, OfflineSnapshot, OfflineTargets, Order,
    PairingRole, Repository, Role, Root, RootBuilder, ShallMatch, Snapshot, TargetEntry, Targets, Timestamp,
};
pub use offline::{OfflineFiles, verify_offline};
pub use pairing::{MAX_INSTALL_AHEAD, Vehicle};
pub use repository::{Files, MAX_DELEGATED, MAX_IMAGE_TARGETS, MAX_SMALL};
pub use sign::{MemorySigner, SignError, Signer};
pub use time::Time;
pub use verification::{Approval, Fetch, Generation, Verification};
pub use verified::Verified;
