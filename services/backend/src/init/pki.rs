//! Two certificate authorities, one for servers and one for clients, so that no device certificate ever passes for a server's.

use std::fs;
use std::path::PathBuf;

use pitstop_types::{Digest, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};

use super::{InitError, InitOptions, write_public, write_secret};
use crate::clock::{Clock, later};
use crate::settings::DataDir;

/// Common name of the backend's own broker client; the access list gives it every device's topics.
pub const BACKEND_CN: &str = "backend";
const CA_SECS: u64 = 3650 * 86_400;
const SERVER_SECS: u64 = 397 * 86_400;
/// Certificates begin a little in the past: a vehicle's clock may be behind.
const BACKDATE: i64 = 3600;

/// The start and end of a validity period as rcgen takes them.
fn set_validity(params: &mut CertificateParams, now: UnixSeconds, secs: u64) {
    // rcgen's type is `time::OffsetDateTime`, reached here by arithmetic on its own epoch constructor.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(u64::try_from(now - BACKDATE).unwrap_or(0));
    params.not_after = epoch + std::time::Duration::from_secs(u64::try_from(later(now, secs)).unwrap_or(0));
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn authority(name: &str, now: UnixSeconds) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, CA_SECS);
    params
}

fn leaf(
    name: &str,
    hosts: &[String],
    usage: ExtendedKeyUsagePurpose,
    now: UnixSeconds,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = named(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, SERVER_SECS);
    Ok(params)
}

pub(super) fn make(dir: &DataDir, options: &InitOptions, clock: &Clock) -> Result<(), InitError> {
    let now = clock.now();
    let tls = dir.tls();
    for (ca_name, text) in [("server-ca", "Pitstop server CA"), ("device-ca", "Pitstop device CA")] {
        let key = KeyPair::generate()?;
        let params = authority(text, now);
        write_public(&tls.join(format!("{ca_name}.pem")), params.self_signed(&key)?.pem().as_bytes())?;
        write_secret(&tls.join(format!("{ca_name}.key")), key.serialize_pem().as_bytes())?;
        let issuer = Issuer::new(params, key);
        let leaves = if ca_name == "server-ca" {
            let server = leaf("pitstop-backend", &options.hosts, ExtendedKeyUsagePurpose::ServerAuth, now)?;
            let mut broker_hosts = options.hosts.clone();
            if !broker_hosts.contains(&options.mqtt_host) {
                broker_hosts.push(options.mqtt_host.clone());
            }
            let broker = leaf("pitstop-broker", &broker_hosts, ExtendedKeyUsagePurpose::ServerAuth, now)?;
            vec![(tls.join("server"), server), (dir.broker().join("broker"), broker)]
        } else {
            vec![(tls.join("mqtt-client"), leaf(BACKEND_CN, &[], ExtendedKeyUsagePurpose::ClientAuth, now)?)]
        };
        for (path, params) in leaves {
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            write_public(&path.with_extension("pem"), certificate.pem().as_bytes())?;
            write_secret(&path.with_extension("key"), key.serialize_pem().as_bytes())?;
        }
    }
    // The broker reads no folder but its own.
    let client_ca = read(tls.join("device-ca.pem"))?;
    write_public(&dir.broker().join("client-ca.pem"), client_ca.as_bytes())
}

fn read(path: PathBuf) -> Result<String, InitError> {
    fs::read_to_string(&path).map_err(|cause| InitError::Read(path, cause))
}

/// Issues device certificates.
pub struct DeviceCa {
    issuer: Issuer<'static, KeyPair>,
}

impl DeviceCa {
    pub fn load(dir: &DataDir) -> Result<Self, InitError> {
        let key = KeyPair::from_pem(&read(dir.tls().join("device-ca.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&read(dir.tls().join("device-ca.pem"))?, key)?;
        Ok(Self { issuer })
    }

    /// SHA-256 of the public key in `csr_pem`, whose own signature is checked: the request's other bytes differ each time it is made.
    pub fn key_sha256(csr_pem: &str) -> Result<Digest, rcgen::Error> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        Ok(Digest::of(&request.public_key.subject_public_key_info()))
    }

    /// A client certificate for the key in `csr_pem`, whose own signature is checked. Nothing else is taken from the request:
    /// name, usage and time are ours.
    pub fn issue(&self, csr_pem: &str, device: &str, now: UnixSeconds, secs: u64) -> Result<String, rcgen::Error> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(device);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
        set_validity(&mut params, now, secs);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_cannot_choose_its_name_or_usage() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        crate::testing::init_dir(&data);
        let ca = DeviceCa::load(&data).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wanted = CertificateParams::new(vec!["backend.example".to_owned()]).unwrap();
        wanted.distinguished_name = named(BACKEND_CN);
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = wanted.serialize_request(&key).unwrap().pem().unwrap();
        let pem = ca.issue(&csr, "d-1", 1_795_000_000, 86_400).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=d-1");
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(!certificate.is_ca());
    }

    #[test]
    fn a_request_that_is_no_request_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        crate::testing::init_dir(&data);
        let ca = DeviceCa::load(&data).unwrap();
        for bad in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "x"] {
            assert!(ca.issue(bad, "d-1", 1_795_000_000, 86_400).is_err());
        }
    }
}
