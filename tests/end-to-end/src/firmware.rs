//! Real firmware made into signed bundles: what each control unit runs before, and what it shall run after.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::process::run;

const OPENSBI: &str = "/usr/lib/riscv64-linux-gnu/opensbi/generic";
const U_BOOT: &str = "/usr/lib/u-boot";

/// One ECU's two releases: version and firmware file.
#[derive(Debug, Clone, Copy)]
pub struct Software {
    pub ecu: &'static str,
    pub hardware: &'static str,
    pub number: &'static str,
    pub before: (&'static str, &'static str),
    pub after: (&'static str, &'static str),
}

/// Where the simulated ECUs' memory maps have the application, and its identity block.
const FIRMWARE_ADDRESS: u32 = 0x0801_0000;
const IDENTITY_ADDRESS: u32 = 0x0800_8000;

/// The demonstration's vehicle.
pub const SOFTWARE: &[Software] = &[
    Software {
        ecu: "bcm",
        hardware: "bcm-a1",
        number: "PS-BCM-0001",
        before: ("1.4.0", "opensbi/fw_jump.bin"),
        after: ("1.5.0", "opensbi/fw_dynamic.bin"),
    },
    Software {
        ecu: "adas",
        hardware: "adas-a1",
        number: "PS-ADAS-0003",
        before: ("3.0.1", "u-boot/qemu-riscv64/u-boot.bin"),
        after: ("3.1.0", "u-boot/qemu-riscv64_smode/u-boot.bin"),
    },
    Software {
        ecu: "gateway",
        hardware: "gateway-a1",
        number: "PS-GW-0002",
        before: ("2.2.0", "u-boot/qemu_arm/u-boot.bin"),
        after: ("2.3.0", "u-boot/qemu_arm64/u-boot.bin"),
    },
    Software {
        ecu: "tpms",
        hardware: "tpms-a1",
        number: "PS-TPMS-0004",
        before: ("0.9.2", "opensbi/fw_dynamic.bin"),
        after: ("0.9.3", "opensbi/fw_jump.bin"),
    },
];

/// The TCU's own software.
pub const TCU_HARDWARE: &str = "tcu-a1";
pub const TCU_BEFORE: &str = "5.0.0";
pub const TCU_AFTER: &str = "5.1.0";

/// ECU, version before, version after; the TCU among them.
pub fn versions() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut all: Vec<_> = SOFTWARE.iter().map(|s| (s.ecu, s.before.0, s.after.0)).collect();
    all.push(("tcu", TCU_BEFORE, TCU_AFTER));
    all
}

impl Software {
    /// The firmware file of a release, as Debian's packages install it.
    pub fn file(release: &str) -> PathBuf {
        match release.split_once('/') {
            Some(("opensbi", rest)) => Path::new(OPENSBI).join(rest),
            Some((_, rest)) => Path::new(U_BOOT).join(rest),
            None => PathBuf::from(release),
        }
    }
}

/// The bundles of both releases and the images that the ECUs and the slots start with.
#[derive(Debug)]
pub struct Firmware {
    pub keyring: PathBuf,
    pub before: Vec<PathBuf>,
    pub after: Vec<PathBuf>,
    /// Root file system that the running slot holds.
    pub rootfs_before: PathBuf,
}

impl Firmware {
    /// Makes signing keys, bundles and root file systems in `dir` with `tool`, the pitstop-bundle program; `bulk` bytes of noise make
    /// the root file systems larger.
    pub fn make(dir: &Path, tool: &Path, bulk: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let keys = dir.join("keys");
        run(tool, &["keys", "--out", text(&keys)?])?;
        let signing = Signing { tool, keys: &keys };
        let (mut before, mut after) = signing.ecu_bundles(dir)?;
        let rootfs_before = rootfs(dir, TCU_BEFORE, 1, bulk)?;
        let rootfs_after = rootfs(dir, TCU_AFTER, 2, bulk)?;
        before.push(signing.tcu_bundle(dir, &rootfs_before, TCU_BEFORE, 1)?);
        after.push(signing.tcu_bundle(dir, &rootfs_after, TCU_AFTER, 2)?);
        Ok(Self { keyring: keys.join("keyring.pem"), before, after, rootfs_before })
    }
}

