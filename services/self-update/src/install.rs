//! One image into one slot: skip if it is there already, write, make durable, read back.

use std::io::{self, Read};

use pitstop_slots::SlotImage;
use pitstop_types::Sha256Writer;

use crate::ports::SlotDevice;

/// Bytes moved at a time: large enough for flash, small enough that progress and cancel are prompt.
const CHUNK: usize = 256 * 1024;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking whether the slot holds the image already.
    Comparing,
    Writing,
    ReadingBack,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Comparing => "comparing",
            Self::Writing => "writing",
            Self::ReadingBack => "reading back",
        }
    }
}

/// How far it is, and whether to go on.
pub trait Watcher {
    /// `false` stops the work at this point.
    fn step(&mut self, step: Step, done: u64, total: u64) -> bool;
}

/// How the slot came to hold the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    AlreadySo,
    Written,
}

/// Why the slot does not hold the image now. Whatever it holds, it is marked bad.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("the image has {length} bytes, the slot holds {capacity}")]
    TooLarge { length: u64, capacity: u64 },
    #[error("reading the image from the bundle")]
    Source(#[source] io::Error),
    #[error("the bundle's image is not the one its manifest names")]
    WrongImage,
    #[error("{} the slot at byte {offset}", .step.as_str())]
    Device {
        step: Step,
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("the slot reads back differently from what was written")]
    ReadBack,
    #[error("cancelled")]
    Cancelled,
}

/// Puts `image`, read from `source`, into `device`.
pub fn install(
    source: &mut dyn Read,
    image: &SlotImage,
    device: &mut dyn SlotDevice,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, InstallError> {
    let failed = |step| move |source| InstallError::Device { step, offset: 0, source };
    let capacity = device.capacity().map_err(failed(Step::Comparing))?;
    if image.length > capacity {
        return Err(InstallError::TooLarge { length: image.length, capacity });
    }
    if holds(device, image, Step::Comparing, watcher)? {
        return Ok(Outcome::AlreadySo);
    }
    write(source, image, device, watcher)?;
    device.sync().map_err(failed(Step::Writing))?;
    if holds(device, image, Step::ReadingBack, watcher)? { Ok(Outcome::Written) } else { Err(InstallError::ReadBack) }
}

fn write(
    source: &mut dyn Read,
    image: &SlotImage,
    device: &mut dyn SlotDevice,
    watcher: &mut dyn Watcher,
) -> Result<(), InstallError> {
    let mut hash = Sha256Writer::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let offset = hash.length();
        if !watcher.step(Step::Writing, offset, image.length) {
            return Err(InstallError::Cancelled);
        }
        let count = fill(source, &mut buffer).map_err(InstallError::Source)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        if hash.length() > image.length {
            return Err(InstallError::WrongImage);
        }
        let failed = |source| InstallError::Device { step: Step::Writing, offset, source };
        device.write_at(bytes, offset).map_err(failed)?;
    }
    if hash.length() == image.length && hash.finish() == image.sha256 { Ok(()) } else { Err(InstallError::WrongImage) }
}

/// Whether the slot's first bytes are the image.
fn holds(
    device: &mut dyn SlotDevice,
    image: &SlotImage,
    step: Step,
    watcher: &mut dyn Watcher,
) -> Result<bool, InstallError> {
    let mut hash = Sha256Writer::new();
    let mut buffer = vec![0; CHUNK];
    while hash.length() < image.length {
        let offset = hash.length();
        if !watcher.step(step, offset, image.length) {
            return Err(InstallError::Cancelled);
        }
        let left = usize::try_from(image.length.saturating_sub(offset)).unwrap_or(CHUNK).min(CHUNK);
        let bytes = buffer.get_mut(..left).unwrap_or_default();
        let failed = |source| InstallError::Device { step, offset, source };
        device.read_at(bytes, offset).map_err(failed)?;
        hash.update(bytes);
    }
    Ok(hash.finish() == image.sha256)
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_types::{Digest, ReleaseCounter, SoftwareVersion};

    struct Memory {
        bytes: Vec<u8>,
        /// Flips this byte when it is written.
        rotten: Option<u64>,
        writes: usize,
    }

    impl SlotDevice for Memory {
        fn capacity(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }
        fn read_at(&mut self, into: &mut [u8], offset: u64) -> io::Result<()> {
            into.copy_from_slice(&self.bytes[offset as usize..][..into.len()]);
            Ok(())
        }
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.writes += 1;
            self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            if let Some(at) = self.rotten.filter(|at| (offset..offset + bytes.len() as u64).contains(at)) {
                self.bytes[at as usize] ^= 1;
            }
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Quiet(u32);
    impl Watcher for Quiet {
        fn step(&mut self, _: Step, _: u64, _: u64) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 > 0
        }
    }

    fn image(bytes: &[u8]) -> SlotImage {
        SlotImage {
            version: SoftwareVersion::new("2").unwrap(),
            counter: ReleaseCounter(2),
            length: bytes.len() as u64,
            sha256: Digest::of(bytes),
        }
    }

    fn slot(bytes: usize) -> Memory {
        Memory { bytes: vec![0xFF; bytes], rotten: None, writes: 0 }
    }

    fn new_bytes() -> Vec<u8> {
        (0..700_001_u32).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn an_image_is_written_once_and_then_found_there() {
        let (bytes, mut slot) = (new_bytes(), slot(1_000_000));
        let put = |slot: &mut Memory| install(&mut bytes.as_slice(), &image(&bytes), slot, &mut Quiet(99)).unwrap();
        assert_eq!(put(&mut slot), Outcome::Written);
        let writes = slot.writes;
        assert_eq!(put(&mut slot), Outcome::AlreadySo);
        assert_eq!(slot.writes, writes);
        assert_eq!(&slot.bytes[..bytes.len()], bytes);
    }

    #[test]
    fn a_byte_that_reads_back_wrong_is_found() {
        let (bytes, mut slot) = (new_bytes(), Memory { rotten: Some(300_000), ..slot(1_000_000) });
        let result = install(&mut bytes.as_slice(), &image(&bytes), &mut slot, &mut Quiet(99));
        assert!(matches!(result, Err(InstallError::ReadBack)));
    }

    #[test]
    fn an_image_that_is_not_what_the_manifest_says_is_refused() {
        let bytes = new_bytes();
        for wrong in [&bytes[1..], &bytes[..bytes.len() - 1], &[bytes.clone(), vec![0]].concat()] {
            let result = install(&mut &*wrong, &image(&bytes), &mut slot(1_000_000), &mut Quiet(99));
            assert!(matches!(result, Err(InstallError::WrongImage)), "{}", wrong.len());
        }
    }

    #[test]
    fn a_slot_that_is_too_small_is_not_touched() {
        let (bytes, mut slot) = (new_bytes(), slot(700_000));
        let result = install(&mut bytes.as_slice(), &image(&bytes), &mut slot, &mut Quiet(99));
        assert!(matches!(result, Err(InstallError::TooLarge { length: 700_001, capacity: 700_000 })));
        assert_eq!(slot.writes, 0);
    }

    #[test]
    fn cancelling_stops_at_the_next_chunk() {
        let (bytes, mut slot) = (new_bytes(), slot(1_000_000));
        let result = install(&mut bytes.as_slice(), &image(&bytes), &mut slot, &mut Quiet(6));
        assert!(matches!(result, Err(InstallError::Cancelled)));
        assert!(slot.writes < 3);
    }
}
