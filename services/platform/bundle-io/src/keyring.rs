//! Whom bundles are believed from: trusted certificates, and revocation lists where the keyring's owner brings them.

use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{
    CrlStatus, X509, X509Crl, X509ExtendedKeyUsage, X509KeyUsage, X509PurposeId, X509Ref, X509StoreContext,
};
use pitstop_bundle::signed_data::SignedDataError;
use pitstop_types::UnixSeconds;

/// Longest chain below the trusted certificate: a signer and two intermediates.
const MAX_CHAIN_DEPTH: i32 = 4;

/// Trusted certificates as a store that judges at `now`, for any purpose, chains of at most `depth` certificates below the trusted
/// one. What a certificate is for is the caller's to look at.
pub fn store_at(trusted: &[X509], now: UnixSeconds, depth: i32) -> Result<X509Store, ErrorStack> {
    let mut param = X509VerifyParam::new()?;
    param.set_time(now);
    param.set_purpose(X509PurposeId::ANY)?;
    param.set_depth(depth);
    param.set_flags(X509VerifyFlags::USE_CHECK_TIME)?;
    let mut store = X509StoreBuilder::new()?;
    store.set_param(&param)?;
    for certificate in trusted {
        store.add_cert(certificate.clone())?;
    }
    Ok(store.build())
}

/// Trusted certificates and revocation lists.
#[derive(Clone)]
pub struct Keyring {
    trusted: Vec<X509>,
    crls: Arc<Vec<X509Crl>>,
}

/// Why a signature is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("the keyring holds no certificate")]
    EmptyKeyring,
    #[error("the time is not known, so no certificate's validity can be judged")]
    TimeUnknown,
    #[error(transparent)]
    Shape(#[from] SignedDataError),
    #[error("the signer's certificate does not chain to the keyring: {0}")]
    Chain(String),
    #[error("the signer's certificate may not sign code (extended key usage codeSigning is missing)")]
    Purpose,
    #[error("certificate {0} is revoked")]
    Revoked(String),
    #[error("no revocation list of {0} is valid now")]
    NoCrl(String),
    #[error("the signature names {0} signers, exactly one is taken")]
    Signers(usize),
    #[error("the signature does not fit the manifest")]
    Wrong(#[source] ErrorStack),
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

/// Who signed a bundle.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SignerInfo {
    /// Common name of the certificate, or its whole subject where there is none.
    pub subject: String,
    pub issuer: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    pub not_after: String,
}

impl Keyring {
    /// Reads the certificates of a PEM file. An empty one is refused: it would look like a keyring and trust nobody.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignatureError> {
        let trusted = X509::stack_from_pem(pem)?;
        if trusted.is_empty() {
            return Err(SignatureError::EmptyKeyring);
        }
        Ok(Self { trusted, crls: Arc::default() })
    }

    /// Adds the revocation lists of a PEM file. From then on each certificate below the trusted one needs a list of its issuer.
    pub fn with_crls(self, pem: &[u8]) -> Result<Self, SignatureError> {
        const END: &str = "-----END X509 CRL-----";
        let text = String::from_utf8_lossy(pem);
        let mut crls = Vec::new();
        for part in text.split_inclusive(END).filter(|p| p.contains(END)) {
            crls.push(X509Crl::from_pem(part.trim_start().as_bytes())?);
        }
        Ok(Self { crls: Arc::new(crls), ..self })
    }

    /// The trusted certificates as a store that judges at `now`, for any purpose: OpenSSL 3.0 has no purpose for signing code, so
    /// [`Keyring::check_signer`] looks at the extended key usage itself.
    pub(crate) fn store(&self, now: UnixSeconds) -> Result<X509Store, SignatureError> {
        if now <= 0 {
            return Err(SignatureError::TimeUnknown);
        }
        Ok(store_at(&self.trusted, now, MAX_CHAIN_DEPTH)?)
    }

    /// Checks that `signer` chains to the keyring, may sign code, and is not revoked, nor an intermediate of it.
    pub(crate) fn check_signer(
        &self,
        store: &X509Store,
        signer: &X509Ref,
        others: &StackRef<X509>,
        now: UnixSeconds,
    ) -> Result<(), SignatureError> {
        let mut context = X509StoreContext::new()?;
        let (good, error, chain) = context.init(store, signer, others, |c| {
            let good = c.verify_cert()?;
            let chain: Vec<X509> = c.chain().map(|s| s.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
            Ok((good, c.error(), chain))
        })?;
        if !good {
            return Err(SignatureError::Chain(error.error_string().to_owned()));
        }
        let may_sign = signer.extended_key_usage().is_some_and(|u| u.contains(X509ExtendedKeyUsage::CODE_SIGN))
            && signer.key_usage().is_none_or(|u| u.contains(X509KeyUsage::DIGITAL_SIGNATURE));
        if !may_sign {
            return Err(SignatureError::Purpose);
        }
        self.check_revocation(&chain, now)
    }

    fn check_revocation(&self, chain: &[X509], now: UnixSeconds) -> Result<(), SignatureError> {
        if self.crls.is_empty() {
            return Ok(());
        }
        let now = Asn1Time::from_unix(now)?;
        for (certificate, issuer) in chain.iter().zip(chain.iter().skip(1)) {
            let key = issuer.public_key()?;
            let mut covered = false;
            for crl in self.crls.iter() {
                let of_issuer = crl.issuer_name().try_cmp(issuer.subject_name())?.is_eq();
                let current = *crl.last_update() <= now && crl.next_update().is_some_and(|t| *t > now);
                if !of_issuer || !crl.verify(&key)? {
                    continue;
                }
                // A list that is out of date still names what was revoked.
                if matches!(crl.get_by_cert(certificate), CrlStatus::Revoked(_)) {
                    return Err(SignatureError::Revoked(name(certificate.subject_name())));
                }
                covered |= current;
            }
            if !covered {
                return Err(SignatureError::NoCrl(name(issuer.subject_name())));
            }
        }
        Ok(())
    }
}

impl SignerInfo {
    pub(crate) fn of(certificate: &X509Ref) -> Result<Self, SignatureError> {
        Ok(Self {
            subject: name(certificate.subject_name()),
            issuer: name(certificate.issuer_name()),
            serial: certificate.serial_number().to_bn()?.to_hex_str()?.to_lowercase(),
            fingerprint: hex::encode(certificate.digest(openssl::hash::MessageDigest::sha256())?),
            not_after: certificate.not_after().to_string(),
        })
    }
}

/// A stack of certificates, as OpenSSL takes them.
pub(crate) fn stack(certificates: impl IntoIterator<Item = X509>) -> Result<Stack<X509>, ErrorStack> {
    let mut stack = Stack::new()?;
    for certificate in certificates {
        stack.push(certificate)?;
    }
    Ok(stack)
}

fn name(name: &openssl::x509::X509NameRef) -> String {
    let common = name.entries_by_nid(openssl::nid::Nid::COMMONNAME).next();
    let text = |e: &openssl::x509::X509NameEntryRef| e.data().to_string().ok();
    match common.and_then(text) {
        Some(name) => name,
        None => name.entries().filter_map(text).collect::<Vec<_>>().join(", "),
    }
}
