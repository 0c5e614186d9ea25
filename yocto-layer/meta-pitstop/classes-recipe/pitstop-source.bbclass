# Where the sources come from, what they are built with, and when they may be built without a TPM.
#
# Default: the checkout this layer lies in (PITSTOP_CHECKOUT), so that layer and sources always belong together.
# PITSTOP_SRC = "git://host/repo.git;protocol=https;branch=main" with PITSTOP_SRCREV: a pinned commit instead.

HOMEPAGE = "https://github.com/pitstop-ota/pitstop"
BUGTRACKER = "https://github.com/pitstop-ota/pitstop/issues"
SECTION = "base"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=797cc0a2f71321c8935d3bfcad9a2b4c \
                    file://LICENSE-APACHE;md5=22a53954e4e0ec258dfce4391e905dac"
CVE_PRODUCT ?= "pitstop-ota:pitstop"

PITSTOP_SRC ?= ""
PITSTOP_SRCREV ?= ""
SRC_URI = "${PITSTOP_SRC}"
SRCREV = "${PITSTOP_SRCREV}"
EXTERNALSRC = "${@'' if d.getVar('PITSTOP_SRC') else d.getVar('PITSTOP_CHECKOUT')}"
# No links to the build folder in the developer's checkout.
EXTERNALSRC_SYMLINKS = ""

inherit externalsrc

# externalsrc asks git what the sources are, unless the build folder belongs to the same checkout: then it reads every file below it,
# the build folder's own too, and each run builds everything anew.
# nooelint: oelint.task.noanonpython - only at parse time can a recipe be skipped with a reason
python () {
    source = os.path.realpath(d.getVar('EXTERNALSRC') or '')
    if d.getVar('EXTERNALSRC') and os.path.commonpath([source, os.path.realpath(d.getVar('TOPDIR'))]) == source:
        raise bb.parse.SkipRecipe(f'the build folder lies in the checkout {source}: take one beside it, or set PITSTOP_SRC')
}
