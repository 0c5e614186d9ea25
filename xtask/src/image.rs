//! A bootable disk of the TCU without Yocto, and the update bundle of the same software.
//!
//! Read in this order: here the command and its parts, `image/root.rs` (Debian's packages and our files make a folder),
//! `image/disk.rs` (the folder becomes slots, a disk and bundles).

mod disk;
pub mod faulty;
mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::json;

pub use disk::{Place, places};
pub use root::{SERVICES, kernel_version};

use crate::shell::{self, Failure, Outcome, cargo, is_root, known_flags, output, step, tenths, workspace};
use crate::units;

const HELP: &str = "\
usage: cargo xtask image [--no-build] [--check] [--json]

Makes target/tcu/disk.img: a GPT disk with EFI system partition, slots A and B and data partition, bootable by UEFI. Slot A holds
Debian's packages of qemu/packages.txt, our programs, rootfs-overlay/ and qemu/overlay/; slot B is empty. Makes the update bundles of
the same software too, once with the version of slot A and once with the next. Needs root, for the owners of files.
The packages are fetched once and kept as a tarball; a change of our code makes only what follows from it anew.

--no-build    takes our programs as they were built last
--check       only checks the units of the image by systemd-analyze
--json        ends with one line of JSON: paths and times";

/// What a product ships, link-time optimisation included: without it every process would keep more than a megabyte of relocated
/// tables of its own.
pub const PROFILE: &str = "release";

/// Debian packages of the building machine, each with a program or file that shows whether it is there.
const TOOLS: &[(&str, &str)] = &[
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("e2fsprogs", "/sbin/mke2fs"),
    ("dosfstools", "/sbin/mkfs.vfat"),
    ("mtools", "/usr/bin/mcopy"),
    ("gdisk", "/sbin/sgdisk"),
    ("grub-common", "/usr/bin/grub-mkimage"),
    ("grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi/normal.mod"),
    ("kmod", "/sbin/depmod"),
    ("systemd", "/usr/bin/systemd-sysusers"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
    ("swtpm", "/usr/bin/swtpm"),
    ("swtpm-tools", "/usr/bin/swtpm_setup"),
    ("openssh-client", "/usr/bin/ssh-keygen"),
];

/// The host as a guest on QEMU's user network sees it, and the ports of the host's services there.
pub const HOST: &str = "10.0.2.2";
pub const BACKEND_PUBLIC: u16 = 18443;
pub const BACKEND_DEVICE: u16 = 18444;
pub const BACKEND_ADMIN: u16 = 18080;
pub const BROKER: u16 = 18883;
pub const ECU_DOIP: u16 = 18400;
pub const ECU_CAN: u16 = 18500;

/// Versions as the demonstration has them: slot A's, and the update's.
pub const BEFORE: Version = Version { name: "5.0.0", counter: 1 };
pub const AFTER: Version = Version { name: "5.1.0", counter: 2 };

/// What the TCU's software is called, and its release counter.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    pub name: &'static str,
    pub counter: u32,
}

/// Where everything lies.
#[derive(Debug, Clone)]
pub struct Paths {
    pub dir: PathBuf,
}

