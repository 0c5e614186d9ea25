//! The disk layout of the layer: a partition table made from the same sizes, compared with the boot script's expectations.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use super::layer;
use super::packages::{Recipe, read};
use crate::shell::{Failure, Outcome, output, target_dir, workspace};

/// A partition of the layout: name, GPT type, size in MiB.
#[derive(Debug, PartialEq, Eq)]
struct Partition {
    name: String,
    kind: String,
    mib: u64,
}

/// Makes the disk as an empty file and reads its table back.
pub fn check() -> Outcome {
    let sizes = Recipe::parse(&read(&layer().join("conf/pitstop.inc"))?);
    let wanted = layout(&read(&layer().join("files/wic/pitstop-ab.wks.in"))?, &sizes).map_err(Failure::new)?;
    let script = read(&workspace().join("rootfs-overlay/boot/grub/grub.cfg"))?;
    for (at, partition) in wanted.iter().enumerate() {
        // The boot script knows slots by number and name.
        if let Some(slot) = partition.name.strip_prefix("slot-") {
            let call = format!("start_slot {} {} {}", slot.to_uppercase(), at + 1, partition.name);
            if !script.contains(&call) {
                return Err(Failure::new(format!("the boot script lacks {call:?}, as the disk layout has it")));
            }
        }
    }
    let folder = target_dir().join("yocto");
    let disk = folder.join("disk.img");
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", disk.display()));
    fs::create_dir_all(&folder).map_err(failed)?;
    let total: u64 = wanted.iter().map(|p| p.mib + 1).sum::<u64>() + 2;
    File::create(&disk).and_then(|file| file.set_len(total * 1024 * 1024)).map_err(failed)?;
    let mut table = String::from("label: gpt\n");
    for p in &wanted {
        table += &format!("size={}MiB, type={}, name={}\n", p.mib, p.kind, p.name);
    }
    let script = folder.join("disk.sfdisk");
    fs::write(&script, table).map_err(failed)?;
    let made = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(&disk)
        .stdin(Stdio::from(File::open(&script).map_err(failed)?))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Err(Failure::new("sfdisk does not make the layout (package fdisk)"));
    }
    let read_back = output(Command::new("sfdisk").arg("--dump").arg(&disk))?;
    for p in &wanted {
        if !read_back.contains(&format!("size={:>12}, type={}", p.mib * 2048, p.kind.to_uppercase())) {
            return Err(Failure::new(format!("the disk lacks {p:?}:\n{read_back}")));
        }
    }
    fs::remove_file(&disk).map_err(failed)
}

/// The partitions of a wic file.
fn layout(wks: &str, sizes: &Recipe) -> Result<Vec<Partition>, String> {
    let mut partitions = Vec::new();
    for line in wks.lines().filter(|line| line.starts_with("part ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |option: &str| words.iter().position(|w| *w == option).and_then(|at| words.get(at + 1)).copied();
        let size = after("--fixed-size").ok_or_else(|| format!("no fixed size: {line}"))?;
        let size = size.trim_end_matches('M');
        let size =
            size.strip_prefix("${").and_then(|v| v.strip_suffix('}')).map_or(size, |variable| sizes.get(variable));
        partitions.push(Partition {
            name: after("--part-name").ok_or_else(|| format!("no name: {line}"))?.to_owned(),
            kind: after("--part-type").ok_or_else(|| format!("no type: {line}"))?.to_owned(),
            mib: size.parse().map_err(|_| format!("no size in MiB: {line}"))?,
        });
    }
    let slots: Vec<u64> = partitions.iter().filter(|p| p.name.starts_with("slot-")).map(|p| p.mib).collect();
    match slots.as_slice() {
        [a, b] if a == b => Ok(partitions),
        _ => Err(format!("two slots of one size are needed, not {slots:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_another_size_is_refused() {
        let sizes = Recipe::parse("S ?= \"512\"\n");
        let part = |name: &str, size: &str| format!("part --part-name {name} --part-type x --fixed-size {size}\n");
        let good = layout(&(part("slot-a", "${S}M") + &part("slot-b", "512M")), &sizes).unwrap();
        assert_eq!(good.iter().map(|p| p.mib).collect::<Vec<_>>(), [512, 512]);
        assert!(layout(&(part("slot-a", "${S}M") + &part("slot-b", "511M")), &sizes).unwrap_err().contains("one size"));
    }
}
