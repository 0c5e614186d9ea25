use std::fmt;

use crate::ServiceId;

/// Why bytes are not a UDS message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the UDS message is empty")]
    Empty,
    #[error("{service} has {length} bytes, at least {needed} are needed")]
    TooShort { service: ServiceId, length: usize, needed: usize },
    #[error("{service} carries {extra} bytes too many")]
    TooLong { service: ServiceId, extra: usize },
    #[error("{service} holds a malformed field: {what}")]
    Format { service: ServiceId, what: &'static str },
    #[error("first byte 0x{found:02X} is not a response")]
    NotAResponse { found: u8 },
}

/// Why a message cannot be written as bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("address or size needs more than {bytes} bytes")]
    DoesNotFit { bytes: u8 },
    #[error("address and size lengths are 1 to 8 bytes each, given {address} and {size}")]
    LengthNibble { address: u8, size: u8 },
    #[error("a field of 0x{length:X} bytes is longer than its length field can say")]
    FieldTooLong { length: usize },
}

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// Any other value (reserved, or the maker's own); bit 7 is never part of it.
            Other(u8),
        }

        impl $name {
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code & 0x7F }
            }
        }

        impl From<u8> for $name {
            /// Bit 7 (suppress positive response) is dropped.
            fn from(code: u8) -> Self {
                match code & 0x7F { $($code => Self::$variant,)* other => Self::Other(other) }
            }
        }
    };
}

byte_enum! {
    /// Diagnostic session (ISO 14229-1, DiagnosticSessionControl sub-functions).
    SessionType {
        Default = 0x01,
        Programming = 0x02,
        Extended = 0x03,
        SafetySystem = 0x04,
    }
}

byte_enum! {
    /// Reset (ISO 14229-1, ECUReset sub-functions).
    ResetType {
        Hard = 0x01,
        KeyOffOn = 0x02,
        Soft = 0x03,
    }
}

byte_enum! {
    /// What RoutineControl asks for.
    RoutineAction {
        Start = 0x01,
        Stop = 0x02,
        Results = 0x03,
    }
}

/// Routine identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutineId(pub u16);

impl RoutineId {
    /// eraseMemory (ISO 14229-1, annex F). Option record here: `alfi address size`.
    pub const ERASE_MEMORY: Self = Self(0xFF00);
    /// checkProgrammingDependencies (ISO 14229-1, annex F). Answer: one status byte, 00 = ok.
    pub const CHECK_DEPENDENCIES: Self = Self(0xFF01);
    /// Check memory (widespread OEM number). Option record here: `address(4) length(4) crc32(4)`, answer: status byte, 00 = ok.
    pub const CHECK_MEMORY: Self = Self(0x0202);
    /// Check programming preconditions (widespread OEM number). Answer: status byte, 00 = ok.
    pub const CHECK_PRECONDITIONS: Self = Self(0x0203);
}

impl fmt::Display for RoutineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "routine 0x{:04X}", self.0)
    }
}

/// Memory address and size with their lengths in bytes on the wire (addressAndLengthFormatIdentifier).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressAndSize {
    pub address: u64,
    pub size: u64,
    /// Low nibble of the format byte: 1 to 8 bytes of address.
    pub address_bytes: u8,
    /// High nibble of the format byte: 1 to 8 bytes of size.
    pub size_bytes: u8,
}

impl AddressAndSize {
    /// The usual layout: four bytes each, format byte 0x44.
    pub const fn four(address: u32, size: u32) -> Self {
        Self { address: address as u64, size: size as u64, address_bytes: 4, size_bytes: 4 }
    }

    /// `alfi address size`, big-endian.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(17);
        self.encode_into(&mut out)?;
        Ok(out)
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let lengths_fit = (1..=8).contains(&self.address_bytes) && (1..=8).contains(&self.size_bytes);
        if !lengths_fit {
            return Err(EncodeError::LengthNibble { address: self.address_bytes, size: self.size_bytes });
        }
        out.push(self.size_bytes << 4 | self.address_bytes);
        push_uint(out, self.address, self.address_bytes)?;
        push_uint(out, self.size, self.size_bytes)
    }
}

fn push_uint(out: &mut Vec<u8>, value: u64, bytes: u8) -> Result<(), EncodeError> {
    let wide = value.to_be_bytes();
    let (cut, kept) = wide.split_at(8 - usize::from(bytes.min(8)));
    if cut.iter().any(|&byte| byte != 0) {
        return Err(EncodeError::DoesNotFit { bytes });
    }
    out.extend_from_slice(kept);
    Ok(())
}
