use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pitstop_bundle::identity::{IDENTITY_LEN, IdentityBlock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vehicle::{Banks, Memory};

const BLANK: u8 = 0xFF;

/// An ECU's flash: one or two banks at the same addresses, and what its boot loader remembers. With a folder it is kept in files.
#[derive(Debug)]
pub struct Flash {
    memory: Memory,
    banks: Vec<Bank>,
    boot: BootState,
    boot_file: Option<PathBuf>,
}

#[derive(Debug)]
struct Bank {
    data: Vec<u8>,
    file: Option<File>,
}

/// What the boot loader remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootState {
    pub active: usize,
    /// Starts left before the loader goes back to the other bank; `None`: no trial.
    pub trial: Option<u32>,
    /// By bank: checked as a whole (FF01) since it was last changed. Only such a bank is started.
    pub complete: Vec<bool>,
}

/// Memory outside the bank, or not on sector bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("address and size do not fit the memory map")]
pub struct OutOfRange;

/// Why flash could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error("the memory is not erased")]
    NotErased,
    #[error("keeping the flash in its file")]
    Io(#[from] io::Error),
}

impl Flash {
    /// Blank flash in memory only.
    pub fn blank(memory: Memory, banks: Banks) -> Self {
        let count = if banks == Banks::Dual { 2 } else { 1 };
        let bank = || Bank { data: vec![BLANK; memory.size as usize], file: None };
        let banks: Vec<_> = (0..count).map(|_| bank()).collect();
        let boot = BootState { active: 0, trial: None, complete: vec![false; count] };
        Self { memory, banks, boot, boot_file: None }
    }

    /// Flash kept in `dir` as `NAME.bank0`, `NAME.bank1` and `NAME.boot.json`. True: it was there before.
    pub fn open(dir: &Path, name: &str, memory: Memory, banks: Banks) -> io::Result<(Self, bool)> {
        std::fs::create_dir_all(dir)?;
        let mut flash = Self::blank(memory, banks);
        let boot_file = dir.join(format!("{name}.boot.json"));
        let known = boot_file.exists();
        for (number, bank) in flash.banks.iter_mut().enumerate() {
            let path = dir.join(format!("{name}.bank{number}"));
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            if known {
                file.read_exact_at(&mut bank.data, 0)?;
            } else {
                file.write_all_at(&bank.data, 0)?;
            }
            bank.file = Some(file);
        }
        if known {
            let text = std::fs::read(&boot_file)?;
            let boot: BootState = serde_json::from_slice(&text)?;
            if boot.complete.len() != flash.banks.len() || boot.active >= flash.banks.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the kept flash has other banks"));
            }
            flash.boot = boot;
        }
        flash.boot_file = Some(boot_file);
        flash.keep_boot()?;
        Ok((flash, known))
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn bank_count(&self) -> usize {
        self.banks.len()
    }

    pub fn boot(&self) -> &BootState {
        &self.boot
    }

    /// Changes what the boot loader remembers, durably.
    pub fn change_boot(&mut self, change: impl FnOnce(&mut BootState)) -> io::Result<()> {
        change(&mut self.boot);
        self.keep_boot()
    }

    /// The bytes of a range.
    pub fn read(&self, bank: usize, address: u64, size: u64) -> Result<&[u8], OutOfRange> {
        let (start, end) = self.range(address, size)?;
        self.banks.get(bank).and_then(|bank| bank.data.get(start..end)).ok_or(OutOfRange)
    }

    /// Whether the range lies in a bank.
    pub fn check_range(&self, address: u64, size: u64) -> Result<(), OutOfRange> {
        self.range(address, size).map(|_| ())
    }

    /// Whether the range can be erased: whole sectors.
    pub fn check_erase(&self, address: u64, size: u64) -> Result<(), OutOfRange> {
        let sector = u64::from(self.memory.sector);
        self.check_range(address, size)?;
        if address.is_multiple_of(sector) && size.is_multiple_of(sector) { Ok(()) } else { Err(OutOfRange) }
    }

    pub fn erase(&mut self, bank: usize, address: u64, size: u64) -> Result<(), FlashError> {
        self.check_erase(address, size)?;
        self.spoil(bank)?;
        self.store(bank, address, &vec![BLANK; size as usize])
    }

    /// Writes into erased memory; a byte takes a value once per erase.
    pub fn write(&mut self, bank: usize, address: u64, data: &[u8]) -> Result<(), FlashError> {
        if self.read(bank, address, data.len() as u64)?.iter().any(|&byte| byte != BLANK) {
            return Err(FlashError::NotErased);
        }
        self.spoil(bank)?;
        self.store(bank, address, data)
    }

