//! The shape of a bundle's CMS structure (RFC 5652), checked before a cryptographic library sees it.
//!
//! Exactly this is taken: SignedData with content of type data, SHA-256 throughout, exactly one signer named by issuer and serial number,
//! signed attributes present, unsigned ones absent, DER in its only encoding. A library's leniency in any of these would let bytes
//! of the file change without the signature noticing. The signature itself and the chain are `pitstop-bundle-io`'s business.

/// Most certificates in one structure: the signer and its intermediates.
pub const MAX_CERTIFICATES: usize = 8;

const OID_SIGNED_DATA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02];
const OID_DATA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01];
const OID_SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const OID_RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const OID_RSA_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B];
const OID_ECDSA_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02];

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xA0;

/// What a well-shaped structure holds. Nothing in it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedData<'a> {
    /// The encapsulated content: the manifest's text.
    pub content: &'a [u8],
    /// The certificates, each in DER.
    pub certificates: Vec<&'a [u8]>,
}

/// Why bytes are not a CMS structure of the only shape that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedDataError {
    #[error("the signature is not DER")]
    Der,
    #[error("bytes follow where the signature's {0} ends")]
    Trailing(&'static str),
    #[error("the signature's {0} is missing or of another kind")]
    Unexpected(&'static str),
    #[error("the signature's {0} has an algorithm other than SHA-256 with ECDSA or RSA")]
    Algorithm(&'static str),
    #[error("the signature has {0} signers, exactly one is taken")]
    Signers(usize),
    #[error("the signature carries no content: it is of a plain bundle")]
    Detached,
    #[error("the signature carries more than {MAX_CERTIFICATES} certificates")]
    TooManyCertificates,
}

type Result<T> = std::result::Result<T, SignedDataError>;

/// Checks the shape of `der` and takes it apart. The caller bounds its length.
pub fn read(der: &[u8]) -> Result<SignedData<'_>> {
    let mut outer = Der(der);
    let mut info = Der(outer.expect(SEQUENCE, "content info")?);
    outer.end("content info")?;
    info.oid(OID_SIGNED_DATA, "content info's type")?;
    let mut explicit = Der(info.expect(CONTEXT_0, "signed data")?);
    info.end("content info")?;
    let mut signed = Der(explicit.expect(SEQUENCE, "signed data")?);
    explicit.end("signed data")?;
    signed.version()?;
    let mut digests = Der(signed.expect(SET, "digest algorithms")?);
    algorithm(digests.expect(SEQUENCE, "digest algorithm")?, &[OID_SHA256], "digest algorithms")?;
    digests.end("digest algorithms")?;
    let content = content(signed.expect(SEQUENCE, "encapsulated content")?)?;
    let certificates = certificates(signed.expect(CONTEXT_0, "certificates")?)?;
    // A CRL here would be the signer's own word on its validity; the keyring's owner brings CRLs.
    let mut signers = Der(signed.expect(SET, "signer set")?);
    signed.end("signed data")?;
    let first = signers.expect(SEQUENCE, "signer").map_err(|_| SignedDataError::Signers(0))?;
    if !signers.0.is_empty() {
        return Err(SignedDataError::Signers(2));
    }
    signer(first)?;
    Ok(SignedData { content, certificates })
}

fn content(bytes: &[u8]) -> Result<&[u8]> {
    let mut info = Der(bytes);
    info.oid(OID_DATA, "content type")?;
    if info.0.is_empty() {
        return Err(SignedDataError::Detached);
    }
    let mut explicit = Der(info.expect(CONTEXT_0, "content")?);
    info.end("content")?;
    let content = explicit.expect(OCTET_STRING, "content")?;
    explicit.end("content")?;
    Ok(content)
}

fn certificates(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut rest = Der(bytes);
    let mut found = Vec::new();
    while !rest.0.is_empty() {
        if found.len() >= MAX_CERTIFICATES {
            return Err(SignedDataError::TooManyCertificates);
        }
        let before = rest.0;
        rest.expect(SEQUENCE, "certificate")?;
        found.push(before.get(..before.len() - rest.0.len()).ok_or(SignedDataError::Der)?);
    }
    Ok(found)
}

fn signer(bytes: &[u8]) -> Result<()> {
    let mut signer = Der(bytes);
    signer.version()?;
    signer.expect(SEQUENCE, "signer's issuer and serial number")?;
    algorithm(signer.expect(SEQUENCE, "signer's digest algorithm")?, &[OID_SHA256], "signer's digest")?;
    signer.expect(CONTEXT_0, "signed attributes")?;
    let kinds = [OID_ECDSA_SHA256, OID_RSA, OID_RSA_SHA256];
    algorithm(signer.expect(SEQUENCE, "signature algorithm")?, &kinds, "signer's signature")?;
    signer.expect(OCTET_STRING, "signature value")?;
    // Unsigned attributes are bytes that nobody vouches for.
    signer.end("signer")
}

/// An AlgorithmIdentifier: one of `allowed`, with parameters absent or NULL.
fn algorithm(bytes: &[u8], allowed: &[&[u8]], what: &'static str) -> Result<()> {
    let mut id = Der(bytes);
    let oid = id.expect(OID, what)?;
    if !allowed.contains(&oid) {
        return Err(SignedDataError::Algorithm(what));
    }
    if !id.0.is_empty() && !id.expect(NULL, what)?.is_empty() {
        return Err(SignedDataError::Algorithm(what));
    }
    id.end(what)
}

/// What remains of a run of DER values.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, which must have `tag`.
    fn expect(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8]> {
        let (&found, rest) = self.0.split_first().ok_or(SignedDataError::Unexpected(what))?;
        if found != tag {
            return Err(SignedDataError::Unexpected(what));
        }
        let (length, rest) = length(rest)?;
        let content = rest.get(..length).ok_or(SignedDataError::Der)?;
        self.0 = rest.get(length..).ok_or(SignedDataError::Der)?;
        Ok(content)
    }

    fn oid(&mut self, oid: &[u8], what: &'static str) -> Result<()> {
        if self.expect(OID, what)? == oid { Ok(()) } else { Err(SignedDataError::Unexpected(what)) }
    }

    /// RFC 5652, 5.1 and 5.3: version 1 follows from content of type data and a signer named by issuer and serial number.
    fn version(&mut self) -> Result<()> {
        if self.expect(INTEGER, "version")? == [1] { Ok(()) } else { Err(SignedDataError::Unexpected("version")) }
    }

    fn end(&self, what: &'static str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(SignedDataError::Trailing(what)) }
    }
}

