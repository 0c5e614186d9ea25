//! A device key in TLS and in certificate requests.

use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
    SigningKey as RequestKey,
};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use crate::{DeviceKey, KeyError};

/// Longest certificate chain accepted for this device: its own and two intermediates.
const MAX_CHAIN: usize = 4;

/// A certificate request for `common_name`, signed by `key`, in PEM.
pub fn certificate_request(key: &Arc<dyn DeviceKey>, common_name: &str) -> Result<String, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request =
        params.serialize_request(&Requester(key.as_ref())).map_err(|e| KeyError::Certificate(e.to_string()))?;
    Ok(pem("CERTIFICATE REQUEST", request.der()))
}

/// The client certificate that TLS shows: `chain_pem` with the device's own certificate first, and `key`, which must be the one it names.
pub fn client_certificate(key: Arc<dyn DeviceKey>, chain_pem: &[u8]) -> Result<Arc<dyn ResolvesClientCert>, KeyError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .take(MAX_CHAIN)
        .collect::<Result<_, _>>()
        .map_err(|e| KeyError::Certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(KeyError::Certificate("the chain is empty".into()));
    }
    let certified = CertifiedKey::new(chain, Arc::new(TlsKey(key)));
    certified.keys_match().map_err(|e| KeyError::Certificate(e.to_string()))?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

/// DER as PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in der.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let letter = ALPHABET.get((word >> (18 - 6 * position)) as usize & 63).copied().unwrap_or(b'A');
            body.push(if position <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

struct Requester<'a>(&'a dyn DeviceKey);

impl PublicKeyData for Requester<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl RequestKey for Requester<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|error| {
            log::error!("signing a certificate request: {error}");
            rcgen::Error::RemoteKeyError
        })
    }
}

/// A device key as rustls wants it.
#[derive(Debug)]
struct TlsKey(Arc<dyn DeviceKey>);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = SignatureScheme::ECDSA_NISTP256_SHA256;
        offered.contains(&ours).then(|| Box::new(TlsSigner(self.0.clone())) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public_der()))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

#[derive(Debug)]
struct TlsSigner(Arc<dyn DeviceKey>);

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::pem;

    #[test]
    fn pem_is_base64_in_lines_of_sixty_four() {
        assert_eq!(pem("X", b"Man"), "-----BEGIN X-----\nTWFu\n-----END X-----\n");
        assert_eq!(pem("X", b"Ma"), "-----BEGIN X-----\nTWE=\n-----END X-----\n");
        assert_eq!(pem("X", b"M"), "-----BEGIN X-----\nTQ==\n-----END X-----\n");
        assert_eq!(pem("X", &[0; 60]).lines().nth(1).map(str::len), Some(64));
    }
}
