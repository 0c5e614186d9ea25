SUMMARY = "The Pitstop update stack of a TCU"
DESCRIPTION = "All nine services, the command line, the description of the vehicle, and what the vehicle trusts. \
A service that another program takes the place of is left out by PACKAGECONFIG:remove:pn-packagegroup-pitstop."
HOMEPAGE = "https://github.com/pitstop-ota/pitstop"
SECTION = "base"

PITSTOP_BOOTLOADER ?= "grub"
PACKAGECONFIG ??= "hmi flasher self-update uds-server pitstopctl ${@'u-boot' if d.getVar('PITSTOP_BOOTLOADER') == 'u-boot' else ''}"
PACKAGECONFIG[hmi] = ",,,pitstop-hmi"
PACKAGECONFIG[flasher] = ",,,pitstop-flasher"
PACKAGECONFIG[self-update] = ",,,pitstop-self-update"
PACKAGECONFIG[uds-server] = ",,,pitstop-uds-server"
PACKAGECONFIG[pitstopctl] = ",,,pitstopctl"
# With U-Boot: the tools by which self-update speaks to it.
PACKAGECONFIG[u-boot] = ",,,libubootenv-bin"

PACKAGE_ARCH = "${MACHINE_ARCH}"
inherit packagegroup features_check pitstop-tpm-check

REQUIRED_DISTRO_FEATURES = "systemd usrmerge"

VIRTUAL-RUNTIME_pitstop-vehicle ?= "pitstop-vehicle-demo"

# Without these there is no update; the others can be left out.
RDEPENDS:${PN} = "\
    ${VIRTUAL-RUNTIME_pitstop-vehicle} \
    pitstop-backend-link \
    pitstop-downloader \
    pitstop-manager \
    pitstop-trust \
    pitstop-validator \
    pitstop-vehicle-state \
"
