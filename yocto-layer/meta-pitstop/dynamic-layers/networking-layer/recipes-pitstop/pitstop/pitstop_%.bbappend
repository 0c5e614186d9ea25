# chrony keeps the clock where meta-networking is there (packagegroup-pitstop); its unit conflicts with systemd-timesyncd's, which the
# overlay's preset enables. Presets of a lower number win.
do_install:append() {
    printf 'disable systemd-timesyncd.service\n' > ${D}${nonarch_libdir}/systemd/system-preset/40-pitstop-chrony.preset
}

FILES:${PN} += "${nonarch_libdir}/systemd/system-preset/40-pitstop-chrony.preset"
