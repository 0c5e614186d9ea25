SUMMARY = "Boot script and boot environment of the slots"
DESCRIPTION = "What lies on the first partition: the script that chooses slot A or B; with GRUB its environment too, in two copies, as a \
new unit has it: A committed, B empty."

inherit deploy nopackages pitstop-source

PITSTOP_BOOTLOADER ?= "grub"
DEPENDS += "${@'u-boot-tools-native' if d.getVar('PITSTOP_BOOTLOADER') == 'u-boot' else ''}"
SRC_URI += "${@'file://boot.cmd' if d.getVar('PITSTOP_BOOTLOADER') == 'u-boot' else ''}"

INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"
do_configure[noexec] = "1"

# What GRUB and the kernel use as console; the boot script adds it to each slot's command line.
PITSTOP_CONSOLE ?= "console=ttyS0,115200"

do_compile() {
    if [ "${PITSTOP_BOOTLOADER}" = "u-boot" ]; then
        mkimage -T script -C none -n Pitstop -d ${UNPACKDIR}/boot.cmd ${B}/boot.scr
        return
    fi
    # GRUB as oe-core builds it starts /EFI/BOOT/grub.cfg; script and environment lie in /grub.
    printf '%s\n' 'serial --unit=0 --speed=115200' 'terminal_input serial console' 'terminal_output serial console' \
        'set extra_cmdline="${PITSTOP_CONSOLE}"' 'export extra_cmdline' \
        'set prefix=($root)/grub' 'configfile $prefix/grub.cfg' > ${B}/stub.cfg
    # 1024 bytes: a heading, the variables, the rest filled with '#'.
    printf '# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n' > ${B}/grubenv
    while [ $(stat -c %s ${B}/grubenv) -lt 1024 ]; do
        printf '#' >> ${B}/grubenv
    done
}

do_deploy() {
    if [ "${PITSTOP_BOOTLOADER}" = "u-boot" ]; then
        install -D -m 0644 ${B}/boot.scr ${DEPLOYDIR}/pitstop-boot.scr
        return
    fi
    install -D -m 0644 ${S}/rootfs-overlay/boot/grub/grub.cfg ${DEPLOYDIR}/pitstop-grub.cfg
    install -m 0644 ${B}/stub.cfg ${DEPLOYDIR}/pitstop-stub.cfg
    install -m 0644 ${B}/grubenv ${DEPLOYDIR}/pitstop-grubenv
}
addtask deploy after do_compile before do_build
