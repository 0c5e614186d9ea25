//! Public keys as metadata carries them, and the one place where a signature is checked.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pitstop_types::Digest;
use ring::signature::{self, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::canonical;

/// SHA-256 over the canonical JSON of the key.
pub type KeyId = Digest;

/// Longest public key text that is read; a 4096-bit RSA key in PEM has about 800 bytes.
const MAX_PUBLIC: usize = 2048;

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// RFC 8032; the public key is 32 bytes in hexadecimal.
    Ed25519,
    /// P-256 with SHA-256, signatures in DER; the public key is a PEM `SubjectPublicKeyInfo`. What a TPM offers.
    EcdsaP256,
    /// RSA-PSS with SHA-256, 2048 to 8192 bits; checked only, never made here.
    RsaPss,
}

impl Scheme {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ed25519 => ("ed25519", "ed25519"),
            Self::EcdsaP256 => ("ecdsa", "ecdsa-sha2-nistp256"),
            Self::RsaPss => ("rsa", "rsassa-pss-sha256"),
        }
    }
}

/// Why a JSON value is not a key that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key lacks keytype, scheme or keyval.public, or one is no text")]
    Shape,
    #[error("key type {keytype} with scheme {scheme} is not known")]
    Unknown { keytype: String, scheme: String },
    #[error("the public key is not a valid {0} key")]
    Public(&'static str),
}

/// A public key, understood. Compared by its material: two ids for one key do not make two keys.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    json: Value,
    id: KeyId,
    scheme: Scheme,
    /// As ring takes it: 32 bytes, an uncompressed point, or an `RSAPublicKey`.
    material: Vec<u8>,
}

impl PublicKey {
    /// Reads a key object. Unknown fields stay, because the id covers them.
    pub fn from_json(json: &Value) -> Result<Self, KeyError> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned).ok_or(KeyError::Shape);
        let keytype = text(json.get("keytype"))?;
        let scheme = text(json.get("scheme"))?;
        let public = text(json.get("keyval").and_then(|keyval| keyval.get("public")))?;
        if public.len() > MAX_PUBLIC {
            return Err(KeyError::Public("short enough"));
        }
        let scheme = [Scheme::Ed25519, Scheme::EcdsaP256, Scheme::RsaPss]
            .into_iter()
            .find(|known| known.names() == (keytype.as_str(), scheme.as_str()))
            .ok_or(KeyError::Unknown { keytype, scheme })?;
        let material = read_material(scheme, &public)?;
        let id = Digest::of(&canonical::to_bytes(json).map_err(|_| KeyError::Shape)?);
        Ok(Self { json: json.clone(), id, scheme, material })
    }

    /// A P-256 key from its PEM `SubjectPublicKeyInfo`, as a TPM or a provisioning request hands it over.
    pub fn from_p256_pem(pem: &str) -> Result<Self, KeyError> {
        // One spelling of the PEM, so that one key has one id.
        let der = read_pem(pem).ok_or(KeyError::Public("ecdsa"))?;
        Self::named(Scheme::EcdsaP256, &write_pem(&der))
    }

    /// An Ed25519 key from its 32 bytes.
    pub fn from_ed25519(public: &[u8]) -> Result<Self, KeyError> {
        Self::named(Scheme::Ed25519, &hex::encode(public))
    }

    /// A P-256 key from its uncompressed point (65 bytes, `04 x y`).
    pub fn from_p256_point(point: &[u8]) -> Result<Self, KeyError> {
        let der = [&P256_PREFIX[..], point].concat();
        Self::named(Scheme::EcdsaP256, &write_pem(&der))
    }

    fn named(scheme: Scheme, public: &str) -> Result<Self, KeyError> {
        let (keytype, name) = scheme.names();
        Self::from_json(&json!({ "keytype": keytype, "scheme": name, "keyval": { "public": public } }))
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The key as metadata lists it.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// `keyval.public`: PEM, or hexadecimal for Ed25519.
    pub fn public_text(&self) -> &str {
        self.json.get("keyval").and_then(|keyval| keyval.get("public")).and_then(Value::as_str).unwrap_or_default()
    }

    /// What makes two keys the same.
    pub fn material(&self) -> (Scheme, &[u8]) {
        (self.scheme, &self.material)
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.scheme {
            Scheme::Ed25519 => &signature::ED25519,
            Scheme::EcdsaP256 => &signature::ECDSA_P256_SHA256_ASN1,
            Scheme::RsaPss => &signature::RSA_PSS_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.material).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.scheme.names().1, self.id)
    }
}

/// `SubjectPublicKeyInfo` of a P-256 key up to the point (RFC 5480): its length never varies.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// `AlgorithmIdentifier` of rsaEncryption with NULL parameters (RFC 3279, 2.3.1).
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

fn read_material(scheme: Scheme, public: &str) -> Result<Vec<u8>, KeyError> {
    match scheme {
        Scheme::Ed25519 => {
            let upper = public.bytes().any(|byte| byte.is_ascii_uppercase());
            let bytes = hex::decode(public).ok().filter(|bytes| bytes.len() == 32 && !upper);
            bytes.ok_or(KeyError::Public("ed25519"))
        }
        Scheme::EcdsaP256 => {
            let der = read_pem(public);
            let point = der.as_deref().and_then(|der| der.strip_prefix(&P256_PREFIX[..]));
            let point = point.filter(|point| point.len() == 65 && point.first() == Some(&4));
            point.map(<[u8]>::to_vec).ok_or(KeyError::Public("ecdsa"))
        }
        Scheme::RsaPss => read_pem(public).as_deref().and_then(rsa_key).ok_or(KeyError::Public("rsa")),
    }
}

/// The `RSAPublicKey` inside a `SubjectPublicKeyInfo`; ring checks the key itself.
fn rsa_key(der: &[u8]) -> Option<Vec<u8>> {
    let (content, rest) = der_value(der, 0x30)?;
    let (bits, after) = der_value(content.strip_prefix(&RSA_ALGORITHM[..])?, 0x03)?;
    let key = bits.strip_prefix(&[0])?;
    (rest.is_empty() && after.is_empty()).then(|| key.to_vec())
}

/// Content of the DER value with `tag` at the start of `der`, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            (bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn read_pem(pem: &str) -> Option<Vec<u8>> {
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let digits: String = body.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD.decode(digits).ok()
}

fn write_pem(der: &[u8]) -> String {
    let digits = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = digits.as_str();
    while let Some((line, more)) = rest.split_at_checked(64) {
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    if !rest.is_empty() {
        pem.push_str(rest);
        pem.push('\n');
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}
