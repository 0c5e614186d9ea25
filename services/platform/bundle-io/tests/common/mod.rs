//! What the tests of this crate share: an authority, a small ECU bundle.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it; a panic is the report")]

use std::fs::File;
use std::path::{Path, PathBuf};

use pitstop_bundle_io::build::{EcuSoftware, TcuSoftware};
use pitstop_bundle_io::keys::{Identity, Usage, identity};
use pitstop_bundle_io::{Builder, BuiltBundle, BundleError, BundleReader, Keyring, Signer};
use pitstop_types::{HardwareId, ReleaseCounter, SoftwareVersion};

/// 2026-01-01; certificates begin a day earlier.
pub const NOW: i64 = 1_767_225_600;

pub struct Authority {
    pub ca: Identity,
    pub signer: Identity,
}

impl Authority {
    pub fn new() -> Self {
        let ca = identity("Test authority", Usage::Authority, None, NOW - 86_400, 3650).unwrap();
        let signer = identity("Test signer", Usage::BundleSigner, Some(&ca), NOW - 86_400, 365).unwrap();
        Self { ca, signer }
    }

    pub fn keyring(&self) -> Keyring {
        Keyring::from_pem(&self.ca.certificate_pem().unwrap()).unwrap()
    }

    pub fn signer(&self) -> Signer {
        as_signer(&self.signer)
    }
}

pub fn as_signer(identity: &Identity) -> Signer {
    Signer { certificate: identity.certificate.clone(), key: identity.key.clone(), intermediates: Vec::new() }
}

/// Bytes that do not compress well, the same on every run.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub fn ecu(firmware: Vec<u8>) -> EcuSoftware {
    EcuSoftware {
        hardware: HardwareId::new("bcm-a1").unwrap(),
        version: SoftwareVersion::new("2.0.0").unwrap(),
        counter: ReleaseCounter(2),
        software_number: "PS-BCM-0001".into(),
        replaces: Vec::new(),
        identity_address: 0x0800_0000,
        firmware: vec![(0x0801_0000, firmware)],
    }
}

pub fn ecu_bundle(authority: &Authority, path: &Path, firmware: usize) -> BuiltBundle {
    Builder::ecu(&ecu(noise(firmware))).unwrap().write(path, &authority.signer()).unwrap()
}

pub fn tcu_bundle(authority: &Authority, folder: &Path, rootfs: &[u8]) -> BuiltBundle {
    let image: PathBuf = folder.join("rootfs.img");
    std::fs::write(&image, rootfs).unwrap();
    let software = TcuSoftware {
        hardware: HardwareId::new("tcu-a1").unwrap(),
        version: SoftwareVersion::new("2.0.0").unwrap(),
        counter: ReleaseCounter(2),
        rootfs: image,
    };
    Builder::tcu(&software).unwrap().write(&folder.join("tcu.raucb"), &authority.signer()).unwrap()
}

/// Opens and reads all of a bundle, as admission does.
pub fn read_all(path: &Path, keyring: &Keyring) -> Result<(), BundleError> {
    let reader = BundleReader::open(File::open(path).unwrap(), keyring, NOW)?;
    reader.check_blocks(|_| {})?;
    reader.check_files()
}
