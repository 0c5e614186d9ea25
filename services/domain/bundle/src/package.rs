//! A workshop's package: one file with all that an update without a network needs, in the order in which it is judged.
//!
//! The form is a tar archive (POSIX ustar), so that any machine can list and unpack it, held to one shape: first the metadata of both
//! repositories (`metadata/director/2.root.json`, `metadata/image/targets.json`), then, last, the bundle (`bundle.raucb`), then zeros.
//! Whoever reads it as a stream knows whether the bundle is wanted before its first byte.
//!
//! Nothing is stored here: [`Contents`] reads one header block after the other and keeps count.

use std::collections::BTreeSet;

/// Bytes of a tar block.
pub const TAR_BLOCK: usize = 512;
/// Longest package taken, in bytes: the largest file that a ustar header can describe.
pub const MAX_PACKAGE: u64 = 8 << 30;
/// All metadata together, in bytes: the largest targets file of the Image repository and as much for its delegated roles, and as much
/// again for roots and the rest. It is held in memory until it is verified.
pub const MAX_METADATA: u64 = 8 << 20;
/// Metadata files: some hundred roots of each repository and all delegated roles.
const MAX_FILES: usize = 600;
/// Name of the bundle.
pub const BUNDLE: &str = "bundle.raucb";
const METADATA: &str = "metadata/";

/// Why a package is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    #[error("the package has {0} bytes, at most {MAX_PACKAGE} are taken")]
    TooLarge(u64),
    #[error("a header block is not one of a tar archive")]
    Header,
    #[error("{0:?} does not belong into a package, or not here")]
    Name(String),
    #[error("{name} has {length} bytes, more than its kind may have or than the package has left")]
    Length { name: String, length: u64 },
    #[error("the package ends before its bundle")]
    NoBundle,
    #[error("there is something behind the bundle")]
    Behind,
}

/// One of the two repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Director,
    Image,
}

/// What comes after a header block: this many bytes, then [`padding`] to the next block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A metadata file by its plain name (`2.root.json`).
    Metadata { side: Side, name: String, length: u64 },
    /// The last member.
    Bundle { length: u64 },
}

impl Member {
    pub const fn length(&self) -> u64 {
        match self {
            Self::Metadata { length, .. } | Self::Bundle { length } => *length,
        }
    }
}

/// Follows a package through its header blocks.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Bytes that are left behind what was read so far.
    left: u64,
    metadata: u64,
    names: BTreeSet<String>,
    over: bool,
}

impl Contents {
    /// `length`: of the whole package, as whoever brings it claims; nothing more is ever read.
    pub fn new(length: u64) -> Result<Self, PackageError> {
        if length > MAX_PACKAGE {
            return Err(PackageError::TooLarge(length));
        }
        Ok(Self { left: length, metadata: 0, names: BTreeSet::new(), over: false })
    }

    /// Reads the next header block.
    pub fn header(&mut self, block: &[u8; TAR_BLOCK]) -> Result<Member, PackageError> {
        if self.over {
            return Err(PackageError::Behind);
        }
        self.left = self.left.checked_sub(TAR_BLOCK as u64).ok_or(PackageError::NoBundle)?;
        if block.iter().all(|&byte| byte == 0) {
            return Err(PackageError::NoBundle);
        }
        let (name, length) = parse(block)?;
        let too_long = || PackageError::Length { name: name.clone(), length };
        let whole = length.checked_add(padding(length)).filter(|whole| *whole <= self.left).ok_or_else(too_long)?;
        self.left -= whole;
        if name == BUNDLE {
            self.over = true;
            return Ok(Member::Bundle { length });
        }
        let unknown = || PackageError::Name(name.chars().take(100).collect());
        let (side, file) = side_of(&name).ok_or_else(unknown)?;
        if self.names.len() >= MAX_FILES || !self.names.insert(name.clone()) {
            return Err(unknown());
        }
        self.metadata = self.metadata.saturating_add(length);
        if self.metadata > MAX_METADATA {
            return Err(too_long());
        }
        Ok(Member::Metadata { side, name: file.to_owned(), length })
    }

    /// Bytes behind the bundle and its padding; all of them are zero.
    pub const fn left(&self) -> u64 {
        self.left
    }
}

/// Bytes that fill the last block of `length` bytes.
pub const fn padding(length: u64) -> u64 {
    (TAR_BLOCK as u64 - length % TAR_BLOCK as u64) % TAR_BLOCK as u64
}

