//! The CMS structure of a bundle: verified against a keyring, or made.

use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::pkey::{PKeyRef, Private};
use openssl::x509::{X509, X509Ref};
use pitstop_bundle::signed_data;
use pitstop_types::UnixSeconds;

use crate::keyring::{Keyring, SignatureError, SignerInfo, stack};

/// What a verified structure says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed content: the manifest's text.
    pub content: Vec<u8>,
    pub signer: SignerInfo,
}

/// Verifies `der` at `now`: shape, exactly one signer, chain to `keyring`, purpose, revocation, signature.
pub fn verify(der: &[u8], keyring: &Keyring, now: UnixSeconds) -> Result<Verified, SignatureError> {
    let shape = signed_data::read(der)?;
    let certificates = stack(shape.certificates.iter().map(|c| X509::from_der(c)).collect::<Result<Vec<_>, _>>()?)?;
    let signers = Pkcs7::from_der(der)?.signers(&certificates, Pkcs7Flags::empty())?;
    let (Some(signer), 1) = (signers.get(0), signers.len()) else {
        return Err(SignatureError::Signers(signers.len()));
    };
    let store = keyring.store(now)?;
    keyring.check_signer(&store, signer, &certificates, now)?;
    let mut content = Vec::new();
    let mut cms = CmsContentInfo::from_der(der)?;
    cms.verify(Some(&certificates), Some(&store), None, Some(&mut content), CMSOptions::BINARY)
        .map_err(SignatureError::Wrong)?;
    // The two parsers must have seen the same bytes.
    if content != shape.content {
        return Err(signed_data::SignedDataError::Unexpected("content").into());
    }
    Ok(Verified { content, signer: SignerInfo::of(signer)? })
}

/// What `der` contains, with nothing verified. For tools that show a bundle to a person who said so.
pub fn content_unverified(der: &[u8]) -> Result<Vec<u8>, SignatureError> {
    Ok(signed_data::read(der)?.content.to_vec())
}

/// Signs `content` as RAUC does: content inside, binary, signer and intermediates embedded, SHA-256.
pub fn sign(
    content: &[u8],
    certificate: &X509Ref,
    key: &PKeyRef<Private>,
    intermediates: &[X509],
) -> Result<Vec<u8>, SignatureError> {
    let others = stack(intermediates.iter().cloned())?;
    let flags = CMSOptions::BINARY | CMSOptions::NOSMIMECAP;
    let cms = CmsContentInfo::sign(Some(certificate), Some(key), Some(&others), Some(content), flags)?;
    Ok(cms.to_der()?)
}
