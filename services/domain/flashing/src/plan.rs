//! From bundle, profile and ECU to the transfer plan: pure, and printable for people.

mod print;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use pitstop_bundle::{Description, Segment};
use pitstop_types::{EcuId, HardwareId};

use crate::profile::{OptionField, Profile};
use crate::{Banks, EcuIdentity, Ident};

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct PlanInput<'a> {
    pub ecu: &'a EcuId,
    pub hardware: &'a HardwareId,
    pub description: &'a Description,
    /// Blank runs of each segment, from [`crate::BlankFinder`]; empty: send everything.
    pub blanks: &'a [Vec<Range<u64>>],
    pub profile: &'a Profile,
    pub identity: &'a EcuIdentity,
    /// What ran was erased for this software: what the ECU calls it counts no longer.
    pub erased: bool,
    /// Address of the segment that holds the identity block, if one does.
    pub seal: Option<u32>,
    /// Segments the ECU has reported as right; empty: none.
    pub right: &'a [bool],
}

/// Everything that will be erased and sent to one ECU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferPlan {
    pub ecu: EcuId,
    pub hardware: HardwareId,
    pub banks: Banks,
    /// What it runs now; `None`: bootloader.
    pub from: Option<Ident>,
    pub to: Ident,
    pub segments: Vec<PlannedSegment>,
    /// In the order of writing; all are erased first, the last one first of all.
    pub groups: Vec<Group>,
    /// Address of the segment that makes the software valid.
    pub seal: Option<u32>,
    pub estimate: Duration,
}

/// One segment of the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSegment {
    pub address: u32,
    /// Bytes in the ECU's memory.
    pub memory_length: u32,
    pub crc32: u32,
    pub data_format: u8,
    /// Already right in the ECU.
    pub right: bool,
    /// What is sent; what lies between reads like erased flash.
    pub pieces: Vec<Piece>,
}

/// One RequestDownload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub address: u32,
    /// In `payload.bin`.
    pub offset: u64,
    /// Bytes sent.
    pub length: u32,
    /// Size in the ECU's memory, as 34 announces it.
    pub memory_length: u32,
}

/// Segments that share erase sectors: they are erased and written together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `None`: the erase routine takes no range, it erases the bank.
    pub erase: Option<EraseRange>,
    /// Numbers of segments, ascending.
    pub segments: Vec<usize>,
}

/// Memory to erase, on sector bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EraseRange {
    pub address: u64,
    pub size: u64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("ECU {ecu} is hardware {found:?}, the order is for {expected}")]
    WrongHardware { ecu: EcuId, expected: HardwareId, found: String },
    #[error("ECU {ecu} runs software number {found:?}, which this software does not replace")]
    NotReplaceable { ecu: EcuId, found: String },
    #[error("the segment at {address:#x} is packed; this ECU's check needs a CRC-32 over unpacked memory")]
    PackedCheck { address: u32 },
    #[error("the profile's seal is the segment at {address:#x}, and this software has none there")]
    SealMissing { address: u32 },
    #[error(
        "the {what} at {address:#x}, {size:#x} bytes long: {address_bytes} address and {size_bytes} size bytes are too few"
    )]
    DoesNotFit { what: &'static str, address: u64, size: u64, address_bytes: u8, size_bytes: u8 },
}

impl TransferPlan {
    /// Checks the ECU's identification and plans the transfer. Nothing to do gives a plan without groups.
    pub fn new(input: &PlanInput<'_>) -> Result<Self, PlanError> {
        check_identity(input)?;
        let to = Ident {
            software_number: input.description.after.software_number.clone(),
            version: input.description.after.version.clone(),
        };
        let mut plan = Self {
            ecu: input.ecu.clone(),
            hardware: input.hardware.clone(),
            banks: input.profile.banks,
            from: running(input.identity),
            to,
            segments: planned_segments(input)?,
            groups: Vec::new(),
            seal: input.profile.transfer.seal.or(input.seal),
            estimate: Duration::ZERO,
        };
        plan.groups = plan.grouped(input.profile);
        plan.check_seal(input.profile)?;
        plan.check_sizes(input.profile)?;
        plan.keep_right_groups();
        plan.estimate = plan.estimated(input.profile);
        Ok(plan)
    }

