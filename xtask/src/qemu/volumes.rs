//! A disk as files, one for each partition, and what must hold of them at any instant at which the power may fail.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::writes::Disk;
use crate::image::Place;
use crate::shell::{Failure, Outcome, output};

const PIECE: usize = 1 << 20;
/// Folders of the services' small files, below `lib`; of `validator` and `downloader`, which keep bundles, just these.
const FOLDERS: &[&str] = &[
    "manager",
    "backend-link",
    "hmi",
    "flasher",
    "self-update",
    "uds-server",
    "vehicle-state",
    "validator/admitted",
    "downloader/claims",
    "downloader/progress",
];
const FILES: &[&str] = &["validator/ledger", "validator/metadata", "downloader/fetched"];
/// FAT32's byte with the flag "mounted", which every mount sets and only an orderly end takes back.
const FAT_STATE: u64 = 0x41;

/// The partitions of a disk.
#[derive(Debug)]
pub struct Volumes(Vec<Volume>);

/// One partition.
#[derive(Debug)]
pub struct Volume {
    pub name: &'static str,
    pub path: PathBuf,
    file: File,
    start: u64,
    length: u64,
    /// Something was written to it since somebody looked.
    written: bool,
}

impl Volumes {
    /// Takes a disk apart into files of `dir`, with holes where it has zeros.
    pub fn of(disk: &Path, places: &[Place], dir: &Path) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", disk.display()));
        let from = File::open(disk).map_err(failed)?;
        let (mut all, zeros) = (Vec::new(), vec![0; PIECE]);
        for place in places {
            let path = dir.join(format!("{}.img", place.name));
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(failed)?;
            file.set_len(place.length).map_err(failed)?;
            let mut volume =
                Volume { name: place.name, path, file, start: place.start, length: place.length, written: true };
            pieces(&from, place.start, place.length, |at, bytes| {
                // Compared as a whole, which is quick even when this program is not optimized.
                if zeros.get(..bytes.len()) != Some(bytes) {
                    volume.put(at, bytes)?;
                }
                Ok(true)
            })?;
            all.push(volume);
        }
        Ok(Self(all))
    }

    pub fn get(&self, name: &str) -> Result<&Volume, Failure> {
        let found = self.0.iter().find(|volume| volume.name == name);
        found.ok_or_else(|| Failure::new(format!("the disk has no partition {name}")))
    }

    /// Whether the partition was written to since this was asked last.
    pub fn take_written(&mut self, name: &str) -> bool {
        let found = self.0.iter_mut().find(|volume| volume.name == name);
        found.is_some_and(|volume| std::mem::take(&mut volume.written))
    }

    /// Names of partitions in which this disk differs.
    pub fn differences(&self, disk: &Path) -> Result<Vec<&'static str>, Failure> {
        let other = File::open(disk).map_err(|e| Failure::new(format!("{}: {e}", disk.display())))?;
        let mut names = Vec::new();
        for volume in &self.0 {
            if !same(&volume.file, 0, &other, volume.start, volume.length)? {
                names.push(volume.name);
            }
        }
        Ok(names)
    }
}

impl Disk for Volumes {
    fn write(&mut self, start: u64, bytes: &[u8]) -> Outcome {
        let end = start.saturating_add(bytes.len() as u64);
        let holds = |volume: &&mut Volume| volume.start <= start && end <= volume.start + volume.length;
        let found = self.0.iter_mut().find(holds);
        let volume = found.ok_or_else(|| Failure::new(format!("byte {start}: a write outside the partitions")))?;
        volume.written = true;
        let at = start - volume.start;
        volume.put(at, bytes)
    }
}

impl Volume {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Outcome {
        self.file.write_all_at(bytes, at).map_err(|e| Failure::new(format!("{}: {e}", self.path.display())))
    }

    /// Whether it begins with this image, byte for byte.
    pub fn holds(&self, image: &Path) -> Result<bool, Failure> {
        let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", image.display()));
        let other = File::open(image).map_err(failed)?;
        let length = other.metadata().map_err(failed)?.len();
        Ok(length <= self.length && same(&self.file, 0, &other, 0, length)?)
    }
}

/// The file system with the services' state: whole once its journal is played back and its list of orphans worked off, which is
/// what each mount does. Puts the services' small files into the folder `state` of `dir`.
pub fn check_data(volume: &Path, dir: &Path) -> Outcome {
    let copy = dir.join("data-copy.img");
    output(Command::new("cp").args(["--sparse=auto"]).arg(volume).arg(&copy))?;
    // Without -f, and with nothing wrong, it does no more than a mount; "clean" says that it did no more.
    let (code, said) = told(Command::new("e2fsck").arg("-p").arg(&copy))?;
    if !matches!(code, Some(0 | 1)) || !said.contains(": clean,") {
        return Err(Failure::new(format!("the data file system cannot be mounted as it is: {}", one_line(&said))));
    }
    let (code, said) = told(Command::new("e2fsck").arg("-fn").arg(&copy))?;
    if code != Some(0) {
        return Err(Failure::new(format!("the data file system is damaged: {}", one_line(&said))));
    }
    take_out(&copy, dir)
}

