//! The file: `[payload][CMS, DER][8 bytes: length of the CMS, big endian]`.

use crate::verity::BLOCK;

/// Bytes at the end of the file that tell the CMS structure's length.
pub const TAIL_LEN: u64 = 8;
/// Longest CMS structure read: RAUC's own default for `max-bundle-signature-size`.
pub const MAX_CMS_LEN: u64 = 64 * 1024;
/// First bytes of a squashfs image.
pub const SQUASHFS_MAGIC: &[u8; 4] = b"hsqs";

/// Where the parts of a bundle file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Data and hash tree, from offset 0; a multiple of [`BLOCK`].
    pub payload_len: u64,
    /// Length of the CMS structure, which begins at `payload_len`.
    pub cms_len: u64,
}

/// Why a file is no bundle, judged from its length and its last bytes alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("a file of {0} bytes is too short for a bundle")]
    TooShort(u64),
    #[error("the bundle is {length} bytes long, at most {limit} are taken")]
    TooLong { length: u64, limit: u64 },
    #[error("the bundle has no signature")]
    NoSignature,
    #[error("the bundle claims a signature of {claimed} bytes, at most {MAX_CMS_LEN} are read")]
    SignatureTooLong { claimed: u64 },
    #[error("the bundle claims a signature of {claimed} bytes in a file of {length}")]
    SignatureBeyondFile { claimed: u64, length: u64 },
    #[error("the payload of {0} bytes is not a whole number of {BLOCK}-byte blocks")]
    Unaligned(u64),
}

impl Layout {
    /// Works out the parts of a file of `file_len` bytes whose last eight are `tail`; files over `max_len` are refused.
    pub fn read(file_len: u64, tail: [u8; 8], max_len: u64) -> Result<Self, LayoutError> {
        if file_len > max_len {
            return Err(LayoutError::TooLong { length: file_len, limit: max_len });
        }
        let body = file_len.checked_sub(TAIL_LEN).filter(|&n| n > 0).ok_or(LayoutError::TooShort(file_len))?;
        let cms_len = u64::from_be_bytes(tail);
        if cms_len == 0 {
            return Err(LayoutError::NoSignature);
        }
        if cms_len > MAX_CMS_LEN {
            return Err(LayoutError::SignatureTooLong { claimed: cms_len });
        }
        let beyond = LayoutError::SignatureBeyondFile { claimed: cms_len, length: file_len };
        let payload_len = body.checked_sub(cms_len).ok_or(beyond)?;
        if payload_len == 0 {
            return Err(LayoutError::TooShort(file_len));
        }
        if !payload_len.is_multiple_of(BLOCK as u64) {
            return Err(LayoutError::Unaligned(payload_len));
        }
        Ok(Self { payload_len, cms_len })
    }

    /// The last eight bytes of the file.
    pub fn tail(&self) -> [u8; 8] {
        self.cms_len.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn false_claims_have_names() {
        let limit = 1 << 30;
        let read = |len, claim: u64| Layout::read(len, claim.to_be_bytes(), limit);
        assert_eq!(read(0, 1), Err(LayoutError::TooShort(0)));
        assert_eq!(read(8, 1), Err(LayoutError::TooShort(8)));
        assert_eq!(read(20_000, 0), Err(LayoutError::NoSignature));
        assert_eq!(read(20_000, 10_000_000_000), Err(LayoutError::SignatureTooLong { claimed: 10_000_000_000 }));
        assert_eq!(read(20_000, u64::MAX), Err(LayoutError::SignatureTooLong { claimed: u64::MAX }));
        assert_eq!(read(20_000, 30_000), Err(LayoutError::SignatureBeyondFile { claimed: 30_000, length: 20_000 }));
        assert_eq!(read(20_000, 1000), Err(LayoutError::Unaligned(18_992)));
        assert_eq!(read(10_000_000_000, 1000), Err(LayoutError::TooLong { length: 10_000_000_000, limit }));
        assert_eq!(read(8192 + 1000 + 8, 1000), Ok(Layout { payload_len: 8192, cms_len: 1000 }));
    }

    proptest! {
        #[test]
        fn parts_fill_the_file_exactly(len in any::<u64>(), tail in any::<[u8; 8]>()) {
            if let Ok(layout) = Layout::read(len, tail, u64::MAX) {
                prop_assert_eq!(layout.payload_len + layout.cms_len + TAIL_LEN, len);
                prop_assert_eq!(layout.tail(), tail);
            }
        }

        #[test]
        fn honest_files_are_taken(blocks in 1u64..1_000_000, cms in 1..=MAX_CMS_LEN) {
            let len = blocks * 4096 + cms + 8;
            prop_assert_eq!(Layout::read(len, cms.to_be_bytes(), u64::MAX), Ok(Layout { payload_len: blocks * 4096, cms_len: cms }));
        }
    }
}
