use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    #[error("{kind} is {length} bytes long, at most {limit} are allowed")]
    TooLong { kind: &'static str, length: usize, limit: usize },
    #[error("{kind} holds {found:?}, allowed are {allowed}")]
    Character { kind: &'static str, found: char, allowed: &'static str },
    #[error("{kind} starts with {found:?}; it starts with a letter or digit")]
    Start { kind: &'static str, found: char },
    #[error("VIN is {length} characters long, it has exactly 17 (ISO 3779)")]
    VinLength { length: usize },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $limit:literal, $allowed:literal, |$c:ident| $test:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest accepted length, in bytes.
            pub const MAX_LEN: usize = $limit;

            /// Checks `text` and takes it. See [`IdError`] for what is refused.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let Some(first) = text.chars().next() else { return Err(IdError::Empty { kind: $kind }) };
                if text.len() > $limit {
                    return Err(IdError::TooLong { kind: $kind, length: text.len(), limit: $limit });
                }
                if let Some(found) = text.chars().find(|&$c| !($test)) {
                    return Err(IdError::Character { kind: $kind, found, allowed: $allowed });
                }
                if !first.is_ascii_alphanumeric() {
                    return Err(IdError::Start { kind: $kind, found: first });
                }
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str { &self.0 }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> { Self::new(text) }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> { Self::new(text) }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.0 }
        }
    };
}

text_id!(
    /// One ECU of a vehicle as `vehicle.toml` and the Director name it (`bcm`, `tcu`). Lower case, fit for a D-Bus path segment.
    EcuId, "ECU id", 32, "a-z, 0-9 and _", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
);
text_id!(
    /// Hardware a bundle is made for (`bcm-a1`); the ECU, the bundle and both Uptane repositories must name the same.
    HardwareId, "hardware id", 64, "a-z, 0-9, - and .", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.'
);
text_id!(
    /// One vehicle's run of a campaign. Chosen by the backend, signed by the Director.
    UpdateId, "update id", 64, "a-z, 0-9 and -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
text_id!(
    /// The backend's order to many vehicles.
    CampaignId, "campaign id", 64, "a-z, 0-9 and -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
text_id!(
    /// Opaque name of a TCU, its certificate's common name; in topics and URLs in place of the VIN.
    DeviceId, "device id", 64, "a-z, 0-9 and -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
text_id!(
    /// A bus of the vehicle (`can0`, `doip0`), as `vehicle.toml` names it.
    BusName, "bus name", 15, "a-z, 0-9, _ and -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-'
);
text_id!(
    /// Boot name of a partition set of the TCU (`A`, `B`), as the boot loader's variables spell it.
    SlotName, "slot name", 8, "A-Z, a-z and 0-9", |c| c.is_ascii_alphanumeric()
);

impl UpdateId {
    /// How the ids of a workshop's updates begin: signed offline, brought to the vehicle by a tester. No campaign's id begins so.
    pub const WORKSHOP_PREFIX: &str = "w-";

    /// Whether a workshop brought it, not the network.
    pub fn is_workshop(&self) -> bool {
        self.0.starts_with(Self::WORKSHOP_PREFIX)
    }
}

/// Vehicle identification number, ISO 3779: 17 of `0-9` and `A-Z` without I, O and Q.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Vin(String);

impl Vin {
    /// Checks `text` and takes it; the check digit is not used in every market, so it is not checked.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        if text.len() != 17 {
            return Err(IdError::VinLength { length: text.chars().count() });
        }
        let legal = |c: char| c.is_ascii_digit() || (c.is_ascii_uppercase() && !matches!(c, 'I' | 'O' | 'Q'));
        match text.chars().find(|&c| !legal(c)) {
            Some(found) => Err(IdError::Character { kind: "VIN", found, allowed: "0-9 and A-Z without I, O, Q" }),
            None => Ok(Self(text)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Vin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for Vin {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(text)
    }
}
impl std::str::FromStr for Vin {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}
impl From<Vin> for String {
    fn from(vin: Vin) -> String {
        vin.0
    }
}

impl EcuId {
    /// The ECU id of the TCU itself: the one ECU that `self-update` serves and not `flasher`.
    pub fn tcu() -> Self {
        Self("tcu".to_owned())
    }

    pub fn is_tcu(&self) -> bool {
        self.0 == "tcu"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_never_an_identifier() {
        for bad in ["../x", "/abs", "a/b", "a\0b", ".", "", "-x", "é"] {
            assert!(EcuId::new(bad).is_err(), "{bad:?}");
            assert!(UpdateId::new(bad).is_err(), "{bad:?}");
            assert!(HardwareId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_vin_has_seventeen_legal_characters() {
        assert!(Vin::new("WP0ZZZ99ZTS392124").is_ok());
        assert!(matches!(Vin::new("WP0ZZZ99ZTS39212"), Err(IdError::VinLength { length: 16 })));
        assert!(matches!(Vin::new("WP0ZZZ99ZTS39212Q"), Err(IdError::Character { found: 'Q', .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_panic(text in ".{0,80}") {
            if let Ok(id) = EcuId::new(text.clone()) {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert!(id.as_str().len() <= EcuId::MAX_LEN);
            }
            let _ = Vin::new(text);
        }
    }
}
