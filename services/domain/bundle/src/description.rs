//! `description.toml`: what of an ECU bundle's payload goes where in the ECU's memory.

use std::collections::BTreeSet;

use pitstop_types::{Digest, Sha256Writer, SoftwareVersion};
use serde::{Deserialize, Serialize};

/// Longest description read, in bytes. A description of [`MAX_SEGMENTS`] segments needs about 30 kB.
pub const MAX_DESCRIPTION_LEN: usize = 128 * 1024;
/// Most segments in one description.
pub const MAX_SEGMENTS: usize = 128;
/// Most software numbers a description may allow as predecessors.
pub const MAX_EXPECTED: usize = 64;
/// The software number and the version fill at most this many bytes (fields of the identity block and of F188, F189).
pub const MAX_IDENT_LEN: usize = 24;

/// How an ECU payload is laid out and what the ECU says before and after it is flashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Number of this format; 1.
    pub format: u32,
    /// In ascending order of address after [`Description::check`].
    #[serde(rename = "segment")]
    pub segments: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Expected::is_empty")]
    pub expect: Expected,
    pub after: After,
}

/// One contiguous piece of ECU memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// First address in the ECU's memory.
    pub address: u32,
    /// Bytes in `payload.bin`, and bytes transferred. Never zero.
    pub length: u32,
    /// Where the segment begins in `payload.bin`.
    pub offset: u64,
    /// `dataFormatIdentifier` of RequestDownload (ISO 14229-1): high nibble compression, low nibble encryption; 0 is neither.
    #[serde(default)]
    pub data_format: u8,
    /// CRC-32 (IEEE 802.3) over the segment's bytes in `payload.bin`.
    pub crc32: u32,
    /// SHA-256 over the same bytes.
    pub sha256: Digest,
    /// Bytes this segment fills in the ECU's memory when the data format unpacks it; `length` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_length: Option<u32>,
}

/// What the ECU may run before. Empty means anything (a blank ECU must be flashable).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Software numbers (F188) this software may replace; empty: any.
    #[serde(default)]
    pub software_numbers: Vec<String>,
}

impl Expected {
    /// True when nothing is demanded of the software that runs before.
    pub fn is_empty(&self) -> bool {
        self.software_numbers.is_empty()
    }
}

/// What the ECU answers once it runs this software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// DID F188.
    pub software_number: String,
    /// DID F189.
    pub version: SoftwareVersion,
}

/// Why a text is not a description, or does not fit its payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    #[error("the description is {0} bytes long, at most {MAX_DESCRIPTION_LEN} are read")]
    TooLong(usize),
    #[error("the description is not UTF-8")]
    NotUtf8,
    #[error("the description does not read as TOML: {0}")]
    Syntax(String),
    #[error("the description has format {0}, this reader knows 1")]
    Format(u32),
    #[error("the description names no segment")]
    NoSegment,
    #[error("the description names {0} segments, at most {MAX_SEGMENTS} are read")]
    TooManySegments(usize),
    #[error("the segment at {0:#x} is empty")]
    EmptySegment(u32),
    #[error("the segment at {0:#x} reaches beyond the 32-bit address space")]
    AddressSpace(u32),
    #[error("the segments at {0:#x} and {1:#x} overlap in the ECU's memory")]
    Overlap(u32, u32),
    #[error("the segment at {address:#x} ends at byte {end} of a payload of {payload} bytes")]
    BeyondPayload { address: u32, end: u64, payload: u64 },
    #[error("{0:?} is not a software number: 1 to {MAX_IDENT_LEN} printable ASCII characters without space")]
    SoftwareNumber(String),
    #[error("the version {0} is longer than {MAX_IDENT_LEN} bytes")]
    VersionLength(String),
    #[error("the description allows {0} predecessors, at most {MAX_EXPECTED} are read")]
    TooManyExpected(usize),
    #[error("the segment at {0:#x} has the wrong CRC-32")]
    Crc(u32),
    #[error("the segment at {0:#x} has the wrong SHA-256")]
    Sha256(u32),
}

impl Segment {
    /// A segment of `bytes` at `offset` of the payload, stored as it is.
    pub fn of(address: u32, offset: u64, bytes: &[u8]) -> Result<Self, DescriptionError> {
        let length = u32::try_from(bytes.len()).map_err(|_| DescriptionError::AddressSpace(address))?;
        Ok(Self {
            address,
            length,
            offset,
            data_format: 0,
            crc32: crc32fast::hash(bytes),
            sha256: Digest::of(bytes),
            memory_length: None,
        })
    }

