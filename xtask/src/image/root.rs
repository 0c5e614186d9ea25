//! The root file system as a folder: Debian's packages, of the kernel's modules the few that are used, our programs and files.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Paths, Version, copy, folder, list, qemu_file, quiet, read, write};
use crate::shell::{Failure, Outcome, output, step, target_dir, workspace};

const SUITE: &str = "bookworm";

/// What the image never needs of Debian's packages.
const LEFT_OUT: &[&str] = &["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*"];

/// Removed after the installation: what only changing packages needs, and databases for hardware that a vehicle does not have.
/// The image is written to flash as a whole at each update, so its size is time.
const UNUSED: &[&str] = &[
    "boot/System.map-*",
    "boot/config-*",
    "usr/lib/udev/hwdb.bin",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/libperl.so.*",
    "usr/lib/apt",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/grub",
    "usr/share/initramfs-tools",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt",
    "var/lib/dpkg",
];

/// The initial file system loads just what it takes to mount the root, and starts the watchdog: systemd takes it over, but until then,
/// or if there is none (Debian's script would run a shell in its place), nobody else notices that a slot does not start. Closing the
/// device without the letter V leaves the watchdog running (kernel, watchdog-api).
const INITRD_SETTINGS: &str = r#"mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/scripts/init-premount"
printf 'MODULES=list\nRESUME=none\nCOMPRESS=zstd\n' > "$1/etc/initramfs-tools/conf.d/pitstop.conf"
printf 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\ni6300esb heartbeat=60\n' > "$1/etc/initramfs-tools/modules"
printf '#!/bin/sh\n[ "$1" = prereqs ] || echo > /dev/watchdog\n' > "$1/etc/initramfs-tools/scripts/init-premount/watchdog"
chmod 755 "$1/etc/initramfs-tools/scripts/init-premount/watchdog""#;

/// The services, each started by a name of its own.
pub const SERVICES: &[&str] = &[
    "manager",
    "backend-link",
    "downloader",
    "validator",
    "hmi",
    "flasher",
    "self-update",
    "uds-server",
    "vehicle-state",
];

/// Debian's part, unpacked; made anew only when the lists of packages or modules change.
pub fn base(paths: &Paths) -> Result<PathBuf, Failure> {
    let packages = list(&qemu_file("packages.txt"))?;
    let modules = list(&qemu_file("modules.txt"))?;
    let tarball = paths.dir.join(format!("debian-{:016x}.tar", key(&[&packages, &[INITRD_SETTINGS.to_owned()]])));
    if !tarball.is_file() {
        fetch(&packages, &tarball)?;
    }
    let unused: Vec<String> = UNUSED.iter().map(|path| (*path).to_owned()).collect();
    let settings = [INITRD_SETTINGS.to_owned()];
    let base = paths.dir.join(format!("base-{:016x}", key(&[&packages, &settings, &modules, &unused])));
    if base.join("etc/debian_version").is_file() {
        return Ok(base);
    }
    let half = paths.dir.join("base-unpacking");
    let _ = fs::remove_dir_all(&half);
    folder(&half)?;
    step(
        "unpacking Debian's part",
        Command::new("tar").args(["--numeric-owner", "--xattrs", "-xf"]).arg(&tarball).arg("-C").arg(&half),
    )?;
    prune_modules(&half, &modules)?;
    // A shell expands the patterns, in the folder they are meant for.
    let remove = format!("rm -rf -- {}", UNUSED.join(" "));
    quiet("removing what is unused", Command::new("sh").args(["-c", &remove]).current_dir(&half).output())?;
    fs::rename(&half, &base).map_err(|e| Failure::new(format!("{}: {e}", base.display())))?;
    Ok(base)
}

