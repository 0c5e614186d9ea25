//! Debian's RAUC on our slots, boot environment and bundle.

use std::time::Duration;

use super::Guest;
use crate::image::AFTER;
use crate::qemu::ANSWER_LIMIT;
use crate::qemu::shell::Shell;
use crate::shell::Outcome;

/// RAUC writes 175 MiB through a device-mapper target, emulated.
const LIMIT: Duration = Duration::from_secs(300);
/// Where [`configure`] writes.
pub const CONFIGURATION: &str = "/run/rauc.conf";

/// This TCU as RAUC sees it.
const SYSTEM: &str = "\
[system]
compatible=pitstop-tcu-a1
bootloader=grub
grubenv=/boot/grub/grubenv
bundle-formats=verity
mountprefix=/run/rauc
[keyring]
path=/usr/lib/pitstop/keyring.pem
[slot.rootfs.0]
device=/dev/disk/by-partlabel/slot-a
type=ext4
bootname=A
[slot.rootfs.1]
device=/dev/disk/by-partlabel/slot-b
type=ext4
bootname=B
";

/// Writes RAUC's configuration in the guest.
pub fn configure(shell: &mut Shell) -> Outcome {
    let text = SYSTEM.replace('\n', "\\n");
    shell.must(&format!("printf '{text}' > {CONFIGURATION}"), ANSWER_LIMIT).map(drop)
}

/// It installs our bundle into the inactive slot; our self-update understands the slots that it leaves.
pub(super) fn installs(guest: &mut Guest) -> Outcome {
    configure(&mut guest.shell)?;
    // A disk is a multiple of 512 bytes, a bundle is not, and ends with the length of its signature.
    let bytes = guest.bundle_bytes;
    guest.within(&format!("head -c {bytes} /dev/vdb > /data/update.raucb"), LIMIT)?;
    guest.text(&format!("rauc --conf={CONFIGURATION} info --output-format=shell /data/update.raucb"))?;
    guest.text(&format!("(setsid rauc --conf={CONFIGURATION} service > /run/rauc.log 2>&1 &); sleep 3"))?;
    guest.within("rauc install /data/update.raucb || { cat /run/rauc.log; false; }", LIMIT)?;
    guest.expect("pitstopctl --json slots", AFTER.name)?;
    guest.expect("grub-editenv /boot/grub/grubenv list", "ORDER=B A")?;
    guest.text("rm -f /data/update.raucb").map(drop)
}
