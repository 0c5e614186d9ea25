//! The real things behind [`crate::ports`]: files and block devices, and the services on the bus.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::O_EXCL;
use pitstop_dbus::{AdmittedBundle, Answer, HmiProxy, Result, ValidatorProxy, VehicleStateProxy};
use pitstop_types::SlotName;
use zbus::Connection;
use zbus::proxy::CacheProperties;

use crate::ports::{Peers, SlotDevice, SlotDevices};

/// Slots as files or block devices.
pub struct SlotPaths(pub BTreeMap<SlotName, PathBuf>);

struct Slot(File);

impl SlotDevices for SlotPaths {
    fn open(&self, slot: &SlotName, booted: &SlotName) -> io::Result<Box<dyn SlotDevice>> {
        let path = |name| self.0.get(name).ok_or_else(|| io::Error::other(format!("slot {name} has no device")));
        let running = std::fs::metadata(path(booted)?)?;
        let target = std::fs::metadata(path(slot)?)?;
        // Two names for one device would be the end of the running system.
        if slot == booted || same(&running, &target) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("slot {slot} is the one that runs")));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if target.file_type().is_block_device() {
            // On a block device: refused while it is mounted.
            options.custom_flags(O_EXCL);
        }
        Ok(Box::new(Slot(options.open(path(slot)?)?)))
    }
}

fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    if a.file_type().is_block_device() && b.file_type().is_block_device() {
        a.rdev() == b.rdev()
    } else {
        a.dev() == b.dev() && a.ino() == b.ino()
    }
}

impl SlotDevice for Slot {
    fn capacity(&self) -> io::Result<u64> {
        // The end of a block device is where seeking says; its metadata has no length.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn read_at(&mut self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()?;
        // Otherwise reading back would only show the page cache. Clean pages are dropped; failing to do so is no harm.
        let _ = posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }
}

/// The other services on the bus.
pub struct BusPeers(pub Connection);

impl Peers for BusPeers {
    async fn open_admitted(&self, update: &str) -> Result<(File, AdmittedBundle)> {
        let validator = ValidatorProxy::new(&self.0).await?;
        let (bundle, description) = validator.open_admitted(update, "tcu", "target").await?;
        Ok((File::from(std::os::fd::OwnedFd::from(bundle)), description))
    }

    async fn check_safe(&self) -> Result<(bool, bool, String)> {
        VehicleStateProxy::new(&self.0).await?.check_safe().await
    }

    async fn request_inhibit(&self, update: &str) -> Result<()> {
        VehicleStateProxy::new(&self.0).await?.request_inhibit(update).await
    }

    async fn release_inhibit(&self, update: &str) -> Result<()> {
        VehicleStateProxy::new(&self.0).await?.release_inhibit(update).await
    }

    async fn inhibit_owners(&self) -> Result<Vec<String>> {
        let uncached = VehicleStateProxy::builder(&self.0).cache_properties(CacheProperties::No);
        Ok(uncached.build().await?.inhibit_owners().await?)
    }

    async fn answer(&self, update: &str) -> Result<Answer> {
        HmiProxy::new(&self.0).await?.get_answer(update).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    #[test]
    fn the_running_slot_is_not_opened_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, alias) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("alias"));
        std::fs::write(&a, [0; 4096]).unwrap();
        std::fs::write(&b, [0; 4096]).unwrap();
        std::fs::hard_link(&a, &alias).unwrap();
        let slots = |second: &PathBuf| SlotPaths(BTreeMap::from([(name("A"), a.clone()), (name("B"), second.clone())]));
        assert!(slots(&b).open(&name("A"), &name("A")).is_err());
        assert!(slots(&alias).open(&name("B"), &name("A")).is_err());
        let mut slot = slots(&b).open(&name("B"), &name("A")).unwrap();
        assert_eq!(slot.capacity().unwrap(), 4096);
        slot.write_at(b"new", 5).unwrap();
        slot.sync().unwrap();
        let mut read = [0; 3];
        slot.read_at(&mut read, 5).unwrap();
        assert_eq!(&read, b"new");
        assert!(slot.read_at(&mut read, 4095).is_err());
    }
}
