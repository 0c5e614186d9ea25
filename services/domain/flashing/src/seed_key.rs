//! Key functions of 0x27, by the name a profile gives. They are secrets shared with the ECU, so 0x27 is for legacy ECUs only.

/// Longest seed and secret accepted, in bytes.
pub const MAX_LEN: usize = 64;

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedKeyError {
    #[error("no key function {0:?} is built in")]
    UnknownPlugin(String),
    #[error("seed or secret is empty or longer than {MAX_LEN} bytes")]
    Length,
}

/// Computes the key for `seed`. Built in: `sha256` = the first 16 bytes of SHA-256(secret, level, seed).
pub fn key(plugin: &str, secret: &[u8], level: u8, seed: &[u8]) -> Result<Vec<u8>, SeedKeyError> {
    if [secret, seed].iter().any(|part| part.is_empty() || part.len() > MAX_LEN) {
        return Err(SeedKeyError::Length);
    }
    match plugin {
        "sha256" => {
            let digest = pitstop_types::Digest::of(&[secret, &[level], seed].concat());
            Ok(digest.as_bytes().iter().take(16).copied().collect())
        }
        other => Err(SeedKeyError::UnknownPlugin(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_secret_level_and_seed() {
        let base = key("sha256", b"secret", 0x11, b"seed").unwrap();
        assert_eq!(base.len(), 16);
        assert_ne!(key("sha256", b"other", 0x11, b"seed").unwrap(), base);
        assert_ne!(key("sha256", b"secret", 0x01, b"seed").unwrap(), base);
        assert_ne!(key("sha256", b"secret", 0x11, b"dees").unwrap(), base);
        assert_eq!(key("xor", b"s", 1, b"s"), Err(SeedKeyError::UnknownPlugin("xor".into())));
        assert_eq!(key("sha256", b"s", 1, &[0; 65]), Err(SeedKeyError::Length));
    }
}