    /// Puts software in without a diagnostic session, as a factory does.
    pub fn load(&mut self, bank: usize, address: u64, data: &[u8]) -> Result<(), FlashError> {
        self.check_range(address, data.len() as u64)?;
        self.store(bank, address, data)
    }

    /// The identity block of a bank, where a valid one lies there.
    pub fn identity(&self, bank: usize) -> Option<IdentityBlock> {
        let block = self.read(bank, self.memory.identity.into(), IDENTITY_LEN as u64).ok()?;
        IdentityBlock::read(block).ok()
    }

    /// Whether the boot loader starts this bank.
    pub fn is_bootable(&self, bank: usize) -> bool {
        self.boot.complete.get(bank).copied().unwrap_or_default() && self.identity(bank).is_some()
    }

    /// SHA-256 of each bank, lower-case hexadecimal.
    pub fn digests(&self) -> Vec<String> {
        self.banks.iter().map(|bank| hex::encode(Sha256::digest(&bank.data))).collect()
    }

    /// A copy of a bank.
    pub fn snapshot(&self, bank: usize) -> Vec<u8> {
        self.banks.get(bank).map(|bank| bank.data.clone()).unwrap_or_default()
    }

    fn range(&self, address: u64, size: u64) -> Result<(usize, usize), OutOfRange> {
        let start = address.checked_sub(self.memory.base.into()).ok_or(OutOfRange)?;
        let end = start.checked_add(size).filter(|&end| end <= self.memory.size.into()).ok_or(OutOfRange)?;
        Ok((start as usize, end as usize))
    }

    /// A changed bank is not started until it was checked again.
    fn spoil(&mut self, bank: usize) -> io::Result<()> {
        if self.boot.complete.get(bank) == Some(&true) {
            return self.change_boot(|boot| boot.complete.iter_mut().skip(bank).take(1).for_each(|c| *c = false));
        }
        Ok(())
    }

    fn store(&mut self, bank: usize, address: u64, data: &[u8]) -> Result<(), FlashError> {
        let (start, end) = self.range(address, data.len() as u64)?;
        let bank = self.banks.get_mut(bank).ok_or(OutOfRange)?;
        bank.data.get_mut(start..end).ok_or(OutOfRange)?.copy_from_slice(data);
        if let Some(file) = &bank.file {
            file.write_all_at(data, start as u64)?;
        }
        Ok(())
    }

    fn keep_boot(&self) -> io::Result<()> {
        let Some(path) = &self.boot_file else { return Ok(()) };
        let next = path.with_extension("new");
        std::fs::write(&next, serde_json::to_vec(&self.boot)?)?;
        std::fs::rename(next, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn memory() -> Memory {
        Memory {
            base: 0x1000,
            size: 0x2000,
            sector: 0x100,
            identity: 0x1000,
            erase_ms_per_kib: 0.0,
            write_ms_per_kib: 0.0,
        }
    }

    #[test]
    fn flash_takes_a_byte_once_per_erase() {
        let mut flash = Flash::blank(memory(), Banks::Single);
        flash.write(0, 0x1100, &[1, 2, 3]).unwrap();
        assert!(matches!(flash.write(0, 0x1102, &[9]), Err(FlashError::NotErased)));
        assert!(matches!(flash.erase(0, 0x1101, 0x100), Err(FlashError::OutOfRange(_))));
        flash.erase(0, 0x1100, 0x100).unwrap();
        flash.write(0, 0x1102, &[9]).unwrap();
        assert_eq!(flash.read(0, 0x1100, 4).unwrap(), [0xFF, 0xFF, 9, 0xFF]);
    }

    #[test]
    fn nothing_outside_the_bank_can_be_reached() {
        let flash = Flash::blank(memory(), Banks::Single);
        for (address, size) in [(0, 1), (0xFFF, 2), (0x2FFF, 2), (0x3000, 1), (u64::MAX, 2), (0x1000, u64::MAX)] {
            assert_eq!(flash.read(0, address, size), Err(OutOfRange), "{address:x} {size:x}");
        }
        assert!(flash.read(1, 0x1000, 1).is_err());
    }

    #[test]
    fn kept_flash_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Flash::open(dir.path(), "bcm", memory(), Banks::Dual).unwrap();
        let (mut flash, known) = open();
        assert!(!known);
        flash.write(1, 0x1100, &[1, 2, 3]).unwrap();
        flash.change_boot(|boot| boot.active = 1).unwrap();
        let digests = flash.digests();
        let (flash, known) = open();
        assert!(known);
        assert_eq!((flash.digests(), flash.boot().active), (digests, 1));
    }
}
