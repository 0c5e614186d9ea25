# A clock that stays right through tunnels and long parking; without chrony, systemd-timesyncd does it.
# nooelint: oelint.vars.dependsordered - order is that of the recipe
RDEPENDS:${PN} += "chrony"
