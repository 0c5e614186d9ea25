//! Settings: `usr/lib/pitstop/validator.toml`, overridden by `etc/pitstop/validator.toml`.

use pitstop_tpm::KeySettings;
use serde::Deserialize;

/// The file's content. Paths are below the service's root folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Certificates that sign bundles, PEM.
    pub(crate) keyring: String,
    /// Revocation lists, PEM; empty for none.
    #[serde(default)]
    pub(crate) crls: String,
    /// Folder with `director/root.json` and `image/root.json`.
    pub(crate) roots: String,
    /// The vehicle's description.
    pub(crate) vehicle: String,
    /// Bytes to leave free on the data partition when a bundle is admitted.
    pub(crate) reserve_bytes: u64,
    /// Where the identity key is.
    pub(crate) key: KeySettings,
}
