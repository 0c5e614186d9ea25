//! The log of all writes to a disk, as QEMU's `blklogwrites` driver keeps it: the format of Linux's device-mapper target log-writes.
//!
//! A super block in the first sector (magic, version, number of entries: 64 bits each; sector size: 32 bits; little endian), then
//! for each entry a sector with its header (sector, number of sectors, flags, length of a mark's text: 64 bits each) and the data,
//! if it has any. Entries stand in the order in which they were completed, so at a flush everything before it is on the disk.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use crate::shell::{Failure, Outcome};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Sizes that QEMU and Linux use.
const SECTORS: [u32; 4] = [512, 1024, 2048, 4096];
/// Data is moved in pieces of this size, whatever an entry says of its length.
const PIECE: u64 = 1 << 20;

/// A log, read from its begin.
#[derive(Debug)]
pub struct Log<R> {
    source: R,
    /// Of the log, and of the disk it tells of, in bytes.
    length: u64,
    disk: u64,
    sector: u64,
    entries: u64,
    next: u64,
    at: u64,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// From 0.
    pub number: u64,
    /// Where on the disk, and how much, in bytes.
    pub start: u64,
    pub length: u64,
    /// What was completed before is durable.
    pub flush: bool,
    /// This one is durable too.
    pub through: bool,
    /// No data: the disk may forget.
    pub discard: bool,
    data: u64,
}

/// Why a log cannot be read.
#[derive(Debug)]
pub enum LogError {
    Io(io::Error),
    NoLog,
    Version(u64),
    SectorSize(u32),
    Flags { entry: u64, flags: u64 },
    Truncated { entry: u64 },
    OutOfDisk { entry: u64 },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "reading the log of writes: {error}"),
            Self::NoLog => write!(f, "this is no log of writes"),
            Self::Version(version) => write!(f, "the log of writes has version {version}"),
            Self::SectorSize(size) => write!(f, "the log of writes has sectors of {size} bytes"),
            Self::Flags { entry, flags } => write!(f, "entry {entry} of the log has unknown flags {flags:#x}"),
            Self::Truncated { entry } => write!(f, "the log ends within entry {entry}"),
            Self::OutOfDisk { entry } => write!(f, "entry {entry} of the log lies outside the disk"),
        }
    }
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::new(error.to_string())
    }
}

