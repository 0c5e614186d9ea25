//! One copy of GRUB's environment block on a file system that GRUB can read and write.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_SYNC};
use pitstop_slots::ENV_SIZE;

/// One place that holds the 1024 bytes. A trait, so that tests can cut the power inside a write.
pub trait BlockCopy {
    /// All bytes there are; at most a few more than a block, however long the file is.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Overwrites the block where it lies; durable when it returns.
    fn overwrite(&self, block: &[u8; ENV_SIZE]) -> io::Result<()>;
}

/// A file. It is never renamed and never truncated: GRUB reads the blocks the file had when it last looked at the file
/// system, ext4's journal is not replayed by GRUB, and a rename on FAT is not atomic.
#[derive(Debug, Clone)]
pub struct FileCopy {
    path: PathBuf,
}

impl FileCopy {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A missing file has nothing to lose: it is made under its own name, then its directory is made durable.
    fn create(&self, block: &[u8; ENV_SIZE]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(&self.path)?;
        file.write_all(block)?;
        file.sync_all()?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl BlockCopy for FileCopy {
    fn read(&self) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(&self.path)?;
        let mut bytes = Vec::with_capacity(ENV_SIZE);
        file.take(ENV_SIZE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn overwrite(&self, block: &[u8; ENV_SIZE]) -> io::Result<()> {
        let file = match OpenOptions::new().write(true).custom_flags(O_SYNC | O_NOFOLLOW).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(block),
            opened => opened?,
        };
        // A file of another length was never one of ours; only then may its length change.
        if file.metadata()?.len() != ENV_SIZE as u64 {
            file.set_len(ENV_SIZE as u64)?;
        }
        file.write_all_at(block, 0)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn overwriting_keeps_the_file_and_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let copy = FileCopy::new(folder.path().join("grubenv"));
        copy.overwrite(&[b'a'; ENV_SIZE]).unwrap();
        let before = std::fs::metadata(copy.path()).unwrap();
        copy.overwrite(&[b'b'; ENV_SIZE]).unwrap();
        let after = std::fs::metadata(copy.path()).unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
        assert_eq!(copy.read().unwrap(), [b'b'; ENV_SIZE]);
    }

    #[test]
    fn a_link_is_not_followed_and_a_long_file_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, vec![0; 100_000]).unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join("grubenv")).unwrap();
        let copy = FileCopy::new(folder.path().join("grubenv"));
        assert!(copy.read().is_err() && copy.overwrite(&[0; ENV_SIZE]).is_err());
        assert_eq!(FileCopy::new(&target).read().unwrap().len(), ENV_SIZE + 1);
    }
}
