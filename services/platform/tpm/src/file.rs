//! A key in a file: PKCS#8, readable by its owner only. For tests and machines without a TPM.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::{DeviceKey, KeyError};

pub(crate) struct FileKey {
    pair: EcdsaKeyPair,
    point: [u8; 65],
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileKey")
    }
}

pub(crate) fn open(path: &Path) -> Result<Option<FileKey>, KeyError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyError::File { action: "reading", path: path.to_owned(), source }),
    };
    let wrong = || KeyError::FileContent(path.to_owned());
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &bytes, &SystemRandom::new()).map_err(|_| wrong())?;
    let point = pair.public_key().as_ref().try_into().map_err(|_| wrong())?;
    Ok(Some(FileKey { pair, point }))
}

pub(crate) fn create(path: &Path) -> Result<(), KeyError> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| KeyError::Signing)?;
    let failed = |source| KeyError::File { action: "writing", path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(pkcs8.as_ref()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

impl DeviceKey for FileKey {
    fn public_point(&self) -> &[u8; 65] {
        &self.point
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Signing)?.as_ref().to_vec())
    }

    fn store(&self) -> &'static str {
        "file"
    }
}
