//! What the machine must have, and how it gets it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::shell::{self, Failure, Outcome, has, is_root, known_flags, step, workspace};

/// Debian packages, with a file or program that shows whether one is there.
const PACKAGES: &[(&str, Probe)] = &[
    ("pkg-config", Probe::Program("pkg-config")),
    ("gcc", Probe::Program("cc")),
    ("g++", Probe::Program("c++")),
    ("libssl-dev", Probe::PkgConfig("openssl")),
    ("libtss2-dev", Probe::PkgConfig("tss2-esys")),
    ("dbus", Probe::Program("dbus-daemon")),
    ("mosquitto", Probe::Program("mosquitto")),
    ("swtpm", Probe::Program("swtpm")),
    ("swtpm-tools", Probe::Program("swtpm_setup")),
    ("e2fsprogs", Probe::Program("mke2fs")),
    ("dosfstools", Probe::Program("mkfs.vfat")),
    ("mtools", Probe::Program("mcopy")),
    ("util-linux", Probe::Program("setpriv")),
    ("systemd", Probe::Program("busctl")),
    ("squashfs-tools", Probe::Program("mksquashfs")),
    ("rauc", Probe::Program("rauc")),
    ("grub-common", Probe::Program("grub-editenv")),
    ("grub-emu", Probe::Program("grub-emu")),
    ("libubootenv-tool", Probe::Program("fw_printenv")),
    ("libxml2-utils", Probe::Program("xmllint")),
    ("python3-venv", Probe::PythonVenv),
    ("opensbi", Probe::File("/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin")),
    ("u-boot-qemu", Probe::File("/usr/lib/u-boot/qemu-riscv64/u-boot.bin")),
    ("u-boot-tools", Probe::Program("mkimage")),
    ("qemu-system-arm", Probe::Program("qemu-system-aarch64")),
];

enum Probe {
    Program(&'static str),
    PkgConfig(&'static str),
    File(&'static str),
    PythonVenv,
}

impl Probe {
    fn is_there(&self) -> bool {
        let quiet = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        match self {
            Self::Program(name) => has(name),
            Self::PkgConfig(name) => quiet(Command::new("pkg-config").args(["--exists", name])),
            Self::File(path) => PathBuf::from(path).is_file(),
            Self::PythonVenv => quiet(Command::new("python3").args(["-c", "import venv, ensurepip"])),
        }
    }
}

const HELP: &str = "\
usage: cargo xtask setup [--check] [--json]

Installs the Debian packages, the system users and the Python peers that the demonstration and the tests need.
Needs root for packages and users; as another user it names the one command that root runs.
--check only tells what is missing; --json tells it as {\"packages\":[...],\"users\":[...]}.";

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    known_flags("setup", args, &["--check", "--json"], &[])?;
    if args.iter().any(|a| a == "--check") {
        let (packages, users) = (missing_packages(), missing_users());
        if args.iter().any(|a| a == "--json") {
            println!("{}", serde_json::json!({ "packages": packages, "users": users }));
        } else {
            println!("missing packages: {}\nmissing users: {}", packages.join(" "), users.join(" "));
        }
        return Ok(());
    }
    ensure()?;
    peers()?;
    eprintln!("set-up is complete");
    Ok(())
}

/// Packages and users; quick when all is there.
pub fn ensure() -> Outcome {
    let packages = missing_packages();
    if !packages.is_empty() {
        if !is_root() {
            return Err(Failure::new(format!(
                "missing: {0}\nrun as root: apt-get update && apt-get install -y {0}",
                packages.join(" ")
            )));
        }
        step("package lists", Command::new("apt-get").args(["update", "-qq"]))?;
        step(
            "packages",
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&packages),
        )?;
    }
    if is_root() { users() } else { Ok(()) }
}

/// The Python programs that tests use as peers nobody here wrote, in an environment of their own.
/// Answers the interpreter of that environment.
pub fn peers() -> Result<PathBuf, Failure> {
    let folder = shell::target_dir().join("peers");
    let python = folder.join("bin/python");
    let wanted = workspace().join("tests/peers/requirements.txt");
    let text = fs::read_to_string(&wanted).map_err(|e| Failure::new(format!("{}: {e}", wanted.display())))?;
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) {
        return Ok(python);
    }
    step("environment for Python peers", Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    step(
        "Python peers",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&wanted),
    )?;
    fs::write(&stamp, text).map_err(|e| Failure::new(format!("{}: {e}", stamp.display())))?;
    Ok(python)
}

fn missing_packages() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, probe)| !probe.is_there()).map(|(name, _)| *name).collect()
}

/// Users and groups of the overlay's sysusers file: `u NAME` and `g NAME`.
fn declared() -> Vec<(bool, String)> {
    let file = workspace().join("rootfs-overlay/usr/lib/sysusers.d/pitstop.conf");
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("u"), Some(name)) => found.push((true, name.to_owned())),
            (Some("g"), Some(name)) => found.push((false, name.to_owned())),
            _ => {}
        }
    }
    found
}

fn missing_users() -> Vec<String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let known = |text: &str, name: &str| text.lines().any(|l| l.split(':').next() == Some(name));
    declared()
        .into_iter()
        .filter(|(is_user, name)| !known(if *is_user { &passwd } else { &group }, name))
        .map(|(_, name)| name)
        .collect()
}

/// Makes the users and groups that the overlay declares, and puts root in the group that pitstopctl needs.
fn users() -> Outcome {
    let missing = missing_users();
    for (is_user, name) in declared().into_iter().filter(|(_, name)| missing.contains(name)) {
        let mut command = if is_user {
            let mut c = Command::new("useradd");
            c.args(["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--user-group", &name]);
            c
        } else {
            let mut c = Command::new("groupadd");
            c.args(["--system", &name]);
            c
        };
        step(&format!("system user or group {name}"), &mut command)?;
    }
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let is_admin = group.lines().any(|l| {
        l.starts_with("pitstop-admin:") && l.split(':').nth(3).is_some_and(|m| m.split(',').any(|u| u == "root"))
    });
    if is_admin {
        return Ok(());
    }
    step("root may use pitstopctl", Command::new("usermod").args(["-aG", "pitstop-admin", "root"]))
}
