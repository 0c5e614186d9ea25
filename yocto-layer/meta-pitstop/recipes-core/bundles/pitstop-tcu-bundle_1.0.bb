SUMMARY = "Signed update bundle of pitstop-image"
DESCRIPTION = "What the backend distributes to bring another TCU to the state of pitstop-image."
HOMEPAGE = "https://github.com/pitstop-ota/pitstop"
SECTION = "base"
LICENSE = "MIT"
SRC_URI = ""

inherit pitstop-bundle
