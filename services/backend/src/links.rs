//! Download links: a path with device, expiry and HMAC, so that the download server needs no session and a cache in front may
//! key on the path alone.

use pitstop_types::{Digest, UnixSeconds};
use ring::hmac;

/// Makes and checks links.
pub struct LinkKey(hmac::Key);

/// What a link says, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link<'a> {
    pub sha256: Digest,
    pub device: &'a str,
    pub expires: UnixSeconds,
}

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link's signature is wrong")]
    Signature,
    #[error("the link has expired; ask for a new one")]
    Expired,
}

impl Link<'_> {
    fn message(&self) -> String {
        // Digest and number cannot hold the separator, and the device comes last.
        format!("dl\n{}\n{}\n{}", self.sha256, self.expires, self.device)
    }
}

impl LinkKey {
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The `sig` parameter, in hexadecimal.
    pub fn sign(&self, link: &Link<'_>) -> String {
        hex::encode(hmac::sign(&self.0, link.message().as_bytes()))
    }

    /// Compares in constant time, then looks at the clock.
    pub fn check(&self, link: &Link<'_>, signature: &str, now: UnixSeconds) -> Result<(), LinkError> {
        let bytes = hex::decode(signature).map_err(|_| LinkError::Signature)?;
        hmac::verify(&self.0, link.message().as_bytes(), &bytes).map_err(|_| LinkError::Signature)?;
        if now > link.expires { Err(LinkError::Expired) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_one_file_for_one_device_until_its_time() {
        let key = LinkKey::new(b"secret");
        let link = Link { sha256: Digest::of(b"a"), device: "d-1", expires: 1000 };
        let sig = key.sign(&link);
        assert_eq!(key.check(&link, &sig, 1000), Ok(()));
        assert_eq!(key.check(&link, &sig, 1001), Err(LinkError::Expired));
        for other in [
            Link { sha256: Digest::of(b"b"), ..link.clone() },
            Link { device: "d-2", ..link.clone() },
            Link { expires: 2000, ..link.clone() },
        ] {
            assert_eq!(key.check(&other, &sig, 0), Err(LinkError::Signature));
        }
        assert_eq!(LinkKey::new(b"other").check(&link, &sig, 0), Err(LinkError::Signature));
        for bad in ["", "00", "zz", &sig[2..]] {
            assert_eq!(key.check(&link, bad, 0), Err(LinkError::Signature));
        }
    }
}
