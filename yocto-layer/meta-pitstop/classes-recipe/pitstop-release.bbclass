# What this build of the TCU's software is called: in the image (/etc/pitstop-release, read by self-update) and in the bundle alike.

# Answer to DID F188, F189; the release counter never falls, see the floors of the validator.
PITSTOP_SOFTWARE_NUMBER ?= "TCU-SW-001"
PITSTOP_VERSION ?= "1.0.0"
PITSTOP_COUNTER ?= "1"
# The TCU's hardware id, the same as in vehicle.toml.
PITSTOP_HARDWARE ?= "tcu-a1"
