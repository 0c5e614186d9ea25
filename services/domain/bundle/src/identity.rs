//! The identity block: 64 bytes at a fixed place in an ECU's memory that say which software lies there. An ECU answers F188 and F189
//! out of it, so that a version changes only when flash has really changed.

use pitstop_types::{ReleaseCounter, SoftwareVersion};

use crate::description::MAX_IDENT_LEN;

/// Length of an identity block in bytes.
pub const IDENTITY_LEN: usize = 64;
const MAGIC: &[u8; 4] = b"PSID";
const FORMAT: u8 = 1;
const CHECKED_LEN: usize = IDENTITY_LEN - 4;

/// Layout: `PSID`, format 1, three zero bytes, software number (24 bytes, zero padded), version (24, likewise), release counter
/// (u32, big endian), CRC-32 (IEEE 802.3, big endian) over the 60 bytes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityBlock {
    /// DID F188: 1 to 24 printable ASCII characters.
    pub software_number: String,
    /// DID F189: at most 24 characters.
    pub version: SoftwareVersion,
    /// At most 2^32 - 1.
    pub counter: ReleaseCounter,
}

/// Why bytes are not an identity block, or a value does not fit into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("an identity block has {IDENTITY_LEN} bytes, found {0}")]
    Length(usize),
    #[error("there is no identity block here")]
    Magic,
    #[error("the identity block's checksum is wrong")]
    Checksum,
    #[error("the identity block has format {0}, this reader knows {FORMAT}")]
    Format(u8),
    #[error("the identity block's {0} is not zero-padded printable ASCII")]
    Field(&'static str),
    #[error("the {0} does not fit into an identity block")]
    DoesNotFit(&'static str),
}

impl IdentityBlock {
    /// Reads a block; `bytes` holds exactly [`IDENTITY_LEN`] bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, IdentityError> {
        let block: &[u8; IDENTITY_LEN] = bytes.try_into().map_err(|_| IdentityError::Length(bytes.len()))?;
        let (checked, crc) = block.split_at(CHECKED_LEN);
        let (head, fields) = checked.split_at(8);
        if !head.starts_with(MAGIC) {
            return Err(IdentityError::Magic);
        }
        if crc != crc32fast::hash(checked).to_be_bytes() {
            return Err(IdentityError::Checksum);
        }
        match head.get(4..) {
            Some([FORMAT, 0, 0, 0]) => {}
            Some([FORMAT, ..]) => return Err(IdentityError::Field("reserved part")),
            other => return Err(IdentityError::Format(other.and_then(|h| h.first()).copied().unwrap_or(0))),
        }
        let (number, rest) = fields.split_at(MAX_IDENT_LEN);
        let (version, counter) = rest.split_at(MAX_IDENT_LEN);
        let version = SoftwareVersion::new(text(version, "version")?).map_err(|_| IdentityError::Field("version"))?;
        let counter = counter.try_into().map_err(|_| IdentityError::Length(bytes.len()))?;
        Ok(Self {
            software_number: text(number, "software number")?,
            version,
            counter: ReleaseCounter(u32::from_be_bytes(counter).into()),
        })
    }

    /// The block's bytes.
    pub fn write(&self) -> Result<[u8; IDENTITY_LEN], IdentityError> {
        let counter = u32::try_from(self.counter.0).map_err(|_| IdentityError::DoesNotFit("release counter"))?;
        let mut out = Vec::with_capacity(IDENTITY_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[FORMAT, 0, 0, 0]);
        out.extend_from_slice(&field(&self.software_number, "software number")?);
        out.extend_from_slice(&field(self.version.as_str(), "version")?);
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out.try_into().map_err(|v: Vec<u8>| IdentityError::Length(v.len()))
    }
}

fn field(value: &str, name: &'static str) -> Result<[u8; MAX_IDENT_LEN], IdentityError> {
    let mut out = [0; MAX_IDENT_LEN];
    let legal = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
    match out.get_mut(..value.len()) {
        Some(head) if legal => head.copy_from_slice(value.as_bytes()),
        _ => return Err(IdentityError::DoesNotFit(name)),
    }
    Ok(out)
}

fn text(bytes: &[u8], name: &'static str) -> Result<String, IdentityError> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (head, padding) = bytes.split_at(end);
    if head.is_empty() || !head.iter().all(u8::is_ascii_graphic) || padding.iter().any(|&b| b != 0) {
        return Err(IdentityError::Field(name));
    }
    Ok(head.iter().copied().map(char::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> IdentityBlock {
        IdentityBlock {
            software_number: "PS-BCM-0001".into(),
            version: SoftwareVersion::new("2.0.0").unwrap(),
            counter: ReleaseCounter(7),
        }
    }

    #[test]
    fn a_block_has_its_fields_where_the_layout_says() {
        let bytes = sample().write().unwrap();
        assert_eq!(&bytes[..8], b"PSID\x01\0\0\0");
        assert_eq!(&bytes[8..20], b"PS-BCM-0001\0");
        assert_eq!(&bytes[32..38], b"2.0.0\0");
        assert_eq!(bytes[56..60], [0, 0, 0, 7]);
    }

    #[test]
    fn erased_flash_is_no_block() {
        assert_eq!(IdentityBlock::read(&[0xFF; 64]), Err(IdentityError::Magic));
        assert_eq!(IdentityBlock::read(&[0; 63]), Err(IdentityError::Length(63)));
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        let good = sample().write().unwrap();
        for bit in 0..512 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(IdentityBlock::read(&bad).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in "[!-~]{1,24}", version in "[!-~]{1,24}", counter in any::<u32>()) {
            let block = IdentityBlock { software_number: number, version: SoftwareVersion::new(version).unwrap(), counter: ReleaseCounter(counter.into()) };
            prop_assert_eq!(IdentityBlock::read(&block.write().unwrap()), Ok(block));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = IdentityBlock::read(&bytes);
        }
    }
}
