//! What the boot loader says on the kernel command line.

use std::io::Read;
use std::path::Path;

use pitstop_slots::SlotPair;
use pitstop_types::SlotName;

/// Longest command line that is read, in bytes: Linux itself stops at 4096 on most machines.
const MAX_CMDLINE: u64 = 16 * 1024;

/// Why the booted slot is not known.
#[derive(Debug, thiserror::Error)]
pub enum CmdlineError {
    #[error("reading the kernel command line")]
    Read(#[source] std::io::Error),
    #[error("the kernel command line has no rauc.slot=")]
    Missing,
    #[error("the kernel command line names slot {0:?}, which this TCU does not have")]
    Unknown(String),
}

/// The slot in `rauc.slot=`; the last one counts, as everywhere on that line.
pub fn booted_slot(cmdline: &str, slots: &SlotPair) -> Result<SlotName, CmdlineError> {
    let value = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("rauc.slot=")).next_back();
    let value = value.ok_or(CmdlineError::Missing)?;
    slots.find(value).cloned().ok_or_else(|| CmdlineError::Unknown(value.chars().take(32).collect()))
}

/// The same from a file such as `/proc/cmdline`.
pub fn booted_slot_of_file(path: &Path, slots: &SlotPair) -> Result<SlotName, CmdlineError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(CmdlineError::Read)?;
    file.take(MAX_CMDLINE).read_to_end(&mut bytes).map_err(CmdlineError::Read)?;
    booted_slot(&String::from_utf8_lossy(&bytes), slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> SlotPair {
        SlotPair::new(SlotName::new("A").unwrap(), SlotName::new("B").unwrap()).unwrap()
    }

    #[test]
    fn the_booted_slot_is_the_one_the_boot_script_names() {
        let line = "BOOT_IMAGE=/boot/vmlinuz root=PARTLABEL=slot-b ro rauc.slot=B quiet\n";
        assert_eq!(booted_slot(line, &slots()).unwrap().as_str(), "B");
        assert_eq!(booted_slot("rauc.slot=A rauc.slot=B", &slots()).unwrap().as_str(), "B");
    }

    #[test]
    fn an_unknown_or_missing_slot_is_no_slot() {
        assert!(matches!(booted_slot("quiet", &slots()), Err(CmdlineError::Missing)));
        assert!(matches!(booted_slot("rauc.slot=../x", &slots()), Err(CmdlineError::Unknown(_))));
        assert!(matches!(booted_slot("rauc.slot=", &slots()), Err(CmdlineError::Unknown(_))));
        assert!(matches!(booted_slot_of_file(Path::new("/nonexistent"), &slots()), Err(CmdlineError::Read(_))));
    }
}