    /// Bytes the segment fills in the ECU's memory.
    pub fn memory_len(&self) -> u32 {
        self.memory_length.unwrap_or(self.length)
    }

    /// First address behind the segment.
    pub fn end_address(&self) -> u64 {
        u64::from(self.address) + u64::from(self.memory_len())
    }

    /// First byte of the payload behind the segment.
    pub fn end_offset(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }

    /// Compares `bytes`, read from the payload, with both checks.
    pub fn check_bytes(&self, bytes: &[u8]) -> Result<(), DescriptionError> {
        let mut sums = SegmentSums::default();
        sums.update(bytes);
        self.check_sums(sums)
    }

    /// The same for bytes that were read piece by piece.
    pub fn check_sums(&self, sums: SegmentSums) -> Result<(), DescriptionError> {
        if sums.crc32.finalize() != self.crc32 {
            return Err(DescriptionError::Crc(self.address));
        }
        if sums.sha256.finish() != self.sha256 {
            return Err(DescriptionError::Sha256(self.address));
        }
        Ok(())
    }
}

/// Both checks over a segment's bytes as they are read: a segment may be larger than memory.
#[derive(Default)]
pub struct SegmentSums {
    crc32: crc32fast::Hasher,
    sha256: Sha256Writer,
}

impl SegmentSums {
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc32.update(bytes);
        self.sha256.update(bytes);
    }
}

