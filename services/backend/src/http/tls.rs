//! TLS 1.3 only; on the device listener the client's certificate becomes a [`Device`] that handlers take as an argument.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use axum_server::accept::Accept;
use axum_server::tls_rustls::RustlsConfig;
use futures_util::future::BoxFuture;
use pitstop_types::DeviceId;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::error::Error;
use crate::settings::DataDir;

pub(super) type RustlsAcceptor = axum_server::tls_rustls::RustlsAcceptor;

/// A vehicle on a bad network needs some round trips; longer than this is somebody who holds connections open.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// The device that a verified client certificate names. Absent for a name that is no device id.
#[derive(Debug, Clone)]
pub(super) struct Device(pub Option<DeviceId>);

/// The configuration of a listener; with `client_ca` every client must show a certificate of it.
pub(super) fn server_config(dir: &DataDir, client_ca: Option<&str>) -> Result<RustlsConfig, Error> {
    let failed = "preparing TLS";
    let tls = dir.tls();
    let chain = vec![CertificateDer::from_pem_file(tls.join("server.pem")).map_err(Error::internal(failed))?];
    let key = PrivateKeyDer::from_pem_file(tls.join("server.key")).map_err(Error::internal(failed))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::internal(failed))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let mut roots = RootCertStore::empty();
            let ca = CertificateDer::from_pem_file(tls.join(name)).map_err(Error::internal(failed))?;
            roots.add(ca).map_err(Error::internal(failed))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(Error::internal(failed))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(Error::internal(failed))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// Accepts TLS and adds the client's name to the connection's requests.
#[derive(Clone)]
pub(super) struct DeviceAcceptor(RustlsAcceptor);

impl DeviceAcceptor {
    pub(super) fn new(config: RustlsConfig) -> Self {
        Self(RustlsAcceptor::new(config).handshake_timeout(HANDSHAKE))
    }
}

impl Accept<TcpStream, Router> for DeviceAcceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = Router;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: Router) -> Self::Future {
        let acceptor = self.0.clone();
        Box::pin(async move {
            let (stream, service) = acceptor.accept(stream, service).await?;
            let device = Device(device_of(&stream));
            Ok((stream, service.layer(Extension(device))))
        })
    }
}

fn device_of(stream: &TlsStream<TcpStream>) -> Option<DeviceId> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    // Two names would let two parts of the program mean two devices.
    if names.next().is_some() {
        return None;
    }
    DeviceId::new(name).ok()
}