/// The control units' bundles of both releases, signed with keys made elsewhere: for a TCU whose own bundles exist already.
pub fn ecu_bundles(dir: &Path, tool: &Path, keys: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    fs::create_dir_all(dir)?;
    Signing { tool, keys }.ecu_bundles(dir)
}

struct Signing<'a> {
    tool: &'a Path,
    keys: &'a Path,
}

impl Signing<'_> {
    fn ecu_bundles(&self, dir: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for software in SOFTWARE {
            before.push(self.ecu_bundle(dir, software, software.before, 1)?);
            after.push(self.ecu_bundle(dir, software, software.after, 2)?);
        }
        Ok((before, after))
    }

    fn ecu_bundle(&self, dir: &Path, ecu: &Software, release: (&str, &str), counter: u32) -> anyhow::Result<PathBuf> {
        let (version, file) = release;
        let file = Software::file(file);
        ensure!(file.is_file(), "{} is missing; run: cargo xtask setup", file.display());
        let description = dir.join(format!("{}-{version}.toml", ecu.ecu));
        fs::write(
            &description,
            format!(
                "hardware = \"{}\"\nversion = \"{version}\"\nsoftware_number = \"{}\"\nrelease_counter = {counter}\nidentity_address = {IDENTITY_ADDRESS}\n\n[[firmware]]\nfile = \"{}\"\naddress = {FIRMWARE_ADDRESS}\n",
                ecu.hardware,
                ecu.number,
                file.display(),
            ),
        )?;
        self.build(dir, &format!("{}-{version}", ecu.ecu), &[text(&description)?])
    }

    fn tcu_bundle(&self, dir: &Path, rootfs: &Path, version: &str, counter: u32) -> anyhow::Result<PathBuf> {
        let counter = counter.to_string();
        let args = [
            "--rootfs",
            text(rootfs)?,
            "--hardware",
            TCU_HARDWARE,
            "--software-version",
            version,
            "--release-counter",
            &counter,
        ];
        self.build(dir, &format!("tcu-{version}"), &args)
    }

    fn build(&self, dir: &Path, name: &str, args: &[&str]) -> anyhow::Result<PathBuf> {
        let out = dir.join(format!("{name}.raucb"));
        let (cert, key) = (self.keys.join("signer.cert.pem"), self.keys.join("signer.key.pem"));
        let mut all = vec!["build"];
        all.extend_from_slice(args);
        all.extend(["--cert", text(&cert)?, "--key", text(&key)?, "--out", text(&out)?]);
        run(self.tool, &all)?;
        Ok(out)
    }
}

/// A small root file system: the release file by which its version is known, and something real for its bulk.
fn rootfs(dir: &Path, version: &str, counter: u32, bulk: usize) -> anyhow::Result<PathBuf> {
    let tree = dir.join(format!("rootfs-{version}"));
    fs::create_dir_all(tree.join("etc"))?;
    fs::create_dir_all(tree.join("usr/lib/firmware"))?;
    fs::write(
        tree.join("etc/pitstop-release"),
        format!("SOFTWARE_NUMBER=PS-TCU-0005\nVERSION={version}\nCOUNTER={counter}\nHARDWARE={TCU_HARDWARE}\n"),
    )?;
    fs::write(tree.join("etc/os-release"), format!("ID=pitstop-demo\nVERSION_ID={version}\n"))?;
    for board in ["qemu-x86_64", "qemu_arm64"] {
        let from = Path::new(U_BOOT).join(board).join("u-boot.bin");
        fs::copy(&from, tree.join("usr/lib/firmware").join(board))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    let mut noise = vec![0; bulk];
    // The same at every run, and no compression makes it smaller.
    StdRng::seed_from_u64(counter.into()).fill_bytes(&mut noise);
    fs::write(tree.join("usr/lib/firmware/bulk"), &noise)?;
    let image = dir.join(format!("rootfs-{version}.ext4"));
    let _ = fs::remove_file(&image);
    let mut make = Command::new("mke2fs");
    make.stdout(std::process::Stdio::null())
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg(format!("{}K", 8 * 1024 + bulk / 1024));
    ensure!(make.status().context("starting mke2fs")?.success(), "mke2fs failed");
    Ok(image)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is not UTF-8")
}