fn key(lists: &[&[String]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (SUITE, LEFT_OUT, lists).hash(&mut hasher);
    hasher.finish()
}

fn fetch(packages: &[String], tarball: &Path) -> Outcome {
    // A half-made tarball must not be taken for a whole one.
    let half = tarball.with_extension("half.tar");
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    make.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    make.arg(format!("--include={}", packages.join(",")));
    make.arg(format!("--essential-hook={INITRD_SETTINGS}")).arg(SUITE).arg(&half);
    step("Debian's packages (once; some minutes)", &mut make)?;
    fs::rename(&half, tarball).map_err(|e| Failure::new(format!("{}: {e}", tarball.display())))
}

fn modules(root: &Path) -> PathBuf {
    let all = root.join("usr/lib/modules");
    if all.is_dir() { all } else { root.join("lib/modules") }
}

/// The version of the kernel in a root file system, as `uname -r` tells it there.
pub fn kernel_version(root: &Path) -> Result<String, Failure> {
    let all = modules(root);
    let first = fs::read_dir(&all).ok().and_then(|mut entries| entries.next()).and_then(Result::ok);
    let name = first.and_then(|entry| entry.file_name().into_string().ok());
    name.ok_or_else(|| Failure::new(format!("{}: no kernel modules", all.display())))
}

/// Keeps the listed modules with what they depend on.
fn prune_modules(root: &Path, wanted: &[String]) -> Outcome {
    let version = kernel_version(root)?;
    let mut keep = BTreeSet::new();
    for module in wanted {
        let needed = output(Command::new("modprobe").arg("-d").arg(root).args([
            "-S",
            &version,
            "--show-depends",
            module.as_str(),
        ]))?;
        let files = needed.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|line| line.trim().to_owned());
        keep.extend(files.filter_map(|file| Path::new(&file).canonicalize().ok()));
    }
    let kernel = modules(root).join(&version).join("kernel");
    remove_others(&kernel, &keep)?;
    quiet("depmod", Command::new("depmod").arg("-b").arg(root).arg(&version).output())
}

fn remove_others(folder: &Path, keep: &BTreeSet<PathBuf>) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_others(&path, keep)?;
            // Fails where something is left, which is right.
            let _ = fs::remove_dir(&path);
        } else if !path.canonicalize().is_ok_and(|real| keep.contains(&real)) {
            fs::remove_file(&path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        }
    }
    Ok(())
}

/// The whole root: base, our programs, both overlays, trust, users, enabled units.
pub fn tree(paths: &Paths, base: &Path) -> Outcome {
    eprintln!("==> root file system");
    let tree = paths.tree();
    let _ = fs::remove_dir_all(&tree);
    copy(base, &tree)?;
    kernel(&tree)?;
    for overlay in [workspace().join("rootfs-overlay"), qemu_file("overlay")] {
        // With root as the owner, and readable whatever the umask was when the files were checked out.
        quiet(
            "overlay",
            Command::new("cp").args(["-r", "--no-preserve=all"]).arg(overlay.join(".")).arg(&tree).output(),
        )?;
    }
    programs(&tree, &target_dir().join(super::PROFILE))?;
    trust(paths, &tree)?;
    login(paths, &tree)?;
    quiet("users", Command::new("systemd-sysusers").arg(format!("--root={}", tree.display())).output())?;
    quiet(
        "root administers Pitstop",
        Command::new("chroot").arg(&tree).args(["/usr/sbin/usermod", "-aG", "pitstop-admin", "root"]).output(),
    )?;
    enable(&tree)?;
    fixtures(&tree)
}

/// The kernel and its initial file system under the names that the GRUB script knows.
fn kernel(tree: &Path) -> Outcome {
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).map_err(|e| Failure::new(format!("{}: {e}", boot.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = match name.split_once('-') {
            Some(("vmlinuz", _)) => "vmlinuz",
            Some(("initrd.img", _)) => "initrd",
            _ if entry.path().is_dir() => continue,
            _ => {
                let _ = fs::remove_file(entry.path());
                continue;
            }
        };
        fs::rename(entry.path(), boot.join(target)).map_err(|e| Failure::new(format!("{name}: {e}")))?;
    }
    // Debian's links to the versioned names.
    for link in ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"] {
        let _ = fs::remove_file(tree.join(link));
    }
    Ok(())
}

