//! What an uploaded bundle says of itself, once its signature, every file and every block have been checked.

use std::fs::File;
use std::path::Path;

use pitstop_bundle::Kind;
use pitstop_bundle_io::{BundleError, BundleReader, Keyring};
use pitstop_types::{Digest, HardwareId, SoftwareVersion, UnixSeconds};

/// Facts out of a signed manifest.
pub struct BundleFacts {
    pub kind: &'static str,
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    pub counter: u64,
    pub manifest_hash: Digest,
}

/// Opens and checks the bundle at `path` against the certificates at `keyring`. Blocks: it reads the whole file. The error is
/// for the operator who uploaded it.
pub fn verify_bundle(path: &Path, keyring: &Path, now: UnixSeconds) -> Result<BundleFacts, String> {
    let pem = std::fs::read(keyring).map_err(|error| format!("the backend's keyring: {error}"))?;
    let keyring = Keyring::from_pem(&pem).map_err(|error| format!("the backend's keyring: {error}"))?;
    let file = File::open(path).map_err(|error| error.to_string())?;
    check(file, &keyring, now).map_err(|error| error.text())
}

fn check(file: File, keyring: &Keyring, now: UnixSeconds) -> Result<BundleFacts, BundleError> {
    let reader = BundleReader::open(file, keyring, now)?;
    reader.check_blocks(|_| {})?;
    reader.check_files()?;
    let meta = reader.meta()?;
    Ok(BundleFacts {
        kind: match meta.kind {
            Kind::Ecu => "ecu",
            Kind::Tcu => "tcu",
        },
        hardware: meta.hardware.clone(),
        version: meta.version.clone(),
        counter: meta.release_counter.0,
        manifest_hash: reader.info().manifest_hash,
    })
}
