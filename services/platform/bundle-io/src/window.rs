//! `Read + Seek` over a bundle's data in which each 4 KiB block was compared with the signed hash tree.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pitstop_bundle::verity::{BLOCK, CheckError, Checker, TreeSource, Verity};

/// The data part of a bundle. Reads at offsets, so that other holders of the same file description do not move it.
pub struct Window {
    file: Arc<File>,
    checker: Checker,
    position: u64,
    /// Number and content of the block read last.
    current: Option<u64>,
    block: Box<[u8; BLOCK]>,
}

struct Tree<'a>(&'a File);

impl TreeSource for Tree<'_> {
    type Error = io::Error;
    fn hash_block(&mut self, offset: u64, into: &mut [u8; BLOCK]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

impl Window {
    /// A window over `file`, whose first bytes are the data and tree that `verity` describes.
    pub fn new(file: Arc<File>, verity: Verity) -> Self {
        Self { file, checker: Checker::new(verity), position: 0, current: None, block: Box::new([0; BLOCK]) }
    }

    /// Length of the data in bytes.
    pub fn data_len(&self) -> u64 {
        self.checker.verity().data_len()
    }

    /// Reads and checks block `index` into this window's memory.
    pub fn load(&mut self, index: u64) -> Result<&[u8; BLOCK], CheckError<io::Error>> {
        if self.current != Some(index) {
            self.current = None;
            self.file
                .read_exact_at(self.block.as_mut_slice(), index.saturating_mul(BLOCK as u64))
                .map_err(CheckError::Source)?;
            self.checker.check(index, &self.block, &mut Tree(&self.file))?;
            self.current = Some(index);
        }
        Ok(&self.block)
    }
}

impl BufRead for Window {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.data_len() {
            return Ok(&[]);
        }
        let (index, within) = (self.position / BLOCK as u64, (self.position % BLOCK as u64) as usize);
        let block = self.load(index).map_err(io::Error::other)?;
        Ok(block.get(within..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.position = self.position.saturating_add(amount as u64);
    }
}

impl Read for Window {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.data_len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
