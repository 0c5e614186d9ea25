//! Device keys in a real software TPM and in files: signatures, certificate requests, TLS client authentication.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is the report")]

#[cfg(feature = "tpm")]
mod swtpm;

use std::path::Path;
use std::sync::Arc;

use pitstop_tpm::{DeviceKey, KeyError, KeyRole, KeySettings, KeyStore, ensure, open, tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

fn file_settings(folder: &Path) -> KeySettings {
    KeySettings { store: KeyStore::File, tcti: None, file: Some(folder.join("tls.key")), insecure_file_keys: true }
}

fn check_signature(key: &Arc<dyn DeviceKey>) {
    let signature = key.sign(b"hello").unwrap();
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key.public_point());
    public.verify(b"hello", &signature).unwrap();
    public.verify(b"other", &signature).unwrap_err();
}

/// A client certificate of our key is requested, issued, and used in a TLS 1.3 handshake.
async fn check_tls(key: Arc<dyn DeviceKey>) {
    let request = tls::certificate_request(&key, "device-1").unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issued = issue(&request, &ca);
    let server_key = KeyPair::generate().unwrap();
    let server_cert = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&server_key, &ca).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server_cert.der().clone()], server_key.serialize_der().try_into().unwrap())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(tls::client_certificate(key, issued.as_bytes()).unwrap());
    let (a, b) = tokio::io::duplex(1 << 16);
    let accept = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(a);
    let connect =
        tokio_rustls::TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost").unwrap(), b);
    let (accepted, connected) = tokio::join!(accept, connect);
    connected.unwrap();
    let shown: Vec<CertificateDer<'static>> = accepted.unwrap().get_ref().1.peer_certificates().unwrap().to_vec();
    assert_eq!(shown.len(), 1);
}

fn issue(request: &str, ca: &Issuer<'_, KeyPair>) -> String {
    CertificateSigningRequestParams::from_pem(request)
        .expect("the request's own signature holds")
        .signed_by(ca)
        .unwrap()
        .pem()
}

#[tokio::test]
async fn a_file_key_signs_and_serves_tls() {
    let folder = tempfile::tempdir().unwrap();
    let settings = file_settings(folder.path());
    assert!(open(&settings, KeyRole::Tls).unwrap().is_none());
    let key = ensure(&settings, KeyRole::Tls).unwrap();
    assert_eq!(key.public_point(), ensure(&settings, KeyRole::Tls).unwrap().public_point());
    assert_eq!(key.store(), "file");
    check_signature(&key);
    check_tls(key).await;
}

#[test]
fn file_keys_are_refused_unless_the_configuration_admits_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = KeySettings { insecure_file_keys: false, ..file_settings(folder.path()) };
    assert!(matches!(ensure(&settings, KeyRole::Tls), Err(KeyError::FileKeysForbidden)));
    assert!(matches!(open(&settings, KeyRole::Tls), Err(KeyError::FileKeysForbidden)));
}

#[test]
fn another_keys_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = ensure(&file_settings(folder.path()), KeyRole::Tls).unwrap();
    let other = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([]).unwrap().self_signed(&other).unwrap();
    assert!(matches!(tls::client_certificate(key, certificate.pem().as_bytes()), Err(KeyError::Certificate(_))));
}

#[cfg(feature = "tpm")]
mod with_tpm {
    use super::*;
    use crate::swtpm::{Swtpm, two_free_ports};

    fn settings(tpm: &Swtpm) -> KeySettings {
        KeySettings { store: KeyStore::Tpm, tcti: Some(tpm.tcti()), file: None, insecure_file_keys: false }
    }

    #[tokio::test]
    async fn a_tpm_key_signs_serves_tls_and_outlives_the_tpms_restart() {
        let state = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(state.path());
        assert!(open(&settings(&tpm), KeyRole::Tls).unwrap().is_none());
        let key = ensure(&settings(&tpm), KeyRole::Tls).unwrap();
        assert_eq!(key.store(), "tpm");
        assert_eq!(key.public_point(), ensure(&settings(&tpm), KeyRole::Tls).unwrap().public_point());
        assert!(open(&settings(&tpm), KeyRole::Identity).unwrap().is_none());
        let identity = ensure(&settings(&tpm), KeyRole::Identity).unwrap();
        assert_ne!(key.public_point(), identity.public_point());
        for _ in 0..5 {
            check_signature(&key);
        }
        check_signature(&identity);
        check_tls(key.clone()).await;
        drop(tpm);
        let tpm = Swtpm::start(state.path());
        let again = open(&settings(&tpm), KeyRole::Tls).unwrap().unwrap();
        assert_eq!(again.public_point(), key.public_point());
        check_signature(&again);
    }

    #[test]
    fn a_tpm_that_is_not_there_is_a_named_error() {
        let tcti = format!("swtpm:host=127.0.0.1,port={}", two_free_ports());
        let settings = KeySettings { store: KeyStore::Tpm, tcti: Some(tcti), file: None, insecure_file_keys: false };
        assert!(matches!(open(&settings, KeyRole::Tls), Err(KeyError::Tpm { handle: 0x8100_0010, .. })));
    }
}