impl<R: Read + Seek> Log<R> {
    /// The log of a disk of so many bytes.
    pub fn open(mut source: R, disk: u64) -> Result<Self, LogError> {
        let length = source.seek(SeekFrom::End(0))?;
        if length < 28 {
            return Err(LogError::NoLog);
        }
        source.seek(SeekFrom::Start(0))?;
        let [magic, version, entries] = words(&mut source)?;
        let mut size = [0; 4];
        source.read_exact(&mut size)?;
        let size = u32::from_le_bytes(size);
        match (magic, version) {
            (MAGIC, VERSION) if SECTORS.contains(&size) => {
                let sector = u64::from(size);
                Ok(Self { source, length, disk, sector, entries, next: 0, at: sector })
            }
            (MAGIC, VERSION) => Err(LogError::SectorSize(size)),
            (MAGIC, other) => Err(LogError::Version(other)),
            _ => Err(LogError::NoLog),
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry. `None`: that was all.
    pub fn next(&mut self) -> Result<Option<Entry>, LogError> {
        let number = self.next;
        if number == self.entries {
            return Ok(None);
        }
        let truncated = LogError::Truncated { entry: number };
        let data = self.at.checked_add(self.sector).filter(|data| *data <= self.length).ok_or(truncated)?;
        self.source.seek(SeekFrom::Start(self.at))?;
        let [sector, sectors, flags, _] = words(&mut self.source)?;
        if flags & !(FLUSH | FUA | DISCARD | MARK) != 0 {
            return Err(LogError::Flags { entry: number, flags });
        }
        let bytes = |sectors: u64| sectors.checked_mul(self.sector).ok_or(LogError::OutOfDisk { entry: number });
        let (start, length) = (bytes(sector)?, bytes(sectors)?);
        if start.checked_add(length).is_none_or(|end| end > self.disk) {
            return Err(LogError::OutOfDisk { entry: number });
        }
        let discard = flags & DISCARD != 0;
        let end = data.checked_add(if discard { 0 } else { length }).filter(|end| *end <= self.length);
        self.at = end.ok_or(LogError::Truncated { entry: number })?;
        self.next += 1;
        Ok(Some(Entry { number, start, length, flush: flags & FLUSH != 0, through: flags & FUA != 0, discard, data }))
    }

    /// Does to a disk what the entry did to the one that was recorded.
    pub fn apply(&mut self, entry: &Entry, disk: &mut impl Disk) -> Outcome {
        let mut buffer = vec![0; usize::try_from(entry.length.min(PIECE)).unwrap_or_default()];
        let mut done = 0;
        while done < entry.length {
            let piece = usize::try_from((entry.length - done).min(PIECE)).unwrap_or_default();
            let bytes = buffer.get_mut(..piece).unwrap_or_default();
            // What was discarded reads as zeros from a file.
            if !entry.discard {
                self.source.seek(SeekFrom::Start(entry.data + done)).map_err(LogError::from)?;
                self.source.read_exact(bytes).map_err(LogError::from)?;
            }
            disk.write(entry.start + done, bytes)?;
            done += bytes.len() as u64;
        }
        Ok(())
    }
}

fn words<const N: usize>(source: &mut impl Read) -> Result<[u64; N], LogError> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// What a log is played to.
pub trait Disk {
    fn write(&mut self, start: u64, bytes: &[u8]) -> Outcome;
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Cursor;

    const DISK: u64 = 64 * 512;

    /// Entries of sector, data and flags, as QEMU would have written them.
    pub fn log_of(entries: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut log = [MAGIC, VERSION, entries.len() as u64].map(u64::to_le_bytes).concat();
        log.extend(512_u32.to_le_bytes());
        log.resize(512, 0);
        for (sector, data, flags) in entries {
            let begin = log.len();
            let sectors = data.len() as u64 / 512;
            log.extend([*sector, sectors, *flags, 0].map(u64::to_le_bytes).concat());
            log.resize(begin + 512, 0);
            if flags & DISCARD == 0 {
                log.extend(*data);
            }
        }
        log
    }

    struct Memory(Vec<u8>);

    impl Disk for Memory {
        fn write(&mut self, start: u64, bytes: &[u8]) -> Outcome {
            self.0[start as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
    }

    fn opened(log: Vec<u8>) -> Result<Log<Cursor<Vec<u8>>>, LogError> {
        Log::open(Cursor::new(log), DISK)
    }

    /// All entries, or the first trouble.
    fn read(log: Vec<u8>) -> Result<Vec<Entry>, LogError> {
        let mut log = opened(log)?;
        let mut all = Vec::new();
        while let Some(entry) = log.next()? {
            all.push(entry);
        }
        Ok(all)
    }

    fn put(log: &mut [u8], at: usize, word: u64) {
        log[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    #[test]
    fn what_was_written_comes_back_in_its_order() {
        let entries: [(u64, &[u8], u64); 5] =
            [(2, &[1; 1024], 0), (0, &[], FLUSH), (3, &[2; 512], FUA), (2, &[9; 512], DISCARD), (0, &[], FLUSH)];
        let mut log = opened(log_of(&entries)).unwrap();
        assert_eq!(log.entries(), 5);
        let (mut disk, mut flushes) = (Memory(vec![0; DISK as usize]), Vec::new());
        while let Some(entry) = log.next().unwrap() {
            log.apply(&entry, &mut disk).unwrap();
            if entry.flush || entry.through {
                flushes.push((entry.number, disk.0[1024], disk.0[1536]));
            }
        }
        assert_eq!(flushes, [(1, 1, 1), (2, 1, 2), (4, 0, 2)]);
    }

    #[test]
    fn a_damaged_log_is_refused_by_name() {
        let good = || log_of(&[(2, &[1; 1024], 0), (0, &[], FLUSH)]);
        let with = |at, word| {
            let mut log = good();
            put(&mut log, at, word);
            read(log)
        };
        assert_eq!(read(good()).unwrap().len(), 2);
        assert!(matches!(with(0, 7), Err(LogError::NoLog)));
        assert!(matches!(with(8, 2), Err(LogError::Version(2))));
        assert!(matches!(with(24, 7), Err(LogError::SectorSize(7))));
        assert!(matches!(with(16, 3), Err(LogError::Truncated { entry: 2 })));
        assert!(matches!(with(16, u64::MAX), Err(LogError::Truncated { entry: 2 })));
        assert!(matches!(with(512 + 16, 32), Err(LogError::Flags { entry: 0, flags: 32 })));
        for (at, word) in [(512, 63), (512, u64::MAX), (520, u64::MAX), (520, u64::MAX / 512)] {
            assert!(matches!(with(at, word), Err(LogError::OutOfDisk { entry: 0 })), "{at} {word}");
        }
        assert!(matches!(with(520, 60), Err(LogError::Truncated { entry: 0 })), "longer than the file");
        assert!(matches!(read(Vec::new()), Err(LogError::NoLog)));
    }

    #[test]
    fn a_log_that_ends_anywhere_is_refused_or_shorter() {
        let whole = log_of(&[(2, &[1; 1024], 0), (0, &[], FLUSH)]);
        for length in 0..whole.len() {
            assert!(read(whole[..length].to_vec()).is_err(), "{length}");
        }
    }
}
