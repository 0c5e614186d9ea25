//! Slots, the disk and the bundles, made as files: nothing is mounted.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{AFTER, BACKEND_PUBLIC, BEFORE, HOST, Paths, Version, folder, qemu_file, quiet, read, write};
use crate::shell::{Failure, Outcome, output, target_dir, workspace};

const MIB: u64 = 1024 * 1024;

/// A partition: name, size in MiB, GPT type.
struct Partition {
    name: &'static str,
    mib: u64,
    kind: &'static str,
}

/// The disk in order. Both slots have the same size, with room for the software to grow.
const PARTITIONS: &[Partition] = &[
    Partition { name: "esp", mib: 64, kind: "EF00" },
    Partition { name: "slot-a", mib: 512, kind: "8304" },
    Partition { name: "slot-b", mib: 512, kind: "8304" },
    Partition { name: "data", mib: 1536, kind: "8300" },
];

/// Where the first partition begins, and what GPT needs at the end, in MiB.
const MARGIN: u64 = 1;

/// Where a partition lies on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub name: &'static str,
    pub start: u64,
    pub length: u64,
}

/// All partitions in the order of the disk.
pub fn places() -> Vec<Place> {
    let mut start = MARGIN * MIB;
    let place = |partition: &Partition| {
        let place = Place { name: partition.name, start, length: partition.mib * MIB };
        start += place.length;
        place
    };
    PARTITIONS.iter().map(place).collect()
}

/// Modules of the GRUB program: what the script uses, and what it takes to read it and the kernel.
const GRUB_MODULES: &[&str] = &[
    "part_gpt",
    "fat",
    "ext2",
    "normal",
    "configfile",
    "linux",
    "loadenv",
    "echo",
    "test",
    "true",
    "regexp",
    "sleep",
    "reboot",
    "minicmd",
    "serial",
    "terminal",
    "search",
];

/// The factory's boot environment: A is committed, B is empty.
const ENVIRONMENT: &str = "# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n";

/// The ext4 image of a slot from the tree.
pub fn slot(paths: &Paths, version: Version) -> Outcome {
    let image = paths.slot(version);
    let _ = fs::remove_file(&image);
    let used = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(paths.tree()))?;
    let kib: u64 = used.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default();
    // Blocks and inodes take more than the files' bytes; the image is written whole at each update, so not much more.
    let mib = kib / 1024 * 105 / 100 + 12;
    // No journal: a slot is only ever mounted read-only. Features that GRUB 2.06 cannot read are left out.
    let make = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal,^metadata_csum_seed,^orphan_file,^resize_inode"])
        .args(["-E", "lazy_itable_init=0", "-L", "pitstop-root", "-d"])
        .arg(paths.tree())
        .arg(&image)
        .arg(format!("{mib}M"))
        .output();
    quiet("slot", make)?;
    eprintln!("    {}: {mib} MiB", image.display());
    Ok(())
}

/// The whole disk: slot A with software, slot B empty, a fresh data partition, the boot loader.
pub fn disk(paths: &Paths) -> Outcome {
    eprintln!("==> disk");
    let disk = paths.disk();
    let _ = fs::remove_file(&disk);
    let total: u64 = PARTITIONS.iter().map(|p| p.mib).sum::<u64>() + 2 * MARGIN;
    let file = File::create(&disk).and_then(|file| file.set_len(total * MIB).map(|()| file));
    file.map_err(|e| Failure::new(format!("{}: {e}", disk.display())))?;
    let mut table = Command::new("sgdisk");
    table.arg("--clear");
    for (at, partition) in PARTITIONS.iter().enumerate() {
        let number = at + 1;
        table.arg(format!("--new={number}:0:+{}M", partition.mib));
        table.arg(format!("--change-name={number}:{}", partition.name));
        table.arg(format!("--typecode={number}:{}", partition.kind));
    }
    quiet("partition table", table.arg(&disk).output())?;
    for (partition, place) in PARTITIONS.iter().zip(places()) {
        let image = match partition.name {
            "esp" => Some(esp(paths, partition.mib)?),
            "slot-a" => Some(paths.slot(BEFORE)),
            "data" => Some(data(paths, partition.mib)?),
            _ => None,
        };
        if let Some(image) = image {
            put(&image, &disk, place)?;
        }
    }
    Ok(())
}

