//! Settings, vehicle description and profiles.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use pitstop_flashing::{Profile, Vehicle};
use serde::Deserialize;

/// `flasher.toml`. Paths lie below the root.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub vehicle: String,
    /// Folder of the flash profiles, one file `NAME.toml` each.
    pub profiles: String,
    /// Certificates bundles are believed from; the flasher's own copy of the judgement, not validator's.
    pub keyring: String,
    /// Folder of 0x27 secrets, one file `ECU.key` each. Read by nobody else.
    pub secrets: String,
    /// Signals that going back depends on: no profile may silence one.
    pub undo_signals: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vehicle: "etc/pitstop/vehicle.toml".to_owned(),
            profiles: "usr/lib/pitstop/profiles".to_owned(),
            keyring: "usr/lib/pitstop/keyring.pem".to_owned(),
            secrets: "var/lib/pitstop/flasher/secrets".to_owned(),
            undo_signals: Vec::new(),
        }
    }
}

/// Reads the vehicle description.
pub fn vehicle(path: &Path) -> anyhow::Result<Vehicle> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Vehicle::read(&text).with_context(|| format!("{} is refused", path.display()))
}

/// Reads the profiles the vehicle's ECUs name, and refuses one that silences a signal of `undo_signals`.
pub fn profiles(
    folder: &Path,
    vehicle: &Vehicle,
    undo_signals: &[String],
) -> anyhow::Result<BTreeMap<String, Arc<Profile>>> {
    let mut profiles = BTreeMap::new();
    for ecu in vehicle.ecus.values() {
        if profiles.contains_key(&ecu.profile) {
            continue;
        }
        let path = folder.join(format!("{}.toml", ecu.profile));
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("reading {} for ECU {}", path.display(), ecu.id))?;
        let profile = Profile::read(&text).with_context(|| format!("{} is refused", path.display()))?;
        profile.keeps_signals(undo_signals).with_context(|| format!("{} is refused", path.display()))?;
        if profile.banks != ecu.banks {
            bail!("ECU {}: {} is for another bank layout", ecu.id, path.display());
        }
        profiles.insert(ecu.profile.clone(), Arc::new(profile));
    }
    Ok(profiles)
}