impl Description {
    /// Reads and checks a description; `payload_len` is the length of the payload file in bytes.
    pub fn read(bytes: &[u8], payload_len: u64) -> Result<Self, DescriptionError> {
        if bytes.len() > MAX_DESCRIPTION_LEN {
            return Err(DescriptionError::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| DescriptionError::NotUtf8)?;
        let mut this: Self = toml::from_str(text).map_err(|e| DescriptionError::Syntax(e.message().to_owned()))?;
        this.segments.sort_by_key(|s| s.address);
        this.check(payload_len)?;
        Ok(this)
    }

    /// The text of this description. Reading it gives an equal value.
    pub fn write(&self) -> Result<String, DescriptionError> {
        toml::to_string(self).map_err(|e| DescriptionError::Syntax(e.to_string()))
    }

    /// The sense of a description, against a payload of `payload_len` bytes.
    pub fn check(&self, payload_len: u64) -> Result<(), DescriptionError> {
        if self.format != 1 {
            return Err(DescriptionError::Format(self.format));
        }
        if self.segments.is_empty() {
            return Err(DescriptionError::NoSegment);
        }
        if self.segments.len() > MAX_SEGMENTS {
            return Err(DescriptionError::TooManySegments(self.segments.len()));
        }
        for segment in &self.segments {
            check_segment(segment, payload_len)?;
        }
        self.check_overlaps()?;
        self.check_idents()
    }

    fn check_overlaps(&self) -> Result<(), DescriptionError> {
        let by_address: BTreeSet<(u32, u64)> = self.segments.iter().map(|s| (s.address, s.end_address())).collect();
        if by_address.len() != self.segments.len() {
            let address = self.segments.first().map_or(0, |s| s.address);
            return Err(DescriptionError::Overlap(address, address));
        }
        for (a, b) in by_address.iter().zip(by_address.iter().skip(1)) {
            if a.1 > u64::from(b.0) {
                return Err(DescriptionError::Overlap(a.0, b.0));
            }
        }
        Ok(())
    }

    fn check_idents(&self) -> Result<(), DescriptionError> {
        if self.expect.software_numbers.len() > MAX_EXPECTED {
            return Err(DescriptionError::TooManyExpected(self.expect.software_numbers.len()));
        }
        for number in self.expect.software_numbers.iter().chain([&self.after.software_number]) {
            let legal =
                !number.is_empty() && number.len() <= MAX_IDENT_LEN && number.bytes().all(|b| b.is_ascii_graphic());
            if !legal {
                return Err(DescriptionError::SoftwareNumber(number.chars().take(2 * MAX_IDENT_LEN).collect()));
            }
        }
        if self.after.version.as_str().len() > MAX_IDENT_LEN {
            return Err(DescriptionError::VersionLength(self.after.version.to_string()));
        }
        Ok(())
    }
}

fn check_segment(segment: &Segment, payload_len: u64) -> Result<(), DescriptionError> {
    if segment.length == 0 || segment.memory_len() == 0 {
        return Err(DescriptionError::EmptySegment(segment.address));
    }
    if segment.end_address() > 1 << 32 {
        return Err(DescriptionError::AddressSpace(segment.address));
    }
    if segment.end_offset() > payload_len {
        return Err(DescriptionError::BeyondPayload {
            address: segment.address,
            end: segment.end_offset(),
            payload: payload_len,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Description {
        Description {
            format: 1,
            segments: vec![Segment::of(0x8000, 0, &[1; 100]).unwrap(), Segment::of(0x1_0000, 100, &[2; 64]).unwrap()],
            expect: Expected::default(),
            after: After { software_number: "PS-BCM-0001".into(), version: SoftwareVersion::new("2.0.0").unwrap() },
        }
    }

    #[test]
    fn a_description_is_read_as_a_person_writes_it() {
        let text = r#"
            format = 1
            [[segment]]
            address = 0x8000
            length = 3
            offset = 0
            data_format = 0x00
            crc32 = 0x352441C2
            sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            [expect]
            software_numbers = ["PS-BCM-0001"]
            [after]
            software_number = "PS-BCM-0001"
            version = "2.0.0"
        "#;
        let read = Description::read(text.as_bytes(), 3).unwrap();
        assert_eq!(read.segments[0].check_bytes(b"abc"), Ok(()));
        assert_eq!(read.segments[0].check_bytes(b"abd"), Err(DescriptionError::Crc(0x8000)));
        assert_eq!(read.expect.software_numbers, ["PS-BCM-0001"]);
    }

    #[test]
    fn a_segment_read_in_pieces_is_judged_by_both_sums_to_its_last_byte() {
        let mut bytes = vec![7; 1000];
        let segment = Segment::of(0x8000, 0, &bytes).unwrap();
        let judge = |bytes: &[u8], segment: &Segment| {
            let mut sums = SegmentSums::default();
            bytes.chunks(64).for_each(|piece| sums.update(piece));
            segment.check_sums(sums)
        };
        assert_eq!(judge(&bytes, &segment), Ok(()));
        assert_eq!(judge(&bytes[..999], &segment), Err(DescriptionError::Crc(0x8000)));
        bytes[999] = 8;
        assert_eq!(judge(&bytes, &segment), Err(DescriptionError::Crc(0x8000)));
        let other = Segment { crc32: crc32fast::hash(&bytes), ..segment };
        assert_eq!(judge(&bytes, &other), Err(DescriptionError::Sha256(0x8000)));
    }

    #[test]
    fn overlapping_segments_are_refused() {
        let mut d = sample();
        d.segments[1].address = 0x8000 + 99;
        assert_eq!(d.check(164), Err(DescriptionError::Overlap(0x8000, 0x8063)));
        d.segments[1].address = 0x8000;
        assert!(matches!(d.check(164), Err(DescriptionError::Overlap(0x8000, _))));
        d.segments[1].address = 0x8000 + 100;
        assert_eq!(d.check(164), Ok(()));
        d.segments[1] = d.segments[0].clone();
        assert_eq!(d.check(164), Err(DescriptionError::Overlap(0x8000, 0x8000)));
    }

    #[test]
    fn a_segment_stays_in_payload_and_address_space() {
        let mut d = sample();
        assert!(matches!(d.check(163), Err(DescriptionError::BeyondPayload { end: 164, payload: 163, .. })));
        d.segments[1].offset = u64::MAX;
        assert!(matches!(d.check(164), Err(DescriptionError::BeyondPayload { .. })));
        let mut d = sample();
        d.segments[1].address = u32::MAX - 62;
        assert!(matches!(d.check(164), Err(DescriptionError::AddressSpace(_))));
        d.segments[1].length = 0;
        assert!(matches!(d.check(164), Err(DescriptionError::EmptySegment(_))));
    }

    #[test]
    fn unknown_keys_and_other_formats_are_refused() {
        let text = sample().write().unwrap();
        assert!(matches!(
            Description::read(format!("surprise = 1\n{text}").as_bytes(), 164),
            Err(DescriptionError::Syntax(_))
        ));
        assert_eq!(
            Description::read(text.replace("format = 1", "format = 2").as_bytes(), 164),
            Err(DescriptionError::Format(2))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(pieces in prop::collection::vec((1u32..5000, 0u32..2000), 1..10), any_version in "[!-~]{1,24}") {
            let (mut address, mut offset) = (0u32, 0u64);
            let mut segments = Vec::new();
            for (length, gap) in pieces {
                address += gap;
                segments.push(Segment::of(address, offset, &vec![7; length as usize]).unwrap());
                address += length;
                offset += u64::from(length);
            }
            let d = Description { segments, after: After { software_number: any_version.clone(), version: SoftwareVersion::new(any_version).unwrap() }, ..sample() };
            prop_assert_eq!(Description::read(d.write().unwrap().as_bytes(), offset), Ok(d));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Description::read(&bytes, 1000);
        }
    }
}
