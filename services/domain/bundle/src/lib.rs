//! What a bundle is, without any I/O: RAUC's `verity` format, and what Pitstop adds to it.
//!
//! A bundle is one signed file that carries one ECU's software. Read the modules in the order in which a reader meets the bytes:
//! [`layout`] (payload, CMS, length), [`signed_data`] (the shape of the CMS structure), [`keyfile`] and [`manifest`] (the signed text),
//! [`verity`] (each block against the hash tree), [`description`] (an ECU payload's segments), [`identity`] (the block in the ECU's
//! memory that tells which software it runs), [`package`] (a bundle and its metadata in one file, for workshops). `pitstop-bundle-io` joins them to files, OpenSSL and squashfs.

pub mod description;
pub mod identity;
pub mod keyfile;
pub mod layout;
pub mod manifest;
pub mod package;
pub mod signed_data;
pub mod verity;

pub use description::{Description, DescriptionError, Segment};
pub use identity::{IDENTITY_LEN, IdentityBlock, IdentityError};
pub use layout::{Layout, LayoutError};
pub use manifest::{Kind, Manifest, ManifestError, PitstopMeta};
pub use verity::{BLOCK, TreeBuilder, Verity, VerityError, VerityParams};