/// Header block of a member. Owner, mode and time are always the same, so equal content makes an equal package.
pub fn header(name: &str, length: u64) -> Result<[u8; TAR_BLOCK], PackageError> {
    if name != BUNDLE && side_of(name).is_none() {
        return Err(PackageError::Name(name.to_owned()));
    }
    if length >= MAX_PACKAGE {
        return Err(PackageError::Length { name: name.to_owned(), length });
    }
    let mut block = [0; TAR_BLOCK];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000644\0");
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    put(&mut block, 124, format!("{length:011o}\0").as_bytes());
    put(&mut block, 136, b"00000000000\0");
    put(&mut block, 156, b"0");
    put(&mut block, 257, b"ustar\x0000");
    let sum = checksum(&block);
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// Name of a metadata member.
pub fn metadata_name(side: Side, file: &str) -> String {
    let side = match side {
        Side::Director => "director",
        Side::Image => "image",
    };
    format!("{METADATA}{side}/{file}")
}

fn put(block: &mut [u8; TAR_BLOCK], at: usize, bytes: &[u8]) {
    block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn side_of(name: &str) -> Option<(Side, &str)> {
    let (side, file) = name.strip_prefix(METADATA)?.split_once('/')?;
    let side = match side {
        "director" => Side::Director,
        "image" => Side::Image,
        _ => return None,
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let plain = file.ends_with(".json") && !file.starts_with('.') && file.bytes().all(legal) && name.len() <= 100;
    plain.then_some((side, file))
}

/// Name and length of a plain file; links, folders, sparse files and extended headers are refused.
fn parse(block: &[u8; TAR_BLOCK]) -> Result<(String, u64), PackageError> {
    let field = |at: usize, length: usize| block.get(at..at + length).unwrap_or_default();
    let magic = field(257, 6) == b"ustar\0" || field(257, 6) == b"ustar ";
    let kind = matches!(field(156, 1), [b'0' | 0]);
    let prefix = field(345, 155).iter().all(|&byte| byte == 0);
    if !magic || !kind || !prefix || octal(field(148, 8)) != Some(checksum(block)) {
        return Err(PackageError::Header);
    }
    let name = field(0, 100).split(|&byte| byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| PackageError::Header)?;
    Ok((name.to_owned(), octal(field(124, 12)).ok_or(PackageError::Header)?))
}

/// Octal digits, ended by a NUL or a space, as old and new tar programs write them.
fn octal(field: &[u8]) -> Option<u64> {
    let text = field.trim_ascii_start();
    let end = text.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Sum of all bytes, those of the sum itself taken as spaces.
fn checksum(block: &[u8; TAR_BLOCK]) -> u64 {
    block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u64::from(byte) }).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(name: &str, length: u64) -> [u8; TAR_BLOCK] {
        header(name, length).unwrap()
    }

    fn contents() -> Contents {
        Contents::new(1 << 20).unwrap()
    }

    #[test]
    fn metadata_comes_first_and_the_bundle_last() {
        let mut contents = contents();
        let root = Member::Metadata { side: Side::Director, name: "2.root.json".into(), length: 5 };
        assert_eq!(contents.header(&member("metadata/director/2.root.json", 5)), Ok(root));
        assert_eq!(contents.header(&member("metadata/image/targets.json", 512)).unwrap().length(), 512);
        assert_eq!(contents.header(&member(BUNDLE, 1000)), Ok(Member::Bundle { length: 1000 }));
        assert_eq!(contents.left(), (1 << 20) - 512 - 512 - 512 - 512 - 512 - 1024);
        assert_eq!(contents.header(&member("metadata/image/x.json", 1)), Err(PackageError::Behind));
    }

    #[test]
    fn names_that_do_not_belong_are_refused() {
        for name in [
            "metadata/director/../x.json",
            "metadata/director/a/b.json",
            "metadata/other/x.json",
            "metadata/image/.x.json",
            "metadata/image/x.txt",
            "/bundle.raucb",
            "bundle.raucb2",
            "",
        ] {
            assert!(matches!(header(name, 1), Err(PackageError::Name(_))), "{name}");
            let mut block = member(BUNDLE, 1);
            put(&mut block, 0, &[0; 100]);
            put(&mut block, 0, name.as_bytes());
            let sum = checksum(&block);
            put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
            assert!(matches!(contents().header(&block), Err(PackageError::Name(_))), "{name}");
        }
        let mut twice = contents();
        twice.header(&member("metadata/image/x.json", 1)).unwrap();
        assert!(matches!(twice.header(&member("metadata/image/x.json", 1)), Err(PackageError::Name(_))));
    }

    #[test]
    fn claimed_lengths_are_held_against_what_can_be_there() {
        assert_eq!(Contents::new(10_000_000_000).unwrap_err(), PackageError::TooLarge(10_000_000_000));
        let too_long = |result| matches!(result, Err(PackageError::Length { .. }));
        assert!(too_long(contents().header(&member(BUNDLE, 1 << 20))));
        assert!(too_long(contents().header(&member("metadata/image/x.json", (1 << 20) - 511))));
        let mut large = Contents::new(1 << 30).unwrap();
        large.header(&member("metadata/image/x.json", MAX_METADATA)).unwrap();
        assert!(too_long(large.header(&member("metadata/image/y.json", 1))));
        assert_eq!(Contents::new(511).unwrap().header(&member(BUNDLE, 0)), Err(PackageError::NoBundle));
        assert_eq!(contents().header(&[0; TAR_BLOCK]), Err(PackageError::NoBundle));
    }

    #[test]
    fn links_folders_and_extended_headers_are_refused() {
        for kind in [b'1', b'2', b'5', b'x', b'g', b'L', b'S'] {
            let mut block = member(BUNDLE, 1);
            put(&mut block, 156, &[kind]);
            let sum = checksum(&block);
            put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(contents().header(&block), Err(PackageError::Header), "{}", char::from(kind));
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_a_header_passes(at in 0..TAR_BLOCK, bit in 0..8_u32) {
            let mut block = member("metadata/director/2.root.json", 77);
            block[at] ^= 1 << bit;
            // The sum itself may be written with spaces in place of zeros; everything else is covered by it.
            let spared = (148..156).contains(&at);
            prop_assert!(spared || contents().header(&block).is_err());
        }

        #[test]
        fn any_block_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), TAR_BLOCK), length in any::<u64>()) {
            let block: [u8; TAR_BLOCK] = bytes.try_into().unwrap();
            if let Ok(mut contents) = Contents::new(length) {
                let _ = contents.header(&block);
            }
        }

        #[test]
        fn a_header_reads_back_as_it_was_written(length in 0..MAX_PACKAGE) {
            let mut contents = Contents { left: u64::MAX, ..contents() };
            prop_assert_eq!(contents.header(&member(BUNDLE, length)), Ok(Member::Bundle { length }));
        }
    }
}
