SUMMARY = "Over-the-air updates for a whole vehicle: services of the TCU"
DESCRIPTION = "One program with nine D-Bus services, one package, user and bus policy each: they download, verify, ask the driver, flash \
ECUs by UDS over CAN, CAN FD and DoIP, and update the TCU itself on A/B slots."

inherit cargo pkgconfig systemd useradd features_check pitstop-source pitstop-tpm-check
# After the class, which sets SRC_URI.
require recipes-pitstop/pitstop-crates.inc

# seccomp: without it systemd starts the services and silently leaves their system call filters away.
REQUIRED_DISTRO_FEATURES = "systemd usrmerge seccomp"
DEPENDS += "openssl"

CARGO_BUILD_FLAGS += "--package pitstopd --package pitstopctl --no-default-features"
# do_package splits debug symbols off and refuses programs that come without; the workspace's release profile strips.
export CARGO_PROFILE_RELEASE_STRIP = "none"
PITSTOP_BOOTLOADER ?= "grub"
# tpm is switched on by the layer's part for meta-tpm.
PACKAGECONFIG ??= ""
PACKAGECONFIG[tpm] = "--features pitstopd/tpm,,tpm2-tss,libtss2-tcti-device"
PACKAGECONFIG[hmi-web] = "--package pitstop-hmi-web"
PACKAGECONFIG[qemu] = "--package pitstop-can-bridge"

do_install() {
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/pitstopd ${D}${libexecdir}/pitstop/pitstopd
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/pitstopctl ${D}${bindir}/pitstopctl
    if ${@bb.utils.contains('PACKAGECONFIG', 'hmi-web', 'true', 'false', d)}; then
        install -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/pitstop-hmi-web ${D}${bindir}/pitstop-hmi-web
    fi

    # The overlay as it is, without what lies on the boot and data partitions (recipes pitstop-boot and pitstop-data).
    cd ${S}/rootfs-overlay
    find usr -type f -exec install -D -m 0644 '{}' '${D}/{}' ';'
    for unit in usr/lib/systemd/system/pitstop-*.service; do
        ln -s pitstopd ${D}${libexecdir}/pitstop/$(basename $unit .service)
    done
    install -d ${D}${datadir}/dbus-1/interfaces
    install -m 0644 ${S}/dbus-interfaces/*.xml ${D}${datadir}/dbus-1/interfaces
    if ${@bb.utils.contains('PACKAGECONFIG', 'qemu', 'true', 'false', d)}; then
        install -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/can-bridge ${D}${libexecdir}/pitstop/can-bridge
        cd ${S}/qemu/overlay
        for file in usr/lib/systemd/network/*can* usr/lib/systemd/network/*far* usr/lib/systemd/system/can-bridge.service; do
            install -D -m 0644 $file ${D}/$file
        done
    fi
    # Mount points.
    install -d ${D}/data ${D}${sysconfdir}/pitstop ${D}${localstatedir}/lib/pitstop
    # oe-core puts a volatile /var/lib over a read-only root; ours comes after it.
    install -d ${D}${systemd_system_unitdir}/var-lib-pitstop.mount.d
    printf '[Unit]\nAfter=var-volatile-lib.service\n' > ${D}${systemd_system_unitdir}/var-lib-pitstop.mount.d/50-volatile-binds.conf
    if [ "${PITSTOP_BOOTLOADER}" = "u-boot" ]; then
        # No /boot/grub. The environment is in two files of the first partition; the tools lock a file of their own.
        install -d ${D}${systemd_system_unitdir}/pitstop-self-update.service.d
        printf '[Service]\nReadWritePaths=\nReadWritePaths=/boot /run/lock -/run/pitstop/restart\n' \
            > ${D}${systemd_system_unitdir}/pitstop-self-update.service.d/50-u-boot.conf
    fi
}

require pitstop-packages.inc
