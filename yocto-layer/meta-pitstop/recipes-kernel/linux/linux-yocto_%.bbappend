# Only with the feature: adding this layer alone changes no other recipe.
require ${@bb.utils.contains('DISTRO_FEATURES', 'pitstop', 'linux-pitstop.inc', '', d)}