    /// The same plan once the ECU has told which segments are right already.
    pub(crate) fn without(&self, right: &[bool], profile: &Profile) -> Self {
        let mut plan = self.clone();
        for (segment, right) in plan.segments.iter_mut().zip(right) {
            segment.right = *right;
        }
        plan.groups = plan.grouped(profile);
        plan.keep_right_groups();
        plan.estimate = plan.estimated(profile);
        plan
    }

    /// Bytes that will be sent.
    pub fn bytes(&self) -> u64 {
        self.to_write().flat_map(|segment| &segment.pieces).map(|piece| u64::from(piece.length)).sum()
    }

    pub fn is_nothing(&self) -> bool {
        self.groups.is_empty()
    }

    /// Segments of all groups, in the order of writing.
    pub fn to_write(&self) -> impl Iterator<Item = &PlannedSegment> {
        self.groups.iter().flat_map(|group| &group.segments).filter_map(|number| self.segments.get(*number))
    }

    /// Joins segments whose sectors overlap, in ascending order, then puts the group with the seal last.
    fn grouped(&self, profile: &Profile) -> Vec<Group> {
        if profile.erase.option.is_empty() {
            return vec![Group { erase: None, segments: (0..self.segments.len()).collect() }];
        }
        let mut groups: Vec<(EraseRange, Vec<usize>)> = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let range = sectors(segment, u64::from(profile.erase.sector));
            match groups.last_mut() {
                Some((last, members)) if range.address < last.end() => {
                    last.size = range.end().max(last.end()) - last.address;
                    members.push(number);
                }
                _ => groups.push((range, vec![number])),
            }
        }
        let mut groups: Vec<Group> =
            groups.into_iter().map(|(erase, segments)| Group { erase: Some(erase), segments }).collect();
        if let Some(at) = groups.iter().position(|group| self.seals(group)) {
            let seal = groups.remove(at);
            groups.push(seal);
        }
        groups
    }

    /// A seal that no segment has would be erased at no time and written at no time: half the software would pass for all of it.
    fn check_seal(&self, profile: &Profile) -> Result<(), PlanError> {
        match profile.transfer.seal {
            Some(address) if !self.segments.iter().any(|segment| segment.address == address) => {
                Err(PlanError::SealMissing { address })
            }
            _ => Ok(()),
        }
    }

    /// Cut to the bytes that the profile gives an address, it would name other memory.
    fn check_sizes(&self, profile: &Profile) -> Result<(), PlanError> {
        const DOWNLOAD: &[OptionField] = &[OptionField::Address, OptionField::Size];
        for segment in &self.segments {
            let (address, size) = (segment.address.into(), segment.memory_length.into());
            check_size(profile, &profile.check.option, "segment", address, size)?;
            for piece in &segment.pieces {
                check_size(profile, DOWNLOAD, "segment", piece.address.into(), piece.memory_length.into())?;
            }
        }
        for range in self.groups.iter().filter_map(|group| group.erase) {
            check_size(profile, &profile.erase.option, "range to erase", range.address, range.size)?;
        }
        Ok(())
    }

    fn seals(&self, group: &Group) -> bool {
        let is_seal = |number: &usize| self.segments.get(*number).map(|s| s.address) == self.seal;
        self.seal.is_some() && group.segments.iter().any(is_seal)
    }

    /// Leaves out groups that are right already. The seal is written again with anything else: between the first erase and
    /// the last block it must not vouch for software that is only half there.
    fn keep_right_groups(&mut self) {
        let is_right =
            |group: &Group| group.segments.iter().all(|number| self.segments.get(*number).is_some_and(|s| s.right));
        if self.groups.iter().all(is_right) {
            return self.groups.clear();
        }
        let kept: Vec<Group> =
            self.groups.iter().filter(|group| !is_right(group) || self.seals(group)).cloned().collect();
        let written: BTreeSet<usize> = kept.iter().flat_map(|group| group.segments.iter().copied()).collect();
        self.groups = kept;
        for (number, segment) in self.segments.iter_mut().enumerate() {
            segment.right = segment.right && !written.contains(&number);
        }
    }

    fn estimated(&self, profile: &Profile) -> Duration {
        if self.is_nothing() {
            return Duration::ZERO;
        }
        let erased: u64 = self
            .groups
            .iter()
            .map(|group| match group.erase {
                Some(range) => range.size,
                None => self.segments.iter().map(|s| u64::from(s.memory_length)).sum(),
            })
            .sum();
        let erase = Duration::from_millis(erased / 1024 * u64::from(profile.erase.ms_per_kib));
        let send = Duration::from_millis(self.bytes() * 1000 / u64::from(profile.transfer.bytes_per_second.max(1)));
        // A start of the loader and one of the new software; a dual-bank ECU goes on working meanwhile.
        let boots = if self.banks == Banks::Single { profile.timing.boot } else { Duration::ZERO };
        erase + send + boots
    }
}