impl Paths {
    pub fn new() -> Self {
        Self { dir: shell::target_dir().join("tcu") }
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    pub fn bundle(&self, version: Version) -> PathBuf {
        self.dir.join(format!("tcu-{}.raucb", version.name))
    }

    /// Development keys of bundles.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// A workshop's tester: its certificate and key, and the authority that the image trusts.
    pub fn tester(&self) -> PathBuf {
        self.keys().join("tester")
    }

    /// The private key that logs in as root by ssh; its public half lies beside it.
    pub fn login(&self) -> PathBuf {
        self.dir.join("ssh/id_ed25519")
    }

    /// The backend whose roots the image trusts.
    pub fn backend(&self) -> PathBuf {
        self.dir.join("backend")
    }

    /// The root file system as a folder.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The file system of a slot with this version.
    pub fn slot(&self, version: Version) -> PathBuf {
        self.dir.join(format!("rootfs-{}.ext4", version.name))
    }
}

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    known_flags("image", args, &["--no-build", "--check", "--json"], &[])?;
    if args.iter().any(|a| a == "--check") {
        return units::check();
    }
    let paths = Paths::new();
    ensure()?;
    folder(&paths.dir)?;
    let base = root::base(&paths)?;
    let started = Instant::now();
    if !args.iter().any(|a| a == "--no-build") {
        build_programs()?;
    }
    let compiled = started.elapsed();
    make(&paths, &base)?;
    if args.iter().any(|a| a == "--json") {
        println!(
            "{}",
            json!({
                "disk": paths.disk(),
                "bundle": paths.bundle(AFTER),
                "fallback_bundle": paths.bundle(BEFORE),
                "keyring": paths.keys().join("keyring.pem"),
                "backend": paths.backend(),
                "compile_secs": tenths(compiled),
                "image_secs": tenths(started.elapsed().saturating_sub(compiled)),
            })
        );
    } else {
        println!("{}\nboot it with: cargo xtask qemu", paths.disk().display());
    }
    Ok(())
}

/// Everything that follows from packages and programs.
fn make(paths: &Paths, base: &Path) -> Outcome {
    trust(paths)?;
    root::tree(paths, base)?;
    for version in [BEFORE, AFTER] {
        root::set_version(&paths.tree(), version)?;
        disk::slot(paths, version)?;
    }
    disk::disk(paths)?;
    disk::bundles(paths)
}

/// Makes the image unless nothing that it is made of has changed since: then what was found out about it still holds.
pub fn refresh(paths: &Paths) -> Outcome {
    folder(&paths.dir)?;
    build_programs()?;
    let programs = ["pitstopd", "pitstopctl", "can-bridge"].map(|name| shell::target_dir().join(PROFILE).join(name));
    let sources =
        ["rootfs-overlay", "qemu", "xtask/src/image", "xtask/src/image.rs"].map(|name| workspace().join(name));
    let made = [paths.disk(), paths.bundle(BEFORE), paths.bundle(AFTER)];
    if made.iter().all(|file| file.is_file()) {
        let mut find = Command::new("find");
        find.args(programs).args(sources).arg("-newer").arg(paths.disk()).args([
            "-not",
            "-name",
            "README.md",
            "-not",
            "-path",
            "*/qemu/bus-off/*",
            "-print",
            "-quit",
        ]);
        if output(&mut find)?.is_empty() {
            return Ok(());
        }
    }
    run(&["--no-build".to_owned()])
}

/// Whether the image was made after this file: then what the file says of it holds no longer.
pub fn newer(paths: &Paths, file: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (time(&paths.bundle(AFTER)), time(file)) {
        (Some(image), Some(file)) => image > file,
        _ => true,
    }
}

fn missing_tools() -> Vec<&'static str> {
    TOOLS.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect()
}

/// Makes the disk if there is none. Whoever has one with all tools beside it starts it as any user.
pub fn bootable(paths: &Paths) -> Outcome {
    let there = paths.disk().is_file();
    may_start(there, &missing_tools(), is_root())?;
    if there { ensure_tools() } else { run(&[]) }
}

/// Whether this user may start the disk, or what root has to do first.
fn may_start(disk: bool, missing: &[&str], root: bool) -> Outcome {
    if root || (disk && missing.is_empty()) {
        return Ok(());
    }
    let install = format!("apt-get update && apt-get install -y {}", missing.join(" "));
    let steps: Vec<&str> = [(!missing.is_empty(), install.as_str()), (!disk, "cargo xtask image")]
        .into_iter()
        .filter_map(|(needed, step)| needed.then_some(step))
        .collect();
    Err(Failure::new(format!("run as root first: {}", steps.join(" && "))))
}

/// Installs what is missing on the building machine.
pub fn ensure() -> Outcome {
    let missing = missing_tools();
    if !is_root() {
        let more =
            if missing.is_empty() { String::new() } else { format!(" (missing packages: {})", missing.join(" ")) };
        return Err(Failure::new(format!("an image has files of many owners, so making it needs root{more}")));
    }
    ensure_tools()
}