/// Copies the services' small files out of a file system without mounting it.
fn take_out(image: &Path, dir: &Path) -> Outcome {
    let (state, script) = (dir.join("state"), dir.join("take-out"));
    let _ = fs::remove_dir_all(&state);
    let mut words = String::new();
    for (verb, name) in FOLDERS.iter().map(|name| ("rdump", name)).chain(FILES.iter().map(|name| ("dump", name))) {
        let to = state.join(name);
        // A folder is named by the one that it goes into.
        let (folder, to) = (to.parent().unwrap_or(&state), if verb == "dump" { Some(&to) } else { None });
        fs::create_dir_all(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
        let to = to.map_or(folder, PathBuf::as_path).display();
        words += &format!("{verb} /lib/{name} {to}\n");
    }
    fs::write(&script, words).map_err(|e| Failure::new(format!("{}: {e}", script.display())))?;
    let (code, said) = told(Command::new("debugfs").arg("-f").arg(&script).arg(image))?;
    // It succeeds whatever happens. Before a service's first start it has no folder.
    let absent = |line: &str| line.starts_with("/lib/") && line.ends_with(": File not found by ext2_lookup");
    let echoed = |line: &str| ["debugfs 1.", "debugfs: rdump ", "debugfs: dump "].iter().any(|e| line.starts_with(e));
    let harmless = |line: &str| line.is_empty() || absent(line) || echoed(line);
    let trouble: Vec<&str> = said.lines().map(str::trim).filter(|line| !harmless(line)).collect();
    if code == Some(0) && trouble.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("files cannot be read out of the data file system: {}", trouble.join("; "))))
}

/// The EFI system partition. Puts both copies of the boot environment below the folder `boot` of `dir`.
pub fn check_esp(volume: &Path, dir: &Path) -> Outcome {
    let copy = dir.join("esp-copy.img");
    output(Command::new("cp").args(["--sparse=auto"]).arg(volume).arg(&copy))?;
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", copy.display()));
    let file = File::options().read(true).write(true).open(&copy).map_err(failed)?;
    let mut state = [0];
    file.read_exact_at(&mut state, FAT_STATE).map_err(failed)?;
    file.write_all_at(&state.map(|bits| bits & !1), FAT_STATE).map_err(failed)?;
    let (code, said) = told(Command::new("fsck.vfat").arg("-n").arg(&copy))?;
    if code != Some(0) {
        return Err(Failure::new(format!("the EFI system partition is damaged: {}", one_line(&said))));
    }
    let grub = dir.join("boot/grub");
    fs::create_dir_all(&grub).map_err(|e| Failure::new(format!("{}: {e}", grub.display())))?;
    let mut take = Command::new("mcopy");
    take.args(["-n", "-o", "-i"]).arg(&copy).args(["::/grub/grubenv", "::/grub/grubenv.copy"]).arg(&grub);
    match told(&mut take)? {
        (Some(0), _) => Ok(()),
        (_, said) => Err(Failure::new(format!("no boot environment in the EFI system partition: {}", one_line(&said)))),
    }
}

/// Exit status and both outputs.
fn told(command: &mut Command) -> Result<(Option<i32>, String), Failure> {
    let out = command.env("LC_ALL", "C").output();
    let out = out.map_err(|e| Failure::new(format!("cannot start {command:?}: {e}")))?;
    let said = [String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)].concat();
    Ok((out.status.code(), said))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(12).collect::<Vec<_>>().join("; ")
}

/// Reads a range piece by piece, as long as `each` answers true, and answers whether it always did; offsets are told from the
/// range's begin.
fn pieces(
    file: &File,
    start: u64,
    length: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        let bytes = buffer.get_mut(..piece).unwrap_or_default();
        file.read_exact_at(bytes, start + done).map_err(|e| Failure::new(format!("reading a disk: {e}")))?;
        if !each(done, bytes)? {
            return Ok(false);
        }
        done += bytes.len() as u64;
    }
    Ok(true)
}

fn same(one: &File, at: u64, other: &File, other_at: u64, length: u64) -> Result<bool, Failure> {
    let mut buffer = vec![0; PIECE];
    pieces(one, at, length, |done, bytes| {
        let beside = buffer.get_mut(..bytes.len()).unwrap_or_default();
        other.read_exact_at(beside, other_at + done).map_err(|e| Failure::new(format!("reading a disk: {e}")))?;
        Ok(bytes == beside)
    })
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
