//! New software that fails after the restart, each kind in its own way: the good slot with one change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{AFTER, Paths, Version, copy, disk, quiet, write};
use crate::shell::{Failure, Outcome};

/// What it calls itself: between the two good versions.
const VERSION: &str = "5.0.9";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no program to start.
    NoBoot,
    /// The system's first process stops in the middle of the start: only the hardware's watchdog is left.
    Hang,
    /// Everything starts but the service that would judge the rest.
    Unhealthy,
    /// It looks for the data partition under a name that there is not.
    NoData,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::NoBoot, Self::Hang, Self::Unhealthy, Self::NoData];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoBoot => "no-boot",
            Self::Hang => "hang",
            Self::Unhealthy => "unhealthy",
            Self::NoData => "no-data",
        }
    }

    /// Words for debugfs; `dir` holds the files that it writes into the image.
    fn change(self, dir: &Path) -> Result<Vec<String>, Failure> {
        let units = "/usr/lib/systemd/system";
        let file = |name: &str, text: &str| write(&dir.join(name), text).map(|()| dir.join(name).display().to_string());
        Ok(match self {
            Self::NoBoot => vec!["rm /usr/lib/systemd/systemd".to_owned()],
            Self::Hang => {
                // systemd freezes when it crashes, and feeds the watchdog no more.
                let unit =
                    "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'kill -SEGV 1'\n";
                vec![
                    format!("cd {units}"),
                    format!("write {} hang.service", file("hang.service", unit)?),
                    format!("cd {units}/sysinit.target.wants"),
                    "symlink hang.service ../hang.service".to_owned(),
                ]
            }
            Self::Unhealthy => {
                vec!["cd /etc/systemd/system".to_owned(), "symlink pitstop-manager.service /dev/null".to_owned()]
            }
            Self::NoData => {
                let good = crate::shell::workspace().join("rootfs-overlay/usr/lib/systemd/system/data.mount");
                let lost = super::read(&good)?.replace("by-partlabel/data", "by-partlabel/lost");
                vec![
                    format!("cd {units}"),
                    "rm data.mount".to_owned(),
                    format!("write {} data.mount", file("data.mount", &lost)?),
                ]
            }
        })
    }
}

/// The file system in that bundle.
pub fn slot(paths: &Paths, fault: Fault) -> PathBuf {
    paths.dir.join(format!("rootfs-{}.ext4", fault.name()))
}

/// The bundle of the faulty software, made anew when the good one is newer.
pub fn bundle(paths: &Paths, fault: Fault) -> Result<PathBuf, Failure> {
    let bundle = paths.dir.join(format!("tcu-{}.raucb", fault.name()));
    if !super::newer(paths, &bundle) {
        return Ok(bundle);
    }
    eprintln!("==> software that fails: {}", fault.name());
    let image = slot(paths, fault);
    let _ = fs::remove_file(&image);
    copy(&paths.slot(AFTER), &image)?;
    change(paths, fault, &image)?;
    let version = Version { name: VERSION, ..AFTER };
    quiet("bundle", disk::bundle_of(paths, &image, version, &bundle).output())?;
    Ok(bundle)
}

fn change(paths: &Paths, fault: Fault, image: &Path) -> Outcome {
    let dir = paths.dir.join("faulty");
    let _ = fs::remove_dir_all(&dir);
    let release = dir.join("pitstop-release");
    write(&release, super::root::release(Version { name: VERSION, ..AFTER }))?;
    let mut words = fault.change(&dir)?;
    words.extend([
        "cd /etc".to_owned(),
        "rm pitstop-release".to_owned(),
        format!("write {} pitstop-release", release.display()),
    ]);
    let script = dir.join("script");
    write(&script, words.join("\n") + "\n")?;
    let out = Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(image).output();
    let out = out.map_err(|e| Failure::new(format!("debugfs: {e}")))?;
    // It succeeds whatever happens; what it could not do stands behind its name and version.
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let trouble: Vec<&str> = said.lines().filter(|line| !line.starts_with("debugfs 1.")).collect();
    if trouble.is_empty() { Ok(()) } else { Err(Failure::new(format!("debugfs: {}", trouble.join("; ")))) }
}
