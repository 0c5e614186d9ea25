use std::fmt;

/// Data identifier (ISO 14229-1, annex C).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did(pub u16);

impl Did {
    pub const BOOT_SOFTWARE_IDENTIFICATION: Self = Self(0xF180);
    pub const BOOT_FINGERPRINT: Self = Self(0xF183);
    pub const APPLICATION_FINGERPRINT: Self = Self(0xF184);
    pub const ACTIVE_SESSION: Self = Self(0xF186);
    pub const ECU_SOFTWARE_NUMBER: Self = Self(0xF188);
    pub const ECU_SOFTWARE_VERSION: Self = Self(0xF189);
    pub const SYSTEM_SUPPLIER: Self = Self(0xF18A);
    pub const MANUFACTURING_DATE: Self = Self(0xF18B);
    pub const ECU_SERIAL_NUMBER: Self = Self(0xF18C);
    pub const VIN: Self = Self(0xF190);
    pub const ECU_HARDWARE_NUMBER: Self = Self(0xF191);
    pub const REPAIR_SHOP_OR_TESTER_SERIAL: Self = Self(0xF198);
    pub const PROGRAMMING_DATE: Self = Self(0xF199);
    /// Fingerprint, by usage in the OEM range F100..F17F.
    pub const OEM_FINGERPRINT: Self = Self(0xF15A);
    /// RXSWIN (UN R156) as this project serves it, in the OEM range F1A0..F1EF.
    pub const RXSWIN: Self = Self(0xF1EF);
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DID 0x{:04X}", self.0)
    }
}

/// The identity of an ECU's software as it stands in its flash: 64 bytes at a fixed address of the ECU's memory map.
///
/// Layout: magic `PSID`, format 1, three zero bytes, software number (24 bytes ASCII, zero padded), version (the same), release
/// counter (u32), CRC-32 (IEEE) of the 60 bytes before; numbers big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityBlock {
    /// What DID F188 answers. Printable ASCII, 1 to 24 bytes.
    pub software_number: String,
    /// What DID F189 answers. Printable ASCII, 1 to 24 bytes.
    pub version: String,
    pub release_counter: u32,
}

/// Why memory does not hold an identity block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityBlockError {
    #[error("identity block: {length} bytes instead of 64")]
    Length { length: usize },
    #[error("identity block: no magic (flash is blank or half written)")]
    Magic,
    #[error("identity block: format {found} is not known")]
    Format { found: u8 },
    #[error("identity block: checksum does not fit")]
    Checksum,
    #[error("identity block: {field} is not 1 to 24 bytes of printable ASCII")]
    Text { field: &'static str },
}

impl IdentityBlock {
    /// Size in flash, in bytes.
    pub const LEN: usize = 64;
    const MAGIC: [u8; 4] = *b"PSID";
    const TEXT: usize = 24;

    /// Refuses texts that do not fit their field.
    pub fn new(software_number: &str, version: &str, release_counter: u32) -> Result<Self, IdentityBlockError> {
        check_text(software_number.as_bytes(), "software number")?;
        check_text(version.as_bytes(), "version")?;
        Ok(Self { software_number: software_number.into(), version: version.into(), release_counter })
    }

    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut body = Vec::with_capacity(Self::LEN);
        body.extend_from_slice(&Self::MAGIC);
        body.extend_from_slice(&[1, 0, 0, 0]);
        for text in [&self.software_number, &self.version] {
            body.extend(text.bytes().chain(std::iter::repeat(0)).take(Self::TEXT));
        }
        body.extend_from_slice(&self.release_counter.to_be_bytes());
        body.extend_from_slice(&crc32(&body).to_be_bytes());
        let mut out = [0; Self::LEN];
        for (to, from) in out.iter_mut().zip(body) {
            *to = from;
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityBlockError> {
        let wrong_length = IdentityBlockError::Length { length: bytes.len() };
        if bytes.len() != Self::LEN {
            return Err(wrong_length);
        }
        let (head, rest) = bytes.split_at(8);
        let (number, rest) = rest.split_at(Self::TEXT);
        let (version, rest) = rest.split_at(Self::TEXT);
        let (&counter, crc) = rest.split_first_chunk::<4>().ok_or(wrong_length)?;
        let &[m0, m1, m2, m3, format, ..] = head else { return Err(wrong_length) };
        if [m0, m1, m2, m3] != Self::MAGIC {
            return Err(IdentityBlockError::Magic);
        }
        if format != 1 {
            return Err(IdentityBlockError::Format { found: format });
        }
        let (covered, _) = bytes.split_at(60);
        if crc32(covered).to_be_bytes() != crc {
            return Err(IdentityBlockError::Checksum);
        }
        Self::new(text(number, "software number")?, text(version, "version")?, u32::from_be_bytes(counter))
    }
}

fn check_text(bytes: &[u8], field: &'static str) -> Result<(), IdentityBlockError> {
    let fits = (1..=IdentityBlock::TEXT).contains(&bytes.len()) && bytes.iter().all(|b| (0x20..0x7F).contains(b));
    if fits { Ok(()) } else { Err(IdentityBlockError::Text { field }) }
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, IdentityBlockError> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (text, padding) = bytes.split_at(end);
    if padding.iter().any(|&b| b != 0) {
        return Err(IdentityBlockError::Text { field });
    }
    std::str::from_utf8(text).map_err(|_| IdentityBlockError::Text { field })
}

/// CRC-32 as Ethernet has it (IEEE 802.3); a block is 60 bytes, so a table would not pay.
fn crc32(bytes: &[u8]) -> u32 {
    let reflected = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    !reflected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_block_reads_back_as_it_was_written() {
        let block = IdentityBlock::new("PS-BCM-0001", "1.4.0", 7).unwrap();
        let bytes = block.encode();
        assert_eq!(&bytes[..8], b"PSID\x01\0\0\0");
        assert_eq!(IdentityBlock::decode(&bytes), Ok(block));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = IdentityBlock::new("PS-BCM-0001", "1.4.0", 7).unwrap().encode();
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(IdentityBlock::decode(&wrong).is_err(), "bit {bit}");
        }
        assert_eq!(IdentityBlock::decode(&[0xFF; 64]), Err(IdentityBlockError::Magic));
        assert_eq!(IdentityBlock::decode(&bytes[..63]), Err(IdentityBlockError::Length { length: 63 }));
    }
}
