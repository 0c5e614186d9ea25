//! Real file systems, whole and damaged: a check that cannot fail proves nothing.

use std::io::Cursor;

use super::*;
use crate::qemu::writes::{Log, tests::log_of};

fn run(command: &mut Command) {
    let (code, said) = told(command).unwrap();
    assert_eq!(code, Some(0), "{command:?}: {said}");
}

/// A data file system with a record of the manager.
fn data(dir: &Path) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("data.img"));
    fs::create_dir_all(tree.join("lib/manager")).unwrap();
    fs::write(tree.join("lib/manager/record"), "kept").unwrap();
    fs::create_dir_all(tree.join("lib/validator/bundles")).unwrap();
    fs::write(tree.join("lib/validator/ledger"), "kept too").unwrap();
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("16M"));
    image
}

fn debugfs(image: &Path, words: &str) {
    let script = image.with_extension("script");
    fs::write(&script, words).unwrap();
    run(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(image));
}

#[test]
fn a_whole_data_file_system_gives_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let image = data(dir.path());
    check_data(&image, dir.path()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("state/manager/record")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(dir.path().join("state/validator/ledger")).unwrap(), "kept too");
    assert!(!dir.path().join("state/flasher").exists());
    assert!(!dir.path().join("state/validator/bundles").exists());
}

#[test]
fn what_is_still_in_the_journal_counts() {
    let dir = tempfile::tempdir().unwrap();
    let image = data(dir.path());
    let text = dir.path().join("block");
    fs::write(&text, vec![b'x'; 1024]).unwrap();
    // Block 12000 is free: its content does no harm.
    debugfs(&image, &format!("jo\njw -b 12000 {}\njc\n", text.display()));
    let (_, said) = told(Command::new("e2fsck").arg("-n").arg(&image)).unwrap();
    assert!(said.contains("skipping journal recovery"), "{said}");
    check_data(&image, dir.path()).unwrap();
    // The first block with descriptors of groups is not free.
    debugfs(&image, &format!("jo\njw -b 2 {}\njc\n", text.display()));
    assert!(check_data(&image, dir.path()).is_err());
}

#[test]
fn a_damaged_data_file_system_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for words in ["setb 12000 1\n", "clri /lib/manager/record\n", "unlink /lib/manager/record\n"] {
        let image = data(dir.path());
        debugfs(&image, words);
        let failure = check_data(&image, dir.path()).unwrap_err();
        assert!(failure.text.contains("the data file system"), "{words}: {}", failure.text);
        fs::remove_file(&image).unwrap();
    }
    fs::write(dir.path().join("data.img"), vec![0; 1 << 20]).unwrap();
    assert!(check_data(&dir.path().join("data.img"), dir.path()).is_err());
}

/// An EFI system partition as it is while it is mounted.
fn esp(dir: &Path) -> PathBuf {
    let image = dir.join("esp.img");
    run(Command::new("mkfs.vfat").args(["-F", "32", "-C"]).arg(&image).arg("65536"));
    let env = dir.join("grubenv");
    fs::write(&env, vec![b'#'; 1024]).unwrap();
    run(Command::new("mmd").arg("-i").arg(&image).arg("::/grub"));
    for name in ["::/grub/grubenv", "::/grub/grubenv.copy"] {
        run(Command::new("mcopy").arg("-i").arg(&image).arg(&env).arg(name));
    }
    put(&image, FAT_STATE, &[1]);
    image
}

fn put(image: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_mounted_esp_is_good_and_a_damaged_one_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let image = esp(dir.path());
    check_esp(&image, dir.path()).unwrap();
    assert_eq!(fs::read(dir.path().join("boot/grub/grubenv.copy")).unwrap(), vec![b'#'; 1024]);
    // The first copy of the table begins behind 32 reserved sectors; entry 5 follows those of root, folder and the first file.
    put(&image, 32 * 512 + 5 * 4, &[0xF7, 0xFF, 0xFF, 0x0F]);
    assert!(check_esp(&image, dir.path()).is_err());
    let image = esp_without_copy(dir.path());
    let failure = check_esp(&image, dir.path()).unwrap_err();
    assert!(failure.text.contains("no boot environment"), "{}", failure.text);
}

fn esp_without_copy(dir: &Path) -> PathBuf {
    fs::remove_file(dir.join("esp.img")).unwrap();
    let image = esp(dir);
    run(Command::new("mdel").arg("-i").arg(&image).arg("::/grub/grubenv.copy"));
    image
}

/// A disk of two partitions of 4 KiB behind an empty sector.
fn two(dir: &Path) -> (PathBuf, Volumes) {
    let disk = dir.join("disk.img");
    fs::write(&disk, [vec![0; 512], vec![7; 4096], vec![0; 4096]].concat()).unwrap();
    let places =
        [Place { name: "one", start: 512, length: 4096 }, Place { name: "two", start: 512 + 4096, length: 4096 }];
    let volumes = Volumes::of(&disk, &places, dir).unwrap();
    (disk, volumes)
}

fn play(volumes: &mut Volumes, entries: &[(u64, &[u8], u64)]) -> Outcome {
    let mut log = Log::open(Cursor::new(log_of(entries)), 512 + 2 * 4096)?;
    while let Some(entry) = log.next()? {
        log.apply(&entry, volumes)?;
    }
    Ok(())
}

#[test]
fn a_disk_follows_a_log_partition_by_partition() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut volumes) = two(dir.path());
    assert!(volumes.take_written("one") && volumes.take_written("two"), "new to everybody");
    assert_eq!(volumes.differences(&disk).unwrap(), [""; 0]);
    play(&mut volumes, &[(10, &[9; 512], 0), (0, &[], 1)]).unwrap();
    assert!(!volumes.take_written("one") && volumes.take_written("two"));
    assert_eq!(volumes.differences(&disk).unwrap(), ["two"]);
    let image = dir.path().join("image");
    for (bytes, holds) in
        [([vec![0; 512], vec![9; 512]].concat(), true), (vec![0; 1024], false), (vec![0; 8192], false)]
    {
        fs::write(&image, bytes).unwrap();
        assert_eq!(volumes.get("two").unwrap().holds(&image).unwrap(), holds);
    }
}

#[test]
fn a_write_outside_the_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut volumes) = two(dir.path());
    assert!(play(&mut volumes, &[(0, &[9; 512], 0)]).is_err(), "the partition table");
    assert!(play(&mut volumes, &[(8, &[9; 1024], 0)]).is_err(), "across a border");
}