fn programs(tree: &Path, built: &Path) -> Outcome {
    let libexec = tree.join("usr/libexec/pitstop");
    folder(&libexec)?;
    let install = |from: PathBuf, to: PathBuf| -> Outcome {
        fs::copy(&from, &to).map_err(|e| Failure::new(format!("{}: {e}", from.display())))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).map_err(|e| Failure::new(e.to_string()))
    };
    install(built.join("pitstopd"), libexec.join("pitstopd"))?;
    install(built.join("pitstopctl"), tree.join("usr/bin/pitstopctl"))?;
    // Not ours to ship: the far end of the emulated buses.
    install(built.join("can-bridge"), libexec.join("can-bridge"))?;
    for service in SERVICES {
        symlink("pitstopd", libexec.join(format!("pitstop-{service}")))
            .map_err(|e| Failure::new(format!("pitstop-{service}: {e}")))?;
    }
    Ok(())
}

/// What the software is built to believe.
fn trust(paths: &Paths, tree: &Path) -> Outcome {
    let lib = tree.join("usr/lib/pitstop");
    write(&lib.join("keyring.pem"), read(&paths.keys().join("keyring.pem"))?)?;
    write(&lib.join("testers.pem"), read(&paths.tester().join("testers.pem"))?)?;
    for repository in ["director", "image"] {
        let root = read(&paths.backend().join("uptane").join(repository).join("root.json"))?;
        write(&lib.join("uptane").join(repository).join("root.json"), root)?;
    }
    Ok(())
}

/// Whoever has the key is root, by the ssh server of `qemu/overlay`.
fn login(paths: &Paths, tree: &Path) -> Outcome {
    let keys = tree.join("root/.ssh/authorized_keys");
    write(&keys, read(&paths.login().with_extension("pub"))?)?;
    // The server believes no file that others could write, whatever the umask is here.
    for (path, mode) in [(tree.join("root/.ssh"), 0o700), (keys, 0o600)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}

/// Enables and disables units as the presets of both overlays say.
fn enable(tree: &Path) -> Outcome {
    let presets = tree.join("usr/lib/systemd/system-preset");
    let mut units = Vec::new();
    for file in ["40-qemu.preset", "50-pitstop.preset"] {
        for line in list(&presets.join(file))? {
            let Some((_, unit)) = line.split_once(' ') else { continue };
            if !unit.contains('*') {
                units.push(unit.to_owned());
            }
        }
    }
    units.extend(SERVICES.iter().map(|service| format!("pitstop-{service}.service")));
    let root = format!("--root={}", tree.display());
    let known = |unit: &String| {
        let file = match unit.split_once('@') {
            Some((template, rest)) => format!("{template}@.{}", rest.rsplit('.').next().unwrap_or_default()),
            None => unit.clone(),
        };
        ["usr/lib", "etc"].iter().any(|at| tree.join(at).join("systemd/system").join(&file).exists())
            || tree.join("lib/systemd/system").join(&file).exists()
    };
    units.retain(known);
    quiet("presets", Command::new("systemctl").arg(root).arg("preset").args(&units).output())
}

/// What a read-only root needs beside the overlays.
fn fixtures(tree: &Path) -> Outcome {
    for mount_point in ["data", "etc/pitstop", "var/lib/pitstop"] {
        folder(&tree.join(mount_point))?;
    }
    // Empty, not absent: systemd makes an id for each start, tcu-machine-id.service puts the kept one in its place, and nothing takes it
    // for the very first start.
    write(&tree.join("etc/machine-id"), "")?;
    write(&tree.join("etc/hostname"), "tcu\n")?;
    write(&tree.join("etc/fstab"), "# Mounts are units; see /usr/lib/systemd/system.\n")
}

/// Says in the slot what it holds.
pub fn set_version(tree: &Path, version: Version) -> Outcome {
    write(&tree.join("etc/pitstop-release"), release(version))
}

/// What `self-update` reads out of a slot.
pub fn release(version: Version) -> String {
    format!("SOFTWARE_NUMBER=PS-TCU-0005\nVERSION={}\nCOUNTER={}\nHARDWARE=tcu-a1\n", version.name, version.counter)
}