fn ensure_tools() -> Outcome {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    step("package lists", Command::new("apt-get").args(["update", "-qq"]))?;
    step(
        "packages",
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(missing),
    )
}

fn build_programs() -> Outcome {
    step(
        "programs for the image",
        cargo().args([
            "build",
            "--quiet",
            "--profile",
            PROFILE,
            "-p",
            "pitstopd",
            "-p",
            "pitstopctl",
            "-p",
            "pitstop-can-bridge",
        ]),
    )?;
    step(
        "tools of this machine",
        cargo().args([
            "build",
            "--quiet",
            "-p",
            "pitstop-bundle-tool",
            "-p",
            "pitstop-backend",
            "-p",
            "pitstop-ecu-sim",
        ]),
    )
}

/// Keys and roots that the image is built to trust, made once: signing keys of bundles, a developer's login, and a backend with its
/// Uptane roots.
fn trust(paths: &Paths) -> Outcome {
    let tools = shell::target_dir().join("debug");
    if !paths.login().is_file() {
        folder(&paths.dir.join("ssh"))?;
        let words = ["-q", "-t", "ed25519", "-N", "", "-C", "pitstop-development", "-f"];
        quiet("a key for ssh", Command::new("ssh-keygen").args(words).arg(paths.login()).output())?;
    }
    if !paths.keys().join("keyring.pem").is_file() {
        let out = Command::new(tools.join("pitstop-bundle")).args(["keys", "--out"]).arg(paths.keys()).output();
        quiet("development keys", out)?;
    }
    if !paths.tester().join("testers.pem").is_file() {
        let out = Command::new(tools.join("pitstop-bundle")).args(["tester", "--out"]).arg(paths.tester()).output();
        quiet("a development tester", out)?;
    }
    if paths.backend().join("offline-keys/director-offline-targets.pem").is_file() {
        return Ok(());
    }
    // One that was not finished, or made before workshops had roles of their own, is no backend.
    let _ = fs::remove_dir_all(paths.backend());
    let here = |port: u16| format!("127.0.0.1:{port}");
    let out = Command::new(tools.join("pitstop-backend"))
        .arg("init")
        .arg("--dir")
        .arg(paths.backend())
        .args(["--host", HOST, "--host", "127.0.0.1", "--mqtt-bind", "127.0.0.1", "--mqtt-port", &BROKER.to_string()])
        .args(["--public", &here(BACKEND_PUBLIC), "--device", &here(BACKEND_DEVICE), "--admin", &here(BACKEND_ADMIN)])
        .arg("--keyring")
        .arg(paths.keys().join("keyring.pem"))
        .output();
    quiet("a backend with its roots", out)
}

/// The end of a program whose output matters only when it failed.
fn quiet(name: &str, out: std::io::Result<std::process::Output>) -> Outcome {
    let out = out.map_err(|e| Failure::new(format!("{name}: {e}")))?;
    if out.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim_end())))
}

/// Makes a folder and those above it.
fn folder(path: &Path) -> Outcome {
    fs::create_dir_all(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Outcome {
    if let Some(parent) = path.parent() {
        folder(parent)?;
    }
    fs::write(path, text).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

/// Lines of a list file, without comments.
fn list(path: &Path) -> Result<Vec<String>, Failure> {
    let text = read(path)?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}

/// Copies with owners and modes.
fn copy(from: &Path, to: &Path) -> Outcome {
    output(Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(from).arg(to)).map(|_| ())
}

/// A file of the folder `qemu/`.
fn qemu_file(name: &str) -> PathBuf {
    workspace().join("qemu").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_needed_only_where_something_must_be_made() {
        assert!(may_start(true, &[], false).is_ok());
        assert!(may_start(false, &["ovmf"], true).is_ok());
        let refused = |disk, missing: &[&str]| may_start(disk, missing, false).unwrap_err().text;
        assert!(refused(false, &[]).ends_with("root first: cargo xtask image"));
        let tools = refused(true, &["ovmf", "swtpm"]);
        assert!(tools.ends_with("apt-get install -y ovmf swtpm"), "{tools}");
        assert!(refused(false, &["ovmf"]).ends_with("-y ovmf && cargo xtask image"));
    }
}