/// X.690, 10.1: definite form, in the fewest bytes. At most three bytes of length: a structure is at most 64 KiB long.
fn length(bytes: &[u8]) -> Result<(usize, &[u8])> {
    match bytes {
        [short @ 0..=0x7F, rest @ ..] => Ok((usize::from(*short), rest)),
        [0x81, a @ 0x80..=0xFF, rest @ ..] => Ok((usize::from(*a), rest)),
        [0x82, a @ 1..=0xFF, b, rest @ ..] => Ok((usize::from(u16::from_be_bytes([*a, *b])), rest)),
        [0x83, a @ 1..=0xFF, b, c, rest @ ..] => Ok((u32::from_be_bytes([0, *a, *b, *c]) as usize, rest)),
        _ => Err(SignedDataError::Der),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match content.len() {
            n @ 0..=0x7F => out.push(n as u8),
            n @ 0x80..=0xFF => out.extend([0x81, n as u8]),
            n => out.extend([0x82, (n >> 8) as u8, n as u8]),
        }
        out.extend(content);
        out
    }

    fn sample(text: &[u8], certificate_count: usize, signers: usize) -> Vec<u8> {
        let version = tlv(INTEGER, &[&[1]]);
        let sha = tlv(SEQUENCE, &[&tlv(OID, &[OID_SHA256])]);
        let ecdsa = tlv(SEQUENCE, &[&tlv(OID, &[OID_ECDSA_SHA256])]);
        let signer = tlv(
            SEQUENCE,
            &[&version, &tlv(SEQUENCE, &[]), &sha, &tlv(CONTEXT_0, &[]), &ecdsa, &tlv(OCTET_STRING, &[b"sig"])],
        );
        let content = tlv(SEQUENCE, &[&tlv(OID, &[OID_DATA]), &tlv(CONTEXT_0, &[&tlv(OCTET_STRING, &[text])])]);
        let certificates = tlv(CONTEXT_0, &[&tlv(SEQUENCE, &[b"x"]).repeat(certificate_count)]);
        let signed = tlv(
            SEQUENCE,
            &[&version, &tlv(SET, &[&sha]), &content, &certificates, &tlv(SET, &[&signer.repeat(signers)])],
        );
        tlv(SEQUENCE, &[&tlv(OID, &[OID_SIGNED_DATA]), &tlv(CONTEXT_0, &[&signed])])
    }

    #[test]
    fn the_only_shape_is_taken_apart() {
        let der = sample(b"hello", 2, 1);
        let read = read(&der).unwrap();
        assert_eq!((read.content, read.certificates.len()), (b"hello".as_slice(), 2));
    }

    #[test]
    fn other_shapes_have_names() {
        assert_eq!(read(&sample(b"", 1, 0)), Err(SignedDataError::Signers(0)));
        assert_eq!(read(&sample(b"", 1, 2)), Err(SignedDataError::Signers(2)));
        assert_eq!(read(&sample(b"", 9, 1)), Err(SignedDataError::TooManyCertificates));
        assert_eq!(read(&[0; 100]), Err(SignedDataError::Unexpected("content info")));
        assert_eq!(read(&[]), Err(SignedDataError::Unexpected("content info")));
        let mut trailing = sample(b"hello", 1, 1);
        trailing.push(0);
        assert_eq!(read(&trailing), Err(SignedDataError::Trailing("content info")));
    }

    #[test]
    fn lengths_have_one_spelling() {
        assert_eq!(length(&[0x81, 0x7F]), Err(SignedDataError::Der));
        assert_eq!(length(&[0x82, 0, 0x80]), Err(SignedDataError::Der));
        assert_eq!(length(&[0x80]), Err(SignedDataError::Der));
        assert_eq!(length(&[0x84, 1, 0, 0, 0]), Err(SignedDataError::Der));
        assert_eq!(length(&[0x82, 1, 0]), Ok((256, [].as_slice())));
    }

    proptest! {
        #[test]
        fn content_is_found_whatever_its_length(text in prop::collection::vec(any::<u8>(), 0..600)) {
            let der = sample(&text, 1, 1);
            prop_assert_eq!(read(&der).unwrap().content, text.as_slice());
        }

        #[test]
        fn a_damaged_structure_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut der = sample(b"hello", 2, 1);
            let at = at.index(der.len());
            der[at] = byte;
            let _ = read(&der);
            let cut = cut.index(der.len());
            prop_assert!(read(&der[..cut]).is_err());
        }
    }
}