/// Copies an image to its partition, leaving holes where it has them.
fn put(image: &Path, disk: &Path, place: Place) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", image.display()));
    let from = File::open(image).map_err(failed)?;
    let to = OpenOptions::new().write(true).open(disk).map_err(failed)?;
    let length = from.metadata().map_err(failed)?.len();
    if length > place.length {
        return Err(Failure::new(format!("{} does not fit into {}", image.display(), place.name)));
    }
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let count = from.read_at(&mut buffer, at).map_err(failed)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        if bytes.iter().any(|&byte| byte != 0) {
            to.write_all_at(bytes, place.start + at).map_err(failed)?;
        }
        at += count as u64;
    }
    Ok(())
}

/// EFI system partition: GRUB as one program, its script, both copies of the boot environment.
fn esp(paths: &Paths, mib: u64) -> Result<PathBuf, Failure> {
    let image = paths.dir.join("esp.img");
    let _ = fs::remove_file(&image);
    let program = paths.dir.join("bootx64.efi");
    quiet(
        "GRUB",
        Command::new("grub-mkimage")
            .args(["-O", "x86_64-efi", "-p", "/grub", "-c"])
            .arg(qemu_file("grub-early.cfg"))
            .arg("-o")
            .arg(&program)
            .args(GRUB_MODULES)
            .output(),
    )?;
    let environment = paths.dir.join("grubenv");
    write(&environment, format!("{ENVIRONMENT}{}", "#".repeat(1024 - ENVIRONMENT.len())))?;
    quiet(
        "ESP",
        Command::new("mkfs.vfat")
            .args(["-F", "32", "-n", "ESP", "-C"])
            .arg(&image)
            .arg((mib * 1024).to_string())
            .output(),
    )?;
    quiet("ESP", Command::new("mmd").arg("-i").arg(&image).args(["::/EFI", "::/EFI/BOOT", "::/grub"]).output())?;
    let script = workspace().join("rootfs-overlay/boot/grub/grub.cfg");
    let files = [
        (program, "::/EFI/BOOT/BOOTX64.EFI"),
        (script, "::/grub/grub.cfg"),
        (environment.clone(), "::/grub/grubenv"),
        (environment, "::/grub/grubenv.copy"),
    ];
    for (from, to) in files {
        quiet("ESP", Command::new("mcopy").arg("-i").arg(&image).arg(from).arg(to).output())?;
    }
    Ok(image)
}

/// The data partition as the factory leaves it: the vehicle's description and settings, and nothing learnt yet.
fn data(paths: &Paths, mib: u64) -> Result<PathBuf, Failure> {
    let tree = paths.dir.join("data");
    let _ = fs::remove_dir_all(&tree);
    let config = tree.join("config");
    folder(&tree.join("lib"))?;
    write(&config.join("vehicle.toml"), read(&qemu_file("config/vehicle.toml"))?)?;
    write(&config.join("backend-link.toml"), format!("provision_url = \"https://{HOST}:{BACKEND_PUBLIC}\"\n"))?;
    write(&config.join("backend-ca.pem"), read(&paths.backend().join("tls/server-ca.pem"))?)?;
    let image = paths.dir.join("data.img");
    let _ = fs::remove_file(&image);
    let make = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "pitstop-data", "-E", "root_owner=0:0", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg(format!("{mib}M"))
        .output();
    quiet("data partition", make)?;
    Ok(image)
}

/// The update bundles of both versions, side by side: the next one, and the one to go back to.
pub fn bundles(paths: &Paths) -> Outcome {
    eprintln!("==> bundles");
    let started = [BEFORE, AFTER].map(|version| bundle(paths, version).spawn());
    for program in started {
        quiet("bundle", program.and_then(Child::wait_with_output))?;
    }
    Ok(())
}

fn bundle(paths: &Paths, version: Version) -> Command {
    bundle_of(paths, &paths.slot(version), version, &paths.bundle(version))
}

/// The command that makes a bundle of a slot's image.
pub fn bundle_of(paths: &Paths, image: &Path, version: Version, out: &Path) -> Command {
    let _ = fs::remove_file(out);
    let mut build = Command::new(target_dir().join("debug/pitstop-bundle"));
    build
        .args(["build", "--hardware", "tcu-a1", "--software-version", version.name])
        .args(["--release-counter", &version.counter.to_string(), "--rootfs"])
        .arg(image)
        .arg("--cert")
        .arg(paths.keys().join("signer.cert.pem"))
        .arg("--key")
        .arg(paths.keys().join("signer.key.pem"))
        .arg("--out")
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    build
}