impl EraseRange {
    /// First address behind the range.
    pub fn end(&self) -> u64 {
        self.address + self.size
    }
}

fn check_identity(input: &PlanInput<'_>) -> Result<(), PlanError> {
    if input.identity.hardware != input.hardware.as_str() {
        return Err(PlanError::WrongHardware {
            ecu: input.ecu.clone(),
            expected: input.hardware.clone(),
            found: input.identity.hardware.clone(),
        });
    }
    let (expect, found) = (&input.description.expect, &input.identity.software_number);
    let replaceable = expect.is_empty()
        || expect.software_numbers.contains(found)
        || *found == input.description.after.software_number;
    if !replaceable && !input.identity.in_bootloader() && !input.erased {
        return Err(PlanError::NotReplaceable { ecu: input.ecu.clone(), found: found.clone() });
    }
    Ok(())
}

fn running(identity: &EcuIdentity) -> Option<Ident> {
    let version = identity.version.clone()?;
    Some(Ident { software_number: identity.software_number.clone(), version })
}

fn planned_segments(input: &PlanInput<'_>) -> Result<Vec<PlannedSegment>, PlanError> {
    let checks_crc = input.profile.check.option.contains(&OptionField::Crc32);
    let mut planned = Vec::with_capacity(input.description.segments.len());
    for (number, segment) in input.description.segments.iter().enumerate() {
        if segment.data_format != 0 && checks_crc {
            return Err(PlanError::PackedCheck { address: segment.address });
        }
        let blanks = input.blanks.get(number).map_or(&[][..], Vec::as_slice);
        planned.push(PlannedSegment {
            address: segment.address,
            memory_length: segment.memory_len(),
            crc32: segment.crc32,
            data_format: segment.data_format,
            right: input.right.get(number).copied().unwrap_or(false),
            pieces: pieces(segment, blanks),
        });
    }
    Ok(planned)
}

/// What lies between the blank runs. Packed data is sent whole: its bytes are not those of the memory.
fn pieces(segment: &Segment, blanks: &[Range<u64>]) -> Vec<Piece> {
    let whole = Piece {
        address: segment.address,
        offset: segment.offset,
        length: segment.length,
        memory_length: segment.memory_len(),
    };
    if segment.data_format != 0 {
        return vec![whole];
    }
    let length = u64::from(segment.length);
    let mut out = Vec::new();
    let mut at = 0;
    for blank in blanks.iter().chain([&(length..length)]) {
        let end = blank.start.min(length);
        if end > at {
            // Both fit: they are below the segment's 32-bit length, and its end below 2^32.
            let (skip, bytes) = (at as u32, (end - at) as u32);
            out.push(Piece {
                address: segment.address + skip,
                offset: segment.offset + at,
                length: bytes,
                memory_length: bytes,
            });
        }
        at = at.max(blank.end.min(length));
    }
    out
}

/// Whether what a request carries of the two fits the bytes it has for them.
fn check_size(
    profile: &Profile,
    carried: &[OptionField],
    what: &'static str,
    address: u64,
    size: u64,
) -> Result<(), PlanError> {
    let (address_bytes, size_bytes) = (profile.transfer.address_bytes, profile.transfer.size_bytes);
    let fits = |value: u64, bytes: u8| value.checked_shr(u32::from(bytes) * 8).unwrap_or(0) == 0;
    let last = address.saturating_add(size.saturating_sub(1));
    let fits = |field, value, bytes| !carried.contains(&field) || fits(value, bytes);
    if fits(OptionField::Address, last, address_bytes) && fits(OptionField::Size, size, size_bytes) {
        return Ok(());
    }
    Err(PlanError::DoesNotFit { what, address, size, address_bytes, size_bytes })
}

fn sectors(segment: &PlannedSegment, sector: u64) -> EraseRange {
    let start = u64::from(segment.address) / sector * sector;
    let end = (u64::from(segment.address) + u64::from(segment.memory_length)).next_multiple_of(sector);
    EraseRange { address: start, size: end - start }
}

#[cfg(test)]
mod tests;
