SUMMARY = "Makes and checks signed update bundles"
DESCRIPTION = "pitstop-bundle builds, signs, shows and verifies RAUC verity bundles, one ECU's or the TCU's software each."

inherit cargo pkgconfig pitstop-source
inherit_defer native
# After the class, which sets SRC_URI.
require recipes-pitstop/pitstop-crates.inc

DEPENDS += "openssl-native"

CARGO_BUILD_FLAGS += "--package pitstop-bundle-tool"

do_install() {
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/pitstop-bundle ${D}${bindir}/pitstop-bundle
}
