//! A development authority: one certificate authority and one signer, P-256. Production keys come from the integrator's own ceremony.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name};

use pitstop_types::UnixSeconds;

/// A certificate and the key it is about.
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
}

impl Identity {
    /// Certificate in PEM.
    pub fn certificate_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.certificate.to_pem()
    }

    /// Key in PEM (PKCS#8, not encrypted).
    pub fn key_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.key.private_key_to_pem_pkcs8()
    }
}

/// Extended key usage of testers that may update the TCU: an OID made from a UUID (ITU-T X.667), so nobody else uses it.
pub const TESTER_USAGE: &str = "2.25.324544471321131724842183386646308910608";

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Signs certificates.
    Authority,
    /// Signs bundles: codeSigning, which we demand, and emailProtection, which RAUC's default purpose check demands.
    BundleSigner,
    /// Signs code by its usage, but RAUC's default purpose check refuses it. For tests.
    CodeSigningOnly,
    /// A workshop's tester: may authenticate to the diagnostic server ([`TESTER_USAGE`]).
    Tester,
    /// Has no extended key usage that lets it sign bundles. For tests.
    TlsClient,
}

/// Makes a key and a certificate about it, valid from `not_before` for `days`, by `issuer` or self-signed.
pub fn identity(
    name: &str,
    usage: Usage,
    issuer: Option<&Identity>,
    not_before: UnixSeconds,
    days: u32,
) -> Result<Identity, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut subject = X509Name::builder()?;
    subject.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Pitstop development")?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial()?)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.map_or(&*subject, |i| i.certificate.subject_name()))?;
    builder.set_not_before(&*Asn1Time::from_unix(not_before)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(not_before.saturating_add(i64::from(days) * 86_400))?)?;
    builder.set_pubkey(&key)?;
    extensions(&mut builder, usage, issuer)?;
    builder.sign(issuer.map_or(&*key, |i| &*i.key), MessageDigest::sha256())?;
    Ok(Identity { certificate: builder.build(), key })
}

// RFC 5280, 4.1.2.2: positive, at most 20 octets; random so that two authorities' certificates never collide.
fn serial() -> Result<Asn1Integer, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::ONE, false)?;
    serial.to_asn1_integer()
}

fn extensions(builder: &mut X509Builder, usage: Usage, issuer: Option<&Identity>) -> Result<(), ErrorStack> {
    let mut constraints = BasicConstraints::new();
    let mut key_usage = KeyUsage::new();
    constraints.critical();
    key_usage.critical();
    match usage {
        Usage::Authority => {
            constraints.ca();
            key_usage.key_cert_sign().crl_sign();
        }
        _ => {
            key_usage.digital_signature();
        }
    }
    builder.append_extension(constraints.build()?)?;
    builder.append_extension(key_usage.build()?)?;
    let mut extended = ExtendedKeyUsage::new();
    match usage {
        Usage::Authority => {}
        Usage::BundleSigner => builder.append_extension(extended.code_signing().email_protection().build()?)?,
        Usage::CodeSigningOnly => builder.append_extension(extended.code_signing().build()?)?,
        Usage::Tester => builder.append_extension(extended.other(TESTER_USAGE).build()?)?,
        Usage::TlsClient => builder.append_extension(extended.client_auth().build()?)?,
    }
    let subject_key =
        SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer.map(|i| &*i.certificate), None))?;
    builder.append_extension(subject_key)?;
    if let Some(issuer) = issuer {
        let authority_key = AuthorityKeyIdentifier::new()
            .keyid(true)
            .build(&builder.x509v3_context(Some(&issuer.certificate), None))?;
        builder.append_extension(authority_key)?;
    }
    Ok(())
}
