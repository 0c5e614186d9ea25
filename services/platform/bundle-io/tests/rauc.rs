//! Debian's `rauc` reads what we make, and we read what it makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use common::*;
use pitstop_bundle_io::{BundleReader, Keyring};

fn rauc(arguments: &[&str], folder: &Path) -> Output {
    Command::new("rauc").args(arguments).current_dir(folder).output().expect("rauc is installed (Debian package rauc)")
}

fn write_keys(authority: &Authority, folder: &Path) {
    std::fs::write(folder.join("keyring.pem"), authority.ca.certificate_pem().unwrap()).unwrap();
    std::fs::write(folder.join("cert.pem"), authority.signer.certificate_pem().unwrap()).unwrap();
    std::fs::write(folder.join("key.pem"), authority.signer.key_pem().unwrap()).unwrap();
}

/// `rauc` judges certificates by the wall clock, so this authority is valid then.
fn authority_now() -> (Authority, i64) {
    use pitstop_bundle_io::keys::{Usage, identity};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let ca = identity("Test authority", Usage::Authority, None, now - 86_400, 30).unwrap();
    let signer = identity("Test signer", Usage::BundleSigner, Some(&ca), now - 86_400, 30).unwrap();
    (Authority { ca, signer }, now)
}

#[test]
fn rauc_reads_our_bundles() {
    let (authority, _) = authority_now();
    let folder = tempfile::tempdir().unwrap();
    write_keys(&authority, folder.path());
    ecu_bundle(&authority, &folder.path().join("bcm.raucb"), 115_000);
    let image = noise(1 << 20);
    tcu_bundle(&authority, folder.path(), &image);
    for (name, compatible) in [("bcm.raucb", "pitstop-bcm-a1"), ("tcu.raucb", "pitstop-tcu-a1")] {
        let output = rauc(&["info", "--keyring", "keyring.pem", "--output-format=json", name], folder.path());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("\"compatible\":\"{compatible}\"")), "{text}");
        assert!(text.contains("\"version\":\"2.0.0\""), "{text}");
        if name == "tcu.raucb" {
            assert!(text.contains(&pitstop_types::Digest::of(&image).to_string()), "{text}");
        }
    }
    // The program does look: another keyring is refused.
    std::fs::write(folder.path().join("keyring.pem"), authority_now().0.ca.certificate_pem().unwrap()).unwrap();
    assert!(!rauc(&["info", "--keyring", "keyring.pem", "bcm.raucb"], folder.path()).status.success());
}

#[test]
fn a_bundle_made_by_rauc_is_read() {
    let (authority, now) = authority_now();
    let folder = tempfile::tempdir().unwrap();
    write_keys(&authority, folder.path());
    let content = folder.path().join("content");
    std::fs::create_dir(&content).unwrap();
    let image = noise(3 << 20);
    std::fs::write(content.join("rootfs.ext4"), &image).unwrap();
    let manifest = "[update]\ncompatible=pitstop-tcu-a1\nversion=3.0.0\n\n[bundle]\nformat=verity\n\n[image.rootfs]\nfilename=rootfs.ext4\n";
    std::fs::write(content.join("manifest.raucm"), manifest).unwrap();
    let output = rauc(&["--cert", "cert.pem", "--key", "key.pem", "bundle", "content", "tcu.raucb"], folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let keyring = Keyring::from_pem(&authority.ca.certificate_pem().unwrap()).unwrap();
    let reader = BundleReader::open(File::open(folder.path().join("tcu.raucb")).unwrap(), &keyring, now).unwrap();
    assert_eq!(reader.info().manifest.update.version.as_deref(), Some("3.0.0"));
    assert_eq!(reader.info().meta, None);
    reader.check_blocks(|_| {}).unwrap();
    reader.check_files().unwrap();
    assert_eq!(reader.read_to_vec("rootfs.ext4", 1 << 23).unwrap(), image);
}
