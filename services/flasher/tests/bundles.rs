//! Bundles as the flasher opens them: signature, description and every block.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitstop_bundle_io::build::EcuSoftware;
use pitstop_bundle_io::keys::{Identity, Usage, identity};
use pitstop_bundle_io::{Builder, Keyring, Signer};
use pitstop_dbus::{AdmittedBundle, OtaError};
use pitstop_flasher::adapters::open_software;
use pitstop_flasher::ports::Software;
use pitstop_types::{HardwareId, ReleaseCounter, SoftwareVersion};

const NOW: i64 = 1_800_000_000;

fn authority(name: &str) -> Identity {
    identity(name, Usage::Authority, None, NOW - 86_400, 30).unwrap()
}

fn keyring(ca: &Identity) -> Arc<Keyring> {
    Arc::new(Keyring::from_pem(&ca.certificate_pem().unwrap()).unwrap())
}

fn firmware() -> Vec<u8> {
    (0..60_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn bundle(ca: &Identity, folder: &Path) -> PathBuf {
    let signer = identity("Test signer", Usage::BundleSigner, Some(ca), NOW - 86_400, 30).unwrap();
    let signer = Signer::from_pem(&signer.certificate_pem().unwrap(), &signer.key_pem().unwrap()).unwrap();
    let software = EcuSoftware {
        hardware: HardwareId::new("bcm-a1").unwrap(),
        version: SoftwareVersion::new("2.0.0").unwrap(),
        counter: ReleaseCounter(7),
        software_number: "PS-BCM-0001".into(),
        replaces: Vec::new(),
        identity_address: 0x1_F000,
        firmware: vec![(0x8000, firmware())],
    };
    let path = folder.join("bcm.raucb");
    Builder::ecu(&software).unwrap().write(&path, &signer).unwrap();
    path
}

async fn open(path: &Path, keyring: Arc<Keyring>, admitted: Option<AdmittedBundle>) -> Result<Software, OtaError> {
    open_software(File::open(path).unwrap(), keyring, NOW, admitted).await
}

#[tokio::test]
async fn a_bundle_is_read_block_by_block_in_any_order() {
    let (ca, folder) = (authority("Test authority"), tempfile::tempdir().unwrap());
    let mut software = open(&bundle(&ca, folder.path()), keyring(&ca), None).await.unwrap();
    assert_eq!((software.hardware.as_str(), software.counter.0), ("bcm-a1", 7));
    let firmware = firmware();
    for (offset, length) in [(0, 4093), (4093, 4093), (50_000, 100), (10, 5000), (5010, 1)] {
        let bytes = software.payload.read(offset as u64, length as u32).await.unwrap();
        assert_eq!(bytes, firmware[offset..offset + length]);
    }
    assert!(software.payload.read(1 << 20, 10).await.is_err());
    assert!(software.payload.read(0, u32::MAX).await.is_err());
    assert_eq!(software.payload.read(0, 10).await.unwrap(), firmware[..10]);
}

#[tokio::test]
async fn anything_but_the_admitted_signed_bundle_is_refused() {
    let (ca, folder) = (authority("Test authority"), tempfile::tempdir().unwrap());
    let path = bundle(&ca, folder.path());
    let refusal = async |keyring, admitted| open(&path, keyring, admitted).await.err().expect("refused");
    let other = keyring(&authority("Somebody else"));
    assert!(matches!(refusal(other, None).await, OtaError::BadSignature(_)));
    let admitted = AdmittedBundle { hardware: "bcm-a1".into(), counter: 7, ..AdmittedBundle::default() };
    assert!(matches!(refusal(keyring(&ca), Some(admitted)).await, OtaError::ManifestMismatch(_)));
    std::fs::write(&path, vec![0; 100_000]).unwrap();
    assert!(matches!(refusal(keyring(&ca), None).await, OtaError::BadBundle(_)));
}

#[tokio::test]
async fn a_flipped_byte_is_found_when_its_block_is_read() {
    let (ca, folder) = (authority("Test authority"), tempfile::tempdir().unwrap());
    let path = bundle(&ca, folder.path());
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 12) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        if let Ok(mut software) = open(&path, keyring(&ca), None).await {
            let read = software.payload.read(0, 60_000).await;
            // Bytes that nobody reads (padding) may differ; what is read is never different.
            assert!(read.is_err() || read.unwrap() == firmware(), "byte {at}");
        }
    }
}
