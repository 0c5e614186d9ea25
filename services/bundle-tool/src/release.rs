//! What a person writes to have an ECU bundle made: a short TOML file.
//!
//! ```toml
//! hardware = "bcm-a1"
//! version = "2.0.0"
//! software_number = "PS-BCM-0001"
//! release_counter = 2
//! identity_address = 0x0800_0000
//! replaces = []                      # software numbers this may replace; empty or left out: any
//!
//! [[firmware]]
//! file = "fw_jump.bin"               # beside this file, or an absolute path
//! address = 0x0801_0000
//! ```

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pitstop_bundle_io::build::EcuSoftware;
use pitstop_types::{HardwareId, ReleaseCounter, SoftwareVersion};
use serde::Deserialize;

/// Longest piece of firmware taken, bytes: far above any ECU's flash, far below what would hurt.
const MAX_FIRMWARE: u64 = 512 << 20;

/// The description of one ECU's release.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    pub software_number: String,
    pub release_counter: u32,
    pub identity_address: u32,
    #[serde(default)]
    pub replaces: Vec<String>,
    pub firmware: Vec<Firmware>,
}

/// One file of firmware and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    pub file: PathBuf,
    pub address: u32,
}

impl Release {
    /// Reads the description at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a release description", path.display()))
    }

    /// Reads the firmware files; relative names are meant from `folder`.
    pub fn load(self, folder: &Path) -> anyhow::Result<EcuSoftware> {
        let mut firmware = Vec::new();
        for piece in self.firmware {
            let path = folder.join(&piece.file);
            let length = std::fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len();
            anyhow::ensure!(
                length <= MAX_FIRMWARE,
                "{} has {length} bytes, at most {MAX_FIRMWARE} are taken",
                path.display()
            );
            firmware
                .push((piece.address, std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
        }
        Ok(EcuSoftware {
            hardware: self.hardware,
            version: self.version,
            counter: ReleaseCounter(self.release_counter.into()),
            software_number: self.software_number,
            replaces: self.replaces,
            identity_address: self.identity_address,
            firmware,
        })
    }
}
