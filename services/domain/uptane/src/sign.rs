//! Making signatures: the trait that a TPM, an HSM or a key in memory implements.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

use crate::{PublicKey, Scheme};

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the private key cannot be read")]
    Key,
    #[error("a key of this scheme is not made here")]
    Scheme,
    /// What the holder of the key said.
    #[error("the key's holder did not sign: {0}")]
    Refused(String),
}

/// Holds a private key, wherever that is.
pub trait Signer {
    fn public(&self) -> &PublicKey;
    /// Signs `message` (not its digest) in the key's scheme: DER for ECDSA, 64 bytes for Ed25519.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Box<EcdsaKeyPair>),
}

/// A key in this process's memory: the backend's online keys, the ceremony tool, tests.
pub struct MemorySigner {
    pair: Pair,
    public: PublicKey,
    random: SystemRandom,
}

impl std::fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemorySigner({:?})", self.public)
    }
}

impl MemorySigner {
    /// A new private key of `scheme` (Ed25519 or ECDSA) as PKCS#8 in DER.
    pub fn generate_pkcs8(scheme: Scheme) -> Result<Vec<u8>, SignError> {
        let random = SystemRandom::new();
        let document = match scheme {
            Scheme::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
            Scheme::EcdsaP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
            Scheme::RsaPss => return Err(SignError::Scheme),
        };
        Ok(document.map_err(|_| SignError::Key)?.as_ref().to_vec())
    }

    /// Takes a private key from PKCS#8 in DER and finds out which scheme it is of.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        let random = SystemRandom::new();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = PublicKey::from_ed25519(pair.public_key().as_ref()).map_err(|_| SignError::Key)?;
            return Ok(Self { pair: Pair::Ed25519(pair), public, random });
        }
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random).map_err(|_| SignError::Key)?;
        let public = PublicKey::from_p256_point(pair.public_key().as_ref()).map_err(|_| SignError::Key)?;
        Ok(Self { pair: Pair::Ecdsa(Box::new(pair)), public, random })
    }

    /// A new key that lives only as long as this value.
    pub fn generate(scheme: Scheme) -> Result<Self, SignError> {
        Self::from_pkcs8(&Self::generate_pkcs8(scheme)?)
    }
}

impl Signer for MemorySigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Ecdsa(pair) => {
                let signed = pair.sign(&self.random, message);
                Ok(signed.map_err(|_| SignError::Refused("no randomness".to_owned()))?.as_ref().to_vec())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_signs_it_verifies_and_no_other_does() {
        for scheme in [Scheme::Ed25519, Scheme::EcdsaP256] {
            let (key, other) = (MemorySigner::generate(scheme).unwrap(), MemorySigner::generate(scheme).unwrap());
            let signature = key.sign(b"message").unwrap();
            assert!(key.public().verifies(b"message", &signature));
            assert!(!key.public().verifies(b"massage", &signature));
            assert!(!other.public().verifies(b"message", &signature));
            assert!(!key.public().verifies(b"message", b""));
            assert_eq!(PublicKey::from_json(key.public().json()).unwrap(), *key.public());
        }
        assert_eq!(MemorySigner::generate_pkcs8(Scheme::RsaPss), Err(SignError::Scheme));
        assert!(MemorySigner::from_pkcs8(b"nonsense").is_err());
    }

    #[test]
    fn a_pem_of_any_line_length_gives_one_key_id() {
        let key = MemorySigner::generate(Scheme::EcdsaP256).unwrap();
        let pem = key.public().public_text().to_owned();
        let folded = pem.replace('\n', "\r\n");
        assert_eq!(PublicKey::from_p256_pem(&folded).unwrap().id(), key.public().id());
    }
}
