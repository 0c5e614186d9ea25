//! What of a squashfs superblock is looked at before the squashfs reader allocates by it.

use pitstop_bundle::layout::SQUASHFS_MAGIC;

use crate::error::BundleError;
use crate::reader::Limits;

/// Length of a squashfs 4.0 superblock in bytes.
pub(crate) const SUPERBLOCK_LEN: usize = 96;
/// Compressor id of gzip, RAUC's and our own choice; the reader is built with no other.
const GZIP: u16 = 1;

/// Refuses an image of another version or compressor, with more inodes than allowed, or longer than the data.
pub(crate) fn check(superblock: &[u8; SUPERBLOCK_LEN], data_len: u64, limits: &Limits) -> Result<(), BundleError> {
    let u16_at = |at: usize| superblock.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    let u32_at = |at: usize| superblock.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let u64_at = |at: usize| superblock.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    if !superblock.starts_with(SQUASHFS_MAGIC) {
        return Err(BundleError::Squashfs("it has no squashfs superblock".into()));
    }
    if (u16_at(28), u16_at(30)) != (4, 0) {
        return Err(BundleError::Squashfs(format!("its version is {}.{}, only 4.0 is read", u16_at(28), u16_at(30))));
    }
    if u16_at(20) != GZIP {
        return Err(BundleError::Squashfs(format!("its compressor is {}, only gzip is read", u16_at(20))));
    }
    let (block_size, block_log) = (u32_at(12), u16_at(22));
    if !(12..=20).contains(&block_log) || block_size != 1 << block_log {
        return Err(BundleError::Squashfs(format!("its block size is {block_size}")));
    }
    let limit = |what, found: u64, limit: u64| {
        if found > limit { Err(BundleError::Limit { what, found, limit }) } else { Ok(()) }
    };
    // One inode is the root folder.
    limit("a number of files", u64::from(u32_at(4)), limits.files + 1)?;
    limit("a number of fragments", u64::from(u32_at(16)), limits.files)?;
    limit("a number of owners", u64::from(u16_at(26)), limits.files)?;
    limit("a squashfs length", u64_at(40), data_len)
}
