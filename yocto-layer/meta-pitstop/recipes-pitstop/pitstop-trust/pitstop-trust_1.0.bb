SUMMARY = "What a vehicle is built to trust"
DESCRIPTION = "The integrator's keyring for bundles, the two Uptane roots, and who may certify workshops' testers. There are no defaults: a build without the first three stops here."
HOMEPAGE = "https://github.com/pitstop-ota/pitstop"
SECTION = "base"
LICENSE = "CLOSED"
SRC_URI = ""

inherit pitstop-tpm-check

INHIBIT_DEFAULT_DEPS = "1"

# PEM: certificates whose signature makes a bundle ours.
PITSTOP_KEYRING ?= ""
# Signed root metadata of both repositories.
PITSTOP_DIRECTOR_ROOT ?= ""
PITSTOP_IMAGE_ROOT ?= ""
# PEM: authorities of workshops' testers. Without it no tester can authenticate.
PITSTOP_TESTERS ?= ""

do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install[file-checksums] += "${@' '.join(f'{p}:True' for v in ('KEYRING', 'DIRECTOR_ROOT', 'IMAGE_ROOT', 'TESTERS') if (p := d.getVar('PITSTOP_' + v)))}"

do_install() {
    for given in "${PITSTOP_KEYRING}" "${PITSTOP_DIRECTOR_ROOT}" "${PITSTOP_IMAGE_ROOT}"; do
        if [ -z "$given" ]; then
            bbfatal "set PITSTOP_KEYRING, PITSTOP_DIRECTOR_ROOT and PITSTOP_IMAGE_ROOT to the files this vehicle trusts"
        fi
    done
    install -D -m 0644 ${PITSTOP_KEYRING} ${D}${nonarch_libdir}/pitstop/keyring.pem
    install -D -m 0644 ${PITSTOP_DIRECTOR_ROOT} ${D}${nonarch_libdir}/pitstop/uptane/director/root.json
    install -D -m 0644 ${PITSTOP_IMAGE_ROOT} ${D}${nonarch_libdir}/pitstop/uptane/image/root.json
    if [ -n "${PITSTOP_TESTERS}" ]; then
        install -D -m 0644 ${PITSTOP_TESTERS} ${D}${nonarch_libdir}/pitstop/testers.pem
    fi
}

FILES:${PN} += "${nonarch_libdir}/pitstop"
