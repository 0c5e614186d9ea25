use std::fmt;

use super::{EraseRange, Group, TransferPlan};
use crate::Banks;

impl fmt::Display for TransferPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let banks = match self.banks {
            Banks::Single => "single bank",
            Banks::Dual => "inactive bank",
        };
        write!(f, "{} ({}, {banks}): ", self.ecu, self.hardware)?;
        match &self.from {
            Some(from) => write!(f, "{} {}", from.software_number, from.version)?,
            None => f.write_str("bootloader")?,
        }
        writeln!(f, " -> {} {}", self.to.software_number, self.to.version)?;
        for segment in self.segments.iter().filter(|segment| segment.right) {
            writeln!(f, "  keep   {:#010x} {:>8} bytes, right already", segment.address, segment.memory_length)?;
        }
        for group in self.groups.iter().rev() {
            print_erase(f, group)?;
        }
        for segment in self.to_write() {
            for piece in &segment.pieces {
                writeln!(f, "  send   {:#010x} {:>8} bytes from {:#x}", piece.address, piece.length, piece.offset)?;
            }
            let sent: u32 = segment.pieces.iter().map(|piece| piece.memory_length).sum();
            let blank = segment.memory_length.saturating_sub(sent);
            if blank > 0 {
                writeln!(f, "  blank  {blank:>19} bytes left erased")?;
            }
            writeln!(
                f,
                "  check  {:#010x} {:>8} bytes, crc32 {:08x}",
                segment.address, segment.memory_length, segment.crc32
            )?;
        }
        write!(f, "  {} bytes to send, about {} s", self.bytes(), self.estimate.as_secs_f32().ceil())
    }
}

fn print_erase(f: &mut fmt::Formatter<'_>, group: &Group) -> fmt::Result {
    match group.erase {
        Some(EraseRange { address, size }) => writeln!(f, "  erase  {address:#010x} {size:>8} bytes"),
        None => writeln!(f, "  erase  the bank"),
    }
}
