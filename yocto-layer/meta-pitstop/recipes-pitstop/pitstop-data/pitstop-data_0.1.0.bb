SUMMARY = "Data partition as the factory leaves it"
DESCRIPTION = "What belongs to this vehicle and not to its software: its description and settings in /config, an empty /lib for the \
services' state. No update writes it."

inherit deploy nopackages pitstop-source pitstop-tpm-check

INHIBIT_DEFAULT_DEPS = "1"
DEPENDS += "e2fsprogs-native"
PACKAGE_ARCH = "${MACHINE_ARCH}"

# The description of the vehicle; by default the demonstration's.
PITSTOP_VEHICLE ?= "${S}/rootfs-overlay/etc/pitstop/vehicle.toml"
# PEM, and the URL of the backend's public listener.
PITSTOP_BACKEND_CA ?= ""
PITSTOP_PROVISION_URL ?= ""
PITSTOP_DATA_MIB ?= "1536"
PITSTOP_BOOTLOADER ?= "grub"

do_configure[noexec] = "1"
do_compile[cleandirs] = "${B}/tree"
do_compile[file-checksums] += "${@' '.join(f'{p}:True' for v in ('VEHICLE', 'BACKEND_CA') if (p := d.getVar('PITSTOP_' + v)))}"

do_compile() {
    if [ -z "${PITSTOP_BACKEND_CA}" ] || [ -z "${PITSTOP_PROVISION_URL}" ]; then
        bbfatal "set PITSTOP_BACKEND_CA and PITSTOP_PROVISION_URL"
    fi
    config=${B}/tree/config
    install -d ${B}/tree/lib
    install -D -m 0644 ${PITSTOP_VEHICLE} $config/vehicle.toml
    install -m 0644 ${PITSTOP_BACKEND_CA} $config/backend-ca.pem
    printf '%s\n' 'provision_url = "${PITSTOP_PROVISION_URL}"' > $config/backend-link.toml
    if [ "${PITSTOP_INSECURE_FILE_KEYS}" = "1" ]; then
        for service in backend-link validator; do
            printf '[key]\nstore = "file"\nfile = "${localstatedir}/lib/pitstop/%s/key.pem"\ninsecure_file_keys = true\n' $service \
                >> $config/$service.toml
        done
    fi
    if [ "${PITSTOP_BOOTLOADER}" = "u-boot" ]; then
        printf '%s\n' '[boot]' 'loader = "uboot"' > $config/self-update.toml
    fi
    rm -f ${B}/pitstop-data.ext4
    mke2fs -q -t ext4 -L pitstop-data -d ${B}/tree ${B}/pitstop-data.ext4 ${PITSTOP_DATA_MIB}M
    # mke2fs takes the owners over, and whoever builds is not root.
    (cd ${B}/tree && find . -printf 'sif "/%P" uid 0\nsif "/%P" gid 0\n') > ${B}/owners
    debugfs -w -f ${B}/owners ${B}/pitstop-data.ext4 > /dev/null
}

do_deploy() {
    cp --sparse=always ${B}/pitstop-data.ext4 ${DEPLOYDIR}/pitstop-data.ext4
}
addtask deploy after do_compile before do_build
