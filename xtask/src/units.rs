//! The overlay's systemd units: whether systemd understands them, and how much each service may do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Failure, Outcome, output, target_dir, workspace};

/// Ten times the highest exposure level that `systemd-analyze security` may give (its --threshold).
const THRESHOLD: &str = "20";
/// The validator decides what is installed: it has less than the others.
const VALIDATOR_THRESHOLD: &str = "10";

/// Units that run a tool once. Not the one that restarts the machine, which does nothing else.
const TOOLS: [&str; 3] = ["tcu-trial-guard.service", "tcu-provision.service", "tcu-machine-id.service"];

/// Checks all units of the overlay, without a running systemd.
pub fn check() -> Outcome {
    eprintln!("==> units");
    let root = stage()?;
    let units = ours()?;
    let said = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no"])
        .arg(format!("--root={}", root.display()))
        .args(&units)
        .output()
        .map_err(|e| Failure::new(format!("cannot start systemd-analyze: {e}")))?;
    // Its exit status does not tell of unknown settings; what it says about our files does. It also speaks about the machine's.
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let about_us: Vec<&str> =
        said.lines().filter(|line| ["pitstop", "tcu-"].iter().any(|name| line.contains(name))).collect();
    if !about_us.is_empty() {
        return Err(Failure::new(format!("systemd-analyze verify:\n{}", about_us.join("\n"))));
    }
    for unit in units
        .iter()
        .filter(|unit| (unit.starts_with("pitstop-") || TOOLS.contains(&unit.as_str())) && unit.ends_with(".service"))
    {
        let threshold = if unit == "pitstop-validator.service" { VALIDATOR_THRESHOLD } else { THRESHOLD };
        let table = output(
            Command::new("systemd-analyze")
                .args(["security", "--no-pager", "--offline=yes"])
                .args([format!("--root={}", root.display()), format!("--threshold={threshold}")])
                .arg(unit),
        )
        .map_err(|_| Failure::new(format!("{unit} may do too much; see: systemd-analyze security")))?;
        let level = table.lines().last().unwrap_or_default().trim_start_matches(['→', ' ']);
        eprintln!("    {level}");
    }
    Ok(())
}

/// The overlay's units that can be started by name; mounts need a machine to be checked against.
fn ours() -> Result<Vec<String>, Failure> {
    let folder = workspace().join("rootfs-overlay/usr/lib/systemd/system");
    let entries = fs::read_dir(&folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// A root folder with the overlay over this machine's units, and something executable under every name that a unit starts.
fn stage() -> Result<PathBuf, Failure> {
    let root = target_dir().join("units");
    let _ = fs::remove_dir_all(&root);
    for folder in ["usr/lib/systemd", "usr/libexec/pitstop", "usr/bin"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    }
    let copy = |from: &Path, to: PathBuf| output(Command::new("cp").arg("-r").arg(from).arg(to)).map(|_| ());
    copy(Path::new("/usr/lib/systemd/system"), root.join("usr/lib/systemd"))?;
    copy(&workspace().join("rootfs-overlay/usr"), root.clone())?;
    let mut programs: Vec<PathBuf> = vec![
        "usr/bin/sh".into(),
        "usr/bin/systemctl".into(),
        "usr/bin/pitstopctl".into(),
        "usr/libexec/pitstop/pitstopd".into(),
    ];
    for unit in ours()? {
        if let Some(service) = unit.strip_suffix(".service") {
            programs.push(Path::new("usr/libexec/pitstop").join(service));
        }
    }
    for program in programs {
        let at = root.join(program);
        fs::copy("/bin/true", &at).map_err(|e| Failure::new(format!("{}: {e}", at.display())))?;
    }
    Ok(root)
}
