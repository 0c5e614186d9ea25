//! Who may authenticate: a tester's X.509 certificate (RFC 5280), and its signature over our challenge.

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;
use openssl::stack::Stack;
use openssl::x509::{CrlStatus, X509, X509Crl, X509Ref, X509StoreContext, X509VerifyResult};
use pitstop_bundle_io::keyring::store_at;
use pitstop_types::{UnixSeconds, Vin};
use pitstop_uds::Nrc;
use pitstop_uds::server::Judge;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Longest certificate with its intermediates, in bytes.
const MAX_CERTIFICATES: usize = 16 * 1024;
/// A tester's certificate and two intermediates.
const MAX_CHAIN: usize = 3;
/// Content octets of `2.25.324544471321131724842183386646308910608`, the extended key usage of testers that may update the TCU.
const TESTER_USAGE: [u8; 20] = [
    0x69, 0x83, 0xE8, 0xA8, 0xFE, 0xF5, 0xDC, 0xCD, 0x82, 0x8D, 0xAF, 0x8D, 0x80, 0x83, 0xA4, 0x91, 0xE1, 0xCB, 0xEC,
    0x10,
];
/// A certificate with such names among its subject's alternatives is for these vehicles alone.
const SCOPE: &str = "urn:vin:";
/// Random bytes of a challenge; the VIN follows, so that a tester sees for which vehicle it signs.
const CHALLENGE_BYTES: usize = 32;

/// X.509 verification results (openssl, x509_vfy.h) that have a code of their own in ISO 14229-1.
const NOT_YET_VALID: i32 = 9;
const EXPIRED: i32 = 10;
const SIGNATURE_FAILURE: i32 = 7;

/// Whom this TCU lets in.
pub struct Testers {
    trusted: Vec<X509>,
    crls: Vec<X509Crl>,
    vin: Vin,
    clock: fn() -> Option<UnixSeconds>,
}

/// A tester whose certificate is good.
#[derive(Debug)]
pub struct Tester {
    key: PKey<Public>,
    /// Common name, for the journal.
    pub name: String,
}

impl Testers {
    /// Nobody, until [`Testers::with_trusted`].
    pub fn new(vin: Vin, clock: fn() -> Option<UnixSeconds>) -> Self {
        Self { trusted: Vec::new(), crls: Vec::new(), vin, clock }
    }

    /// Adds the certificates of a PEM file.
    pub fn with_trusted(mut self, pem: &[u8]) -> Result<Self, ErrorStack> {
        self.trusted.extend(X509::stack_from_pem(pem)?);
        Ok(self)
    }

    /// Adds the revocation lists of a PEM file.
    pub fn with_crls(mut self, pem: &[u8]) -> Result<Self, ErrorStack> {
        const END: &str = "-----END X509 CRL-----";
        for part in String::from_utf8_lossy(pem).split_inclusive(END).filter(|part| part.contains(END)) {
            self.crls.push(X509Crl::from_pem(part.trim_start().as_bytes())?);
        }
        Ok(self)
    }

    /// Whether anybody can be let in at all.
    pub fn is_empty(&self) -> bool {
        self.trusted.is_empty()
    }

