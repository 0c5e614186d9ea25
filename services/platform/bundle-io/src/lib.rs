//! Bundles as files: signature, squashfs and hash tree brought together.
//!
//! [`BundleReader::open`] is the only way to a bundle's content, and it checks before it shows: file layout, shape of the CMS structure,
//! signature and chain against a [`Keyring`] at a given time, the signed manifest. What is read afterwards passes through a [`window`] that
//! compares each 4 KiB block with the signed hash tree, in the memory that is then used. [`build`] makes such files, [`keys`] makes a
//! development authority for them. Everything here blocks: async callers use a blocking thread.

pub mod build;
pub mod cms;
mod error;
pub mod keyring;
pub mod keys;
mod reader;
mod superblock;
pub mod window;

pub use build::{Builder, BuiltBundle, Signer};
pub use error::BundleError;
pub use keyring::{Keyring, SignatureError, SignerInfo};
pub use reader::{BundleInfo, BundleReader, FileReader, Limits};
