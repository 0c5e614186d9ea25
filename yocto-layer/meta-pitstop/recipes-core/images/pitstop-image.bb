SUMMARY = "TCU with the Pitstop update stack on A/B slots"
DESCRIPTION = "A small systemd image: the disk (wic) for the first start, and the root file system (ext4) that bundles are made from."
HOMEPAGE = "https://github.com/pitstop-ota/pitstop"
LICENSE = "MIT"

inherit core-image features_check pitstop-release pitstop-tpm-check

REQUIRED_DISTRO_FEATURES = "systemd usrmerge"

IMAGE_INSTALL = " \
    packagegroup-core-boot \
    packagegroup-pitstop \
    ca-certificates \
    e2fsprogs-e2fsck \
    kernel-image \
    kernel-modules \
    util-linux-mount \
"
IMAGE_FSTYPES = "ext4 wic wic.bmap"
IMAGE_FEATURES += "${@'read-only-rootfs' if d.getVar('PITSTOP_READ_ONLY_ROOT') == '1' else ''}"
# A bundle must fit into the slot.
IMAGE_ROOTFS_MAXSIZE = "${@int(d.getVar('PITSTOP_SLOT_MIB') or 512) * 1024}"
IMAGE_OVERHEAD_FACTOR = "1.1"

# A board with a layout of its own names it here, not in WKS_FILE, which machines set for all images.
PITSTOP_WKS ?= "pitstop-ab.wks.in"
WKS_FILE = "${PITSTOP_WKS}"

# The first partition. With GRUB: the program, the boot script, its environment in two copies. With U-Boot: the boot script. The kernel
# is in the slots.
PITSTOP_BOOTLOADER ?= "grub"
PITSTOP_BOOT_FILES = "pitstop-boot.scr;boot.scr"
PITSTOP_BOOT_FILES_GRUB = " \
    grub-efi-bootx64.efi;EFI/BOOT/bootx64.efi \
    pitstop-stub.cfg;EFI/BOOT/grub.cfg \
    pitstop-grub.cfg;grub/grub.cfg \
    pitstop-grubenv;grub/grubenv \
    pitstop-grubenv;grub/grubenv.copy \
"
IMAGE_BOOT_FILES = "${@d.getVar('PITSTOP_BOOT_FILES_GRUB' if d.getVar('PITSTOP_BOOTLOADER') == 'grub' else 'PITSTOP_BOOT_FILES')}"
EXTRA_IMAGEDEPENDS += "${@'ovmf' if d.getVar('PITSTOP_BOOTLOADER') == 'grub' else ''}"
# nooelint: oelint.vars.mispell.unknown - the task is image_types_wic's
do_image_wic[depends] += "pitstop-boot:do_deploy pitstop-data:do_deploy \
    ${@'grub-efi:do_deploy' if d.getVar('PITSTOP_BOOTLOADER') == 'grub' else ''}"

# The slot on the disk is the very image that a bundle carries.
# nooelint: oelint.vars.specific oelint.vars.mispell oelint.vars.overrideappend - the override is an image type
IMAGE_TYPEDEP:wic = "ext4"
# Read-only, so no journal; and only what every GRUB reads.
# nooelint: oelint.vars.specific - the override is an image type
EXTRA_IMAGECMD:ext4 = "-i 4096 -m 0 -O ^has_journal,^metadata_csum_seed,^orphan_file"

# The boot script asks each slot for /boot/vmlinuz; at run time the EFI system partition is mounted over /boot.
# self-update reads what a slot holds from /etc/pitstop-release.
pitstop_slot_layout() {
    if [ ! -e ${IMAGE_ROOTFS}/boot/vmlinuz ]; then
        ln -s ${KERNEL_IMAGETYPE} ${IMAGE_ROOTFS}/boot/vmlinuz
    fi
    printf '%s\n' 'SOFTWARE_NUMBER=${PITSTOP_SOFTWARE_NUMBER}' 'VERSION=${PITSTOP_VERSION}' 'COUNTER=${PITSTOP_COUNTER}' \
        'HARDWARE=${PITSTOP_HARDWARE}' > ${IMAGE_ROOTFS}${sysconfdir}/pitstop-release
}
ROOTFS_POSTPROCESS_COMMAND += "pitstop_slot_layout"

# runqemu: the disk under UEFI, the kernel of the slot instead of one from outside; a watchdog; two CAN controllers on one bus, the
# TCU's own and the far end, at the addresses by which package pitstop-qemu names them. A restart ends runqemu, because these controllers
# receive nothing any more after a reset without power off: start it again.
QB_DEFAULT_FSTYPE = "wic"
QB_DEFAULT_KERNEL = "none"
# As virtio block device, whose driver the kernel fragment builds in.
QB_DRIVE_TYPE = "/dev/vd"
QB_MEM = "-m 1024"
QB_OPT_APPEND:append = " -object can-bus,id=canbus0 -device kvaser_pci,canbus=canbus0,addr=10 -device kvaser_pci,canbus=canbus0,addr=11 \
    -device i6300esb -action watchdog=reset -action reboot=shutdown"