    fn judge(&self, bytes: &[u8]) -> Result<Tester, Nrc> {
        let parts = split(bytes).ok_or(Nrc::CertificateInvalidFormat)?;
        let parsed: Option<Vec<X509>> = parts.iter().map(|der| X509::from_der(der).ok()).collect();
        let parsed = parsed.ok_or(Nrc::CertificateInvalidFormat)?;
        let (Some(der), Some((leaf, others))) = (parts.first(), parsed.split_first()) else {
            return Err(Nrc::CertificateInvalidFormat);
        };
        // Without the time nothing can be said to be valid; the tester can wait until it is known.
        let now = (self.clock)().filter(|now| *now > 0).ok_or(Nrc::ConditionsNotCorrect)?;
        self.check_chain(leaf, others, now)?;
        let (_, content) = X509Certificate::from_der(der).map_err(|_| Nrc::CertificateInvalidFormat)?;
        check_type(&content)?;
        let key = check_key(leaf, &content)?;
        self.check_scope(&content)?;
        let name = content.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Tester { key, name: printable(name.unwrap_or("without a name")) })
    }

    fn check_chain(&self, leaf: &X509Ref, others: &[X509], now: UnixSeconds) -> Result<(), Nrc> {
        let verified = self.verify(leaf, others, now).map_err(|_| Nrc::CertificateInvalidChainOfTrust)?;
        let chain = match verified {
            Ok(chain) => chain,
            Err(error) => {
                log::info!("a tester's certificate is refused: {}", error.error_string());
                return Err(match error.as_raw() {
                    EXPIRED | NOT_YET_VALID => Nrc::CertificateInvalidTimePeriod,
                    SIGNATURE_FAILURE => Nrc::CertificateInvalidSignature,
                    _ => Nrc::CertificateInvalidChainOfTrust,
                });
            }
        };
        self.check_revocation(&chain, now)
    }

    fn verify(
        &self,
        leaf: &X509Ref,
        others: &[X509],
        now: UnixSeconds,
    ) -> Result<Result<Vec<X509>, X509VerifyResult>, ErrorStack> {
        let mut stack = Stack::new()?;
        for other in others {
            stack.push(other.clone())?;
        }
        // OpenSSL does not know testers: what the certificate may be used for is looked at below.
        let store = store_at(&self.trusted, now, MAX_CHAIN as i32)?;
        X509StoreContext::new()?.init(&store, leaf, &stack, |context| {
            let good = context.verify_cert()?;
            let chain = context.chain().map(|chain| chain.iter().map(ToOwned::to_owned).collect());
            Ok(if good { Ok(chain.unwrap_or_default()) } else { Err(context.error()) })
        })
    }

    /// Each certificate below the trusted one needs a list of its issuer, once there are lists at all.
    fn check_revocation(&self, chain: &[X509], now: UnixSeconds) -> Result<(), Nrc> {
        if self.crls.is_empty() {
            return Ok(());
        }
        let failed = |_| Nrc::CertificateInvalidChainOfTrust;
        let now = Asn1Time::from_unix(now).map_err(failed)?;
        for (certificate, issuer) in chain.iter().zip(chain.iter().skip(1)) {
            let key = issuer.public_key().map_err(failed)?;
            let mut covered = false;
            for crl in &self.crls {
                let same = crl.issuer_name().try_cmp(issuer.subject_name()).map_err(failed)?.is_eq();
                if !same || !crl.verify(&key).map_err(failed)? {
                    continue;
                }
                if matches!(crl.get_by_cert(certificate), CrlStatus::Revoked(_)) {
                    return Err(Nrc::CertificateInvalidRevoked);
                }
                covered |= *crl.last_update() <= now && crl.next_update().is_some_and(|next| *next > now);
            }
            if !covered {
                log::info!("no revocation list of the tester's issuer is valid now");
                return Err(Nrc::CertificateInvalidChainOfTrust);
            }
        }
        Ok(())
    }

    fn check_scope(&self, content: &X509Certificate<'_>) -> Result<(), Nrc> {
        let names = content.subject_alternative_name().map_err(|_| Nrc::CertificateInvalidFormat)?;
        let mut vins = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(SCOPE),
            _ => None,
        });
        let first = vins.next();
        let ours = |vin: &str| vin == self.vin.as_str();
        match first {
            Some(vin) if !ours(vin) && !vins.any(ours) => Err(Nrc::CertificateInvalidScope),
            _ => Ok(()),
        }
    }
}

impl Judge for Testers {
    type Credential = Tester;

    fn certificate(&mut self, certificate: &[u8]) -> Result<Tester, Nrc> {
        self.judge(certificate)
    }

    fn challenge(&mut self) -> Result<Vec<u8>, Nrc> {
        let mut challenge = vec![0; CHALLENGE_BYTES];
        openssl::rand::rand_bytes(&mut challenge).map_err(|_| Nrc::ChallengeCalculationFailed)?;
        challenge.extend(self.vin.as_str().bytes());
        Ok(challenge)
    }

    /// ECDSA with SHA-256, the signature in DER.
    fn proves(&mut self, tester: &Tester, challenge: &[u8], proof: &[u8]) -> bool {
        let verified = Verifier::new(MessageDigest::sha256(), &tester.key)
            .and_then(|mut verifier| verifier.verify_oneshot(proof, challenge));
        // A malformed signature is an error in OpenSSL's words.
        let good = verified.unwrap_or(false);
        log::info!("tester {:?} {}", tester.name, if good { "has authenticated" } else { "did not prove its key" });
        good
    }
}

/// The right kind of certificate: an end entity's that names our usage.
fn check_type(content: &X509Certificate<'_>) -> Result<(), Nrc> {
    let usage = content.extended_key_usage().map_err(|_| Nrc::CertificateInvalidFormat)?;
    let may = usage.is_some_and(|usage| usage.value.other.iter().any(|oid| oid.as_bytes() == TESTER_USAGE));
    if content.is_ca() || !may { Err(Nrc::CertificateInvalidType) } else { Ok(()) }
}

/// Its key: P-256, and allowed to sign.
fn check_key(leaf: &X509Ref, content: &X509Certificate<'_>) -> Result<PKey<Public>, Nrc> {
    let key = leaf.public_key().map_err(|_| Nrc::CertificateInvalidContent)?;
    let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
    let usage = content.key_usage().map_err(|_| Nrc::CertificateInvalidFormat)?;
    let signs = usage.is_none_or(|usage| usage.value.digital_signature());
    if curve == Some(Nid::X9_62_PRIME256V1) && signs { Ok(key) } else { Err(Nrc::CertificateInvalidContent) }
}

/// Certificates in DER, one behind the other.
fn split(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    if bytes.is_empty() || bytes.len() > MAX_CERTIFICATES {
        return None;
    }
    let (mut rest, mut parts) = (bytes, Vec::new());
    while !rest.is_empty() {
        // A SEQUENCE with its length in two bytes (X.690, 8.1.3.5): no certificate is shorter than 256 bytes or longer than 64 KiB.
        let &[0x30, 0x82, high, low, ..] = rest else { return None };
        let (part, behind) = rest.split_at_checked(4 + usize::from(u16::from_be_bytes([high, low])))?;
        parts.push(part);
        rest = behind;
        if parts.len() > MAX_CHAIN {
            return None;
        }
    }
    Some(parts)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
#[path = "testers_tests.rs"]
mod tests;
