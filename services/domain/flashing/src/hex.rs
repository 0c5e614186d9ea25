use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes written as pairs of hexadecimal digits with spaces between (`"31 01 02 03"`), as diagnostic people write them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexBytes(Vec<u8>);

/// Why a text is not a list of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    #[error("{0:?} is not a byte: two hexadecimal digits are one")]
    Pair(String),
    #[error("{0} bytes, at most {limit} are allowed", limit = HexBytes::MAX_LEN)]
    TooLong(usize),
}

impl HexBytes {
    /// A profile never needs more in one request; the bound keeps a broken file small.
    pub const MAX_LEN: usize = 256;

    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub fn parse(text: &str) -> Result<Self, HexError> {
        let count = text.split_ascii_whitespace().count();
        if count > Self::MAX_LEN {
            return Err(HexError::TooLong(count));
        }
        let byte = |pair: &str| {
            let two_digits = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            if !two_digits {
                return Err(HexError::Pair(pair.to_owned()));
            }
            u8::from_str_radix(pair, 16).map_err(|_| HexError::Pair(pair.to_owned()))
        };
        text.split_ascii_whitespace().map(byte).collect::<Result<Vec<u8>, _>>().map(Self)
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
impl TryFrom<String> for HexBytes {
    type Error = HexError;
    fn try_from(text: String) -> Result<Self, HexError> {
        Self::parse(&text)
    }
}
impl From<HexBytes> for String {
    fn from(bytes: HexBytes) -> String {
        bytes.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_pairs_of_digits_is_refused() {
        for bad in ["1", "123", "0x12", "+1", "zz", "31,01"] {
            assert!(matches!(HexBytes::parse(bad), Err(HexError::Pair(_))), "{bad}");
        }
        assert_eq!(HexBytes::parse(" 31 01\tff ").map(|b| b.as_slice().to_vec()), Ok(vec![0x31, 1, 0xFF]));
        assert!(matches!(HexBytes::parse(&"00 ".repeat(300)), Err(HexError::TooLong(300))));
    }

    proptest! {
        #[test]
        fn bytes_come_back_from_their_text(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = HexBytes::new(bytes.clone()).to_string();
            prop_assert_eq!(HexBytes::parse(&text), Ok(HexBytes::new(bytes)));
        }

        #[test]
        fn any_text_is_taken_or_refused_without_panic(text in ".{0,80}") {
            let _ = HexBytes::parse(&text);
        }
    }
}
