SUMMARY = "Over-the-air updates for a whole vehicle: services of the TCU"
DESCRIPTION = "One program with nine D-Bus services, one package, user and bus policy each: they download, verify, ask the driver, flash \
ECUs by UDS over CAN, CAN FD and DoIP, and update the TCU itself on A/B slots."

inherit cargo pkgconfig systemd useradd features_check pitstop-source pitstop-tpm-check
# After the class, which sets SRC_URI.
require recipes-pitstop/pitstop-crates.inc

REQUIRED_DISTRO_FEATURES = "systemd usrmerge"
DEPENDS += "openssl"

CARGO_BUILD_FLAGS += "--package pitstopd --package pitstopctl --no-default-features"
# tpm is switched on by the layer's part for meta-tpm.
PACKAGECONFIG ??= ""
PACKAGECONFIG[tpm] = "--features pitstopd/tpm,,tpm2-tss,libtss2-tcti-device"
PACKAGECONFIG[hmi-web] = "--package pitstop-hmi-web"

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
    # Mount points.
    install -d ${D}/data ${D}${sysconfdir}/pitstop ${D}${localstatedir}/lib/pitstop
    # oe-core puts a volatile /var/lib over a read-only root; ours comes after it.
    install -d ${D}${systemd_system_unitdir}/var-lib-pitstop.mount.d
    printf '[Unit]\nAfter=var-volatile-lib.service\n' > ${D}${systemd_system_unitdir}/var-lib-pitstop.mount.d/50-volatile-binds.conf
}

require pitstop-packages.inc
