//! The one seam through which services persist small things.
//!
//! [`Storage`] is what a service is given: [`FileStorage`] in a vehicle, [`cut::CutStorage`] in tests that take the power away
//! at every write. On top of it stand [`Document`] (one value, replaced whole) and [`ChainedLog`] (append only, each entry
//! carrying the hash of the one before). When a call returns `Ok`, what it wrote survives a power cut.

mod chain;
pub mod cut;
mod document;
mod file;

pub use chain::{ChainEntry, ChainState, ChainedLog};
pub use document::{Document, MAX_DOCUMENT_BYTES};
pub use file::FileStorage;

/// Small durable files, by name.
///
/// A name is one or more segments of `a-z 0-9 . _ -` joined by `/`; a segment does not start with a dot.
pub trait Storage: Send + Sync {
    /// The whole content, or `None` if there is no such file.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Puts `bytes` in the place of the file: after a power cut either all of the old or all of the new content is there.
    /// More than [`MAX_DOCUMENT_BYTES`] are refused, and the old content stays.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    /// Adds `bytes` at the end. After a power cut a part of them may be there. A file that would then be longer than
    /// [`MAX_DOCUMENT_BYTES`] is left as it is.
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    /// Takes the file away; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), StoreError>;
    /// Names of all files whose name starts with `prefix`, in order.
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError>;
}

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0:?} is not a name of a stored file")]
    Name(String),
    #[error("{action} {name}")]
    Io { action: &'static str, name: String, source: std::io::Error },
    #[error("{name} is damaged: {reason}")]
    Damaged { name: String, reason: String },
    #[error("{name} has format {found}, this release reads up to {known}")]
    Format { name: String, found: u32, known: u32 },
    #[error("{name} is {length} bytes long, more than {limit}")]
    TooLarge { name: String, length: u64, limit: u64 },
    #[error("encoding {name}")]
    Encode { name: String, source: serde_json::Error },
    /// Only in tests: the power is off.
    #[error("the power is off")]
    PowerCut,
}

/// Refuses a file that is longer than what is read back.
pub(crate) fn check_length(name: &str, length: u64) -> Result<(), StoreError> {
    if length > MAX_DOCUMENT_BYTES {
        return Err(StoreError::TooLarge { name: name.to_owned(), length, limit: MAX_DOCUMENT_BYTES });
    }
    Ok(())
}

pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    let good = name.len() <= 200
        && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(legal));
    if good { Ok(()) } else { Err(StoreError::Name(name.to_owned())) }
}
