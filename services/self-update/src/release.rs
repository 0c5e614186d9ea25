//! What a slot holds, in the words of its own file system: `/etc/pitstop-release`.
//!
//! Lines `KEY=VALUE` as in os-release(5), without quotes: `SOFTWARE_NUMBER` (DID F188), `VERSION` (DID F189), `COUNTER` (release
//! counter), `HARDWARE` (hardware id). Other keys are left alone.

use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use pitstop_types::{HardwareId, ReleaseCounter, SoftwareVersion};

/// Where it lies in a slot.
pub const PATH: &str = "/etc/pitstop-release";
/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 4096;
/// Longest software number, as in DID F188.
const MAX_SOFTWARE_NUMBER: usize = 24;

/// A slot's own description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub software_number: String,
    pub version: SoftwareVersion,
    pub counter: ReleaseCounter,
    pub hardware: HardwareId,
}

/// Why a slot does not say what it holds.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("the slot has no readable ext4 file system")]
    FileSystem(#[from] Box<Ext4Error>),
    #[error("{PATH} is {0} bytes long, more than {MAX_LEN}")]
    TooLong(u64),
    #[error("{PATH} is not text")]
    Text,
    #[error("{PATH} has no valid {0}")]
    Field(&'static str),
}

impl Release {
    /// Reads the file out of the ext4 image in a file or on a device, without mounting it.
    pub fn of_slot(device: &Path) -> Result<Self, ReleaseError> {
        let boxed = |error| ReleaseError::FileSystem(Box::new(error));
        let file = std::fs::File::open(device).map_err(|error| boxed(Ext4Error::Io(Box::new(error))))?;
        let slot = Ext4::load(Box::new(SlotBytes(file))).map_err(boxed)?;
        let length = slot.metadata(PATH).map_err(boxed)?.len();
        if length > MAX_LEN {
            return Err(ReleaseError::TooLong(length));
        }
        let bytes = slot.read(PATH).map_err(boxed)?;
        Self::parse(std::str::from_utf8(&bytes).map_err(|_| ReleaseError::Text)?)
    }

    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let field = |name: &'static str| {
            let value = text.lines().filter_map(|line| line.split_once('=')).rfind(|(key, _)| *key == name);
            value.map(|(_, value)| value.trim()).ok_or(ReleaseError::Field(name))
        };
        let software_number = field("SOFTWARE_NUMBER")?.to_owned();
        let printable = software_number.bytes().all(|byte| byte.is_ascii_graphic());
        if software_number.is_empty() || software_number.len() > MAX_SOFTWARE_NUMBER || !printable {
            return Err(ReleaseError::Field("SOFTWARE_NUMBER"));
        }
        Ok(Self {
            software_number,
            version: SoftwareVersion::new(field("VERSION")?).map_err(|_| ReleaseError::Field("VERSION"))?,
            counter: ReleaseCounter(field("COUNTER")?.parse().map_err(|_| ReleaseError::Field("COUNTER"))?),
            hardware: HardwareId::new(field("HARDWARE")?).map_err(|_| ReleaseError::Field("HARDWARE"))?,
        })
    }
}

/// A slot's bytes for the file system's reader.
struct SlotBytes(std::fs::File);

impl Ext4Read for SlotBytes {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(into, start)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn text(version: &str, counter: u64) -> String {
        format!("SOFTWARE_NUMBER=TCU-SW-001\nVERSION={version}\nCOUNTER={counter}\nHARDWARE=tcu-a1\nBUILD=x\n")
    }

    /// A small ext4 image that says `version`, made by mkfs.ext4 as `cargo xtask` makes it.
    pub(crate) fn ext4(folder: &Path, version: &str, counter: u64) -> std::path::PathBuf {
        let tree = folder.join(format!("tree-{version}"));
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/pitstop-release"), text(version, counter)).unwrap();
        // Does not compress, so that the bundle's blocks hold it.
        let noise = std::iter::successors(Some(1_u32), |x| {
            let x = x ^ (x << 13);
            let x = x ^ (x >> 17);
            Some(x ^ (x << 5))
        });
        std::fs::write(tree.join("noise"), noise.take(100_000).map(|x| x as u8).collect::<Vec<u8>>()).unwrap();
        let image = folder.join(format!("rootfs-{version}.ext4"));
        let made = std::process::Command::new("mkfs.ext4")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "-F", "-d"])
            .args([&tree, &image])
            .arg("512k")
            .output()
            .expect("mkfs.ext4 of e2fsprogs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        image
    }

    #[test]
    fn a_slots_version_is_read_out_of_its_own_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let release = Release::of_slot(&ext4(folder.path(), "1.4.0", 7)).unwrap();
        assert_eq!((release.version.as_str(), release.counter), ("1.4.0", ReleaseCounter(7)));
        assert_eq!(release.software_number, "TCU-SW-001");
    }

    #[test]
    fn a_slot_without_file_system_or_with_a_bad_file_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, vec![0; 65536]).unwrap();
        assert!(matches!(Release::of_slot(&empty), Err(ReleaseError::FileSystem(_))));
        assert!(matches!(Release::parse("VERSION=1"), Err(ReleaseError::Field("SOFTWARE_NUMBER"))));
        assert!(matches!(Release::parse(&text("a b", 1)), Err(ReleaseError::Field("VERSION"))));
        assert!(matches!(
            Release::parse(&text("1", 1).replace("COUNTER=1", "COUNTER=-1")),
            Err(ReleaseError::Field("COUNTER"))
        ));
    }
}
