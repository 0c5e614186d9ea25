//! A payload with signatures, and how many of them count.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use crate::strict::{self, StrictError};
use crate::{
    At, KeyId, MAX_IMAGE_TARGETS, MAX_SMALL, Metadata, PublicKey, Role, SignError, Signer, VerifyError, canonical,
};

/// More signatures than this are refused; a role has at most this many keys.
pub const MAX_SIGNATURES: usize = 16;
/// Longest signature: RSA with 8192 bits.
const MAX_SIGNATURE_BYTES: usize = 1024;

/// Bytes that have the shape of signed metadata. Nothing is believed yet.
#[derive(Debug, Clone)]
pub struct Envelope {
    signatures: Vec<(KeyId, Vec<u8>)>,
    signed: Value,
    message: Vec<u8>,
}

/// What is wrong with an envelope before any key is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error(transparent)]
    Strict(#[from] StrictError),
    #[error("it has no object `signed` and list `signatures`")]
    Shape,
    #[error("it is not signed")]
    Unsigned,
    #[error("it has {0} signatures, at most {MAX_SIGNATURES} are read")]
    TooMany(usize),
    #[error("a signature is not lower-case hexadecimal of a fitting length")]
    Signature,
    #[error("a key id is not 64 lower-case hexadecimal digits, or stands twice")]
    KeyId,
}

impl EnvelopeError {
    pub(crate) fn at(self, at: &At) -> VerifyError {
        match self {
            Self::Strict(StrictError::Oversized { length, limit }) => {
                VerifyError::Oversized { at: at.clone(), length, limit }
            }
            Self::Unsigned => VerifyError::Unsigned { at: at.clone() },
            Self::KeyId => VerifyError::BadKeyId { at: at.clone(), text: self.to_string() },
            other => VerifyError::malformed(at, other.to_string()),
        }
    }
}

impl Envelope {
    /// Reads at most `limit` bytes.
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Self, EnvelopeError> {
        let Value::Object(mut whole) = strict::parse(bytes, limit)? else { return Err(EnvelopeError::Shape) };
        // Taken out and never cloned: the payload is by far the largest part, and nobody has answered for it yet.
        let (Some(signed @ Value::Object(_)), Some(Value::Array(list))) =
            (whole.remove("signed"), whole.remove("signatures"))
        else {
            return Err(EnvelopeError::Shape);
        };
        if list.is_empty() {
            return Err(EnvelopeError::Unsigned);
        }
        if list.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::TooMany(list.len()));
        }
        let mut seen = BTreeSet::new();
        let mut signatures = Vec::new();
        for entry in &list {
            let (id, signature) = read_signature(entry)?;
            if !seen.insert(id) {
                return Err(EnvelopeError::KeyId);
            }
            signatures.push((id, signature));
        }
        let message = canonical::to_bytes(&signed).map_err(|_| EnvelopeError::Shape)?;
        Ok(Self { signatures, signed, message })
    }

    /// The payload alone, for a reader who need not keep both.
    pub(crate) fn into_signed(self) -> Value {
        self.signed
    }

    /// The payload, as it was received. Not verified by being here.
    pub fn signed(&self) -> &Value {
        &self.signed
    }

    /// How many of `keys` have signed, each key counted once however many ids it goes by.
    pub fn count<'k>(&self, keys: impl IntoIterator<Item = &'k PublicKey>) -> usize {
        let mut counted = BTreeSet::new();
        for key in keys {
            let signature = self.signatures.iter().find(|(id, _)| *id == key.id());
            if signature.is_some_and(|(_, signature)| key.verifies(&self.message, signature)) {
                counted.insert(key.material());
            }
        }
        counted.len()
    }

    /// Refuses the payload unless `threshold` different keys of `keys` have signed it.
    pub(crate) fn require(&self, at: &At, keys: &[PublicKey], threshold: u64) -> Result<(), VerifyError> {
        let good = self.count(keys);
        if threshold == 0 || (good as u64) < threshold {
            return Err(VerifyError::UnmetThreshold { at: at.clone(), good, threshold });
        }
        Ok(())
    }
}

fn read_signature(entry: &Value) -> Result<(KeyId, Vec<u8>), EnvelopeError> {
    let text = |name| entry.get(name).and_then(Value::as_str);
    let (Some(id), Some(signature)) = (text("keyid"), text("sig")) else { return Err(EnvelopeError::Shape) };
    let id = KeyId::parse(id).map_err(|_| EnvelopeError::KeyId)?;
    let upper = signature.bytes().any(|byte| byte.is_ascii_uppercase());
    if signature.len() > 2 * MAX_SIGNATURE_BYTES || upper {
        return Err(EnvelopeError::Signature);
    }
    Ok((id, hex::decode(signature).map_err(|_| EnvelopeError::Signature)?))
}

/// A signed metadata file as a repository serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    pub version: u64,
    pub bytes: Vec<u8>,
}

impl SignedFile {
    /// The name under which a repository with consistent snapshots serves it (`timestamp.json` has no version).
    pub fn name(&self, role: &str) -> String {
        if role == "timestamp" { "timestamp.json".to_owned() } else { format!("{}.{role}.json", self.version) }
    }
}

/// Signs `metadata` with every one of `signers`. Checks the metadata's own sense and the file's length, so that nothing is
/// signed that a vehicle would refuse for its form.
pub fn sign<M: Metadata>(metadata: &M, signers: &[&dyn Signer]) -> Result<SignedFile, SignError> {
    metadata.check().map_err(|error| SignError::Refused(error.to_string()))?;
    let bytes = sign_payload(metadata, signers)?;
    let limit = if M::TYPE == Role::Targets { MAX_IMAGE_TARGETS } else { MAX_SMALL };
    if bytes.len() > limit {
        return Err(SignError::Refused(format!("{} bytes, vehicles take at most {limit} of {}", bytes.len(), M::TYPE)));
    }
    Ok(SignedFile { version: metadata.version(), bytes })
}

/// Makes an envelope around any payload: canonical JSON is signed, plain JSON is written.
pub(crate) fn sign_payload<T: Serialize>(payload: &T, signers: &[&dyn Signer]) -> Result<Vec<u8>, SignError> {
    let refused = |error: &dyn std::fmt::Display| SignError::Refused(error.to_string());
    let signed = serde_json::to_value(payload).map_err(|error| refused(&error))?;
    let message = canonical::to_bytes(&signed).map_err(|error| refused(&error))?;
    let mut signatures = Vec::new();
    for signer in signers {
        let signature = hex::encode(signer.sign(&message)?);
        signatures.push(json!({ "keyid": signer.public().id(), "sig": signature }));
    }
    serde_json::to_vec(&json!({ "signatures": signatures, "signed": signed })).map_err(|error| refused(&error))
}
