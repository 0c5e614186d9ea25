# Makes the TCU's update bundle from an image, with pitstop-bundle, signs it and checks it as a vehicle would.
#
#   inherit pitstop-bundle
#   PITSTOP_BUNDLE_IMAGE = "pitstop-image"
#
# and in local.conf: PITSTOP_VERSION and PITSTOP_COUNTER, which the image carries too, and PITSTOP_SIGN_CERT, PITSTOP_SIGN_KEY and
# PITSTOP_KEYRING (PEM files outside of any layer).
# A release key that nobody may read signs elsewhere: take the ext4 file to it and run `pitstop-bundle build` there.

inherit deploy nopackages pitstop-release pitstop-tpm-check

PITSTOP_BUNDLE_IMAGE ?= "pitstop-image"
PITSTOP_KEYRING ?= ""
PITSTOP_SIGN_CERT ?= ""
PITSTOP_SIGN_KEY ?= ""

INHIBIT_DEFAULT_DEPS = "1"
DEPENDS += "pitstop-bundle-native"
PACKAGE_ARCH = "${MACHINE_ARCH}"
PITSTOP_BUNDLE_NAME ?= "${PITSTOP_BUNDLE_IMAGE}-${MACHINE}-${PITSTOP_VERSION}.raucb"

do_fetch[noexec] = "1"
do_unpack[noexec] = "1"
do_patch[noexec] = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install[noexec] = "1"
do_deploy[depends] += "${PITSTOP_BUNDLE_IMAGE}:do_image_complete"
do_deploy[file-checksums] += "${@' '.join(f'{p}:True' for v in ('KEYRING', 'SIGN_CERT', 'SIGN_KEY') if (p := d.getVar('PITSTOP_' + v)))}"

do_deploy() {
    for given in "${PITSTOP_SIGN_CERT}" "${PITSTOP_SIGN_KEY}" "${PITSTOP_KEYRING}"; do
        if [ -z "$given" ]; then
            bbfatal "set PITSTOP_SIGN_CERT, PITSTOP_SIGN_KEY and PITSTOP_KEYRING"
        fi
    done
    rm -f ${DEPLOYDIR}/${PITSTOP_BUNDLE_NAME}
    pitstop-bundle build --quiet --rootfs ${DEPLOY_DIR_IMAGE}/${PITSTOP_BUNDLE_IMAGE}-${MACHINE}.rootfs.ext4 \
        --hardware ${PITSTOP_HARDWARE} --software-version ${PITSTOP_VERSION} --release-counter ${PITSTOP_COUNTER} \
        --cert ${PITSTOP_SIGN_CERT} --key ${PITSTOP_SIGN_KEY} --out ${DEPLOYDIR}/${PITSTOP_BUNDLE_NAME}
    pitstop-bundle verify --quiet --keyring ${PITSTOP_KEYRING} ${DEPLOYDIR}/${PITSTOP_BUNDLE_NAME}
}
addtask deploy after do_compile before do_build
