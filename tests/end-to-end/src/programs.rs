//! Where the programs under demonstration lie: beside our own.

use std::path::PathBuf;

use anyhow::{Context, ensure};

/// The programs of the workspace.
#[derive(Debug, Clone)]
pub struct Programs {
    pub pitstopd: PathBuf,
    pub pitstopctl: PathBuf,
    pub backend: PathBuf,
    pub bundle_tool: PathBuf,
    pub ecu_sim: PathBuf,
    /// The image's files beside binaries.
    pub overlay: PathBuf,
    /// Vehicle of the simulator.
    pub vehicle: PathBuf,
}

impl Programs {
    /// Finds them in the folder of the running program (or its parent, for tests).
    pub fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding our own program")?;
        let mut folder = own.parent().context("a program lies in a folder")?.to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = Self {
            pitstopd: folder.join("pitstopd"),
            pitstopctl: folder.join("pitstopctl"),
            backend: folder.join("pitstop-backend"),
            bundle_tool: folder.join("pitstop-bundle"),
            ecu_sim: folder.join("ecu-sim"),
            overlay: source.join("../../rootfs-overlay").canonicalize().context("finding rootfs-overlay")?,
            vehicle: source
                .join("../ecu-sim/vehicles/demo.toml")
                .canonicalize()
                .context("finding the simulated vehicle")?,
        };
        for program in [&found.pitstopd, &found.pitstopctl, &found.backend, &found.bundle_tool, &found.ecu_sim] {
            ensure!(program.is_file(), "{} is missing; run: cargo build --workspace", program.display());
        }
        Ok(found)
    }
}
