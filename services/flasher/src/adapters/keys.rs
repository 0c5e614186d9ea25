use std::path::PathBuf;

use pitstop_flashing::seed_key;
use pitstop_types::EcuId;

use crate::ports::Keys;

/// 0x27 secrets from files that only the flasher's user may read: `ECU.key`, in hexadecimal.
pub struct FileKeys {
    folder: PathBuf,
}

impl FileKeys {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

impl Keys for FileKeys {
    fn key(&self, ecu: &EcuId, plugin: &str, level: u8, seed: &[u8]) -> Result<Vec<u8>, String> {
        let path = self.folder.join(format!("{ecu}.key"));
        let text = std::fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
        let secret = hex::decode(text.trim()).map_err(|_| format!("{} is not hexadecimal", path.display()))?;
        seed_key::key(plugin, &secret, level, seed).map_err(|e| e.to_string())
    }
}
