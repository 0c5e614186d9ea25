//! U-Boot itself as the judge: it runs the boot script of the Yocto layer over every state of its variables, beside our decision,
//! and starts slots with it through resets, on a board that QEMU emulates (AArch64). Debian packages qemu-system-arm, u-boot-qemu,
//! u-boot-tools, e2fsprogs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pitstop_slots::{BootVars, SlotPair, UbootVars, Why};
use pitstop_types::SlotName;

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../yocto-layer/meta-pitstop/recipes-pitstop/pitstop-boot/files/boot.cmd"
);
const FIRMWARE: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
/// The script decides before this line, and starts the slot from it on.
const STARTS: &str = "echo \"Starting slot";
const SECTOR: usize = 512;
const PARTITION: usize = 4 << 20;
/// Sectors behind the partitions where the board's environment is.
const SAVED: usize = 8;

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let path = "/usr/bin:/bin:/usr/sbin:/sbin";
    let done = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{program} ({error}); see cargo xtask setup"));
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The board: a disk with a partition for U-Boot's scripts and two slots.
struct Board {
    folder: tempfile::TempDir,
}

impl Board {
    /// `main` is what U-Boot finds and runs, `other` lies beside it as `other.scr`; a slot has a kernel or none.
    fn new(main: &str, other: &str, kernels: [Option<Vec<u8>>; 2]) -> Self {
        assert!(Path::new(FIRMWARE).is_file(), "{FIRMWARE} is missing; see cargo xtask setup");
        let board = Self { folder: tempfile::tempdir().unwrap() };
        let scripts = board.path("scripts");
        fs::create_dir(&scripts).unwrap();
        for (script, text) in [("boot", main), ("other", other)] {
            let source = board.path(script);
            fs::write(&source, text).unwrap();
            let (source, made) = (source.display().to_string(), scripts.join(format!("{script}.scr")));
            run("mkimage", &["-A", "arm64", "-T", "script", "-C", "none", "-d", &source, &made.display().to_string()]);
        }
        let mut disk = partition_table(3);
        disk.extend(board.file_system("scripts"));
        for (slot, kernel) in ["a", "b"].into_iter().zip(kernels) {
            let boot = board.path(slot).join("boot");
            fs::create_dir_all(&boot).unwrap();
            if let Some(kernel) = kernel {
                fs::write(boot.join("vmlinuz"), kernel).unwrap();
            }
            disk.extend(board.file_system(slot));
        }
        disk.resize(disk.len() + SAVED * SECTOR, 0);
        fs::write(board.path("disk"), disk).unwrap();
        board
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn file_system(&self, tree: &str) -> Vec<u8> {
        let (tree, image) = (self.path(tree).display().to_string(), self.path("image"));
        let _ = fs::remove_file(&image);
        let blocks = format!("{}k", PARTITION >> 10);
        run("mke2fs", &["-q", "-F", "-t", "ext2", "-b", "1024", "-d", &tree, &image.display().to_string(), &blocks]);
        fs::read(&image).unwrap()
    }

    /// What the console said until it has said `times` times `last`.
    fn console_until(&self, last: &str, times: usize) -> String {
        let disk = format!("file={},format=raw,if=none,id=disk", self.path("disk").display());
        let mut qemu = Command::new("timeout")
            .args(["120", "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-m", "256", "-nic", "none"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-bios", FIRMWARE])
            .args(["-drive", &disk, "-device", "virtio-blk-device,drive=disk"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = qemu.stdout.take().unwrap();
        let mut said = String::new();
        for octet in BufReader::new(console).bytes() {
            said.push(char::from(octet.unwrap()));
            if said.ends_with(last) && said.matches(last).count() == times {
                // `timeout` hands the signal on.
                run("kill", &[&qemu.id().to_string()]);
                break;
            }
        }
        qemu.wait().unwrap();
        assert_eq!(said.matches(last).count(), times, "U-Boot did not come to {last:?}:\n{said}");
        said
    }
}

/// A master boot record with as many Linux partitions, one after the other.
fn partition_table(count: usize) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut record = vec![0; 446];
    for n in 0..count {
        let (first, sectors) = (1 + n * PARTITION / SECTOR, PARTITION / SECTOR);
        record.extend([[0; 4], [0x83, 0, 0, 0], word(first), word(sectors)].concat());
    }
    record.resize(SECTOR - 2, 0);
    record.extend([0x55, 0xAA]);
    record
}

/// The smallest kernel that U-Boot takes for one (Linux, Documentation/arch/arm64/booting.rst): it says `letter` and resets the board.
fn kernel(letter: u8) -> Vec<u8> {
    const UART: u32 = 0xD2A1_2000; // movz x0, #0x0900, lsl #16
    const WRITE: u32 = 0x3900_0001; // strb w1, [x0]
    const SYSTEM_RESET: [u32; 3] = [0x5280_0120, 0x72B0_8000, 0xD400_0002]; // mov w0, #0x84000009 (PSCI); hvc #0
    let say = 0x5280_0001 | u32::from(letter) << 5; // movz w1, #letter
    // code0: b 64; text_offset; image_size; flags and three reserved; magic and the last reserved.
    let header = [0x1400_0010, 0, 0, 4096, 0, 0, 0, u64::from(u32::from_le_bytes(*b"ARM\x64"))];
    let code = [UART, say, WRITE].into_iter().chain(SYSTEM_RESET).chain([0x1400_0000]);
    header.into_iter().flat_map(u64::to_le_bytes).chain(code.flat_map(u32::to_le_bytes)).collect()
}

#[derive(Debug)]
struct Case {
    order: &'static str,
    left: [&'static str; 2],
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for order in ["A B", "B A", "A", "B", "", "X", "X B Y A", "B B A"] {
        for a in ["", "0", "1", "3"] {
            cases.extend(["", "0", "1", "3"].map(|b| Case { order, left: [a, b] }));
        }
    }
    for odd in ["a", "10", "ff", "3z", "z", "0x3", "-1", "+1", "00"] {
        cases.push(Case { order: "A B", left: [odd, "2"] });
    }
    cases
}

#[test]
fn uboot_decides_as_we_do_in_every_state() {
    let script = fs::read_to_string(SCRIPT).unwrap();
    let (decides, _) = script.split_once(STARTS).unwrap();
    let cases = cases();
    let mut main = "load ${devtype} ${devnum}:1 ${kernel_addr_r} other.scr\n".to_owned();
    for (n, Case { order, left: [a, b] }) in cases.iter().enumerate() {
        main += &format!("setenv BOOT_ORDER \"{order}\"\nsetenv BOOT_A_LEFT {a}\nsetenv BOOT_B_LEFT {b}\n");
        main += "source ${kernel_addr_r}\n";
        main += &format!(
            "echo \"=={n} ${{pitstop_slot}}${{pitstop_reason}}|${{BOOT_ORDER}}|${{BOOT_A_LEFT}}|${{BOOT_B_LEFT}}==\"\n"
        );
    }
    main += "echo ==end==\n";
    let said = Board::new(&main, decides, [None, None]).console_until("==end==", 1);
    let pair = SlotPair::new(name("A"), name("B")).unwrap();
    for (n, case) in cases.iter().enumerate() {
        let Case { order, left: [a, b] } = case;
        // U-Boot has no empty variables.
        let printed: String = [("BOOT_ORDER", order), ("BOOT_A_LEFT", a), ("BOOT_B_LEFT", b)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        let mut vars = BootVars::Uboot(UbootVars::read(&printed, &pair));
        let decision = vars.boot();
        let why = if decision.why == Why::LastResort { " (last resort)" } else { "" };
        let (_, theirs) = said.split_once(&format!("=={n} ")).unwrap_or_else(|| panic!("{case:?}:\n{said}"));
        let (theirs, _) = theirs.split_once("==").unwrap();
        let [slot, order, a, b] = theirs.split('|').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(slot, format!("{}{why}", decision.slot), "{case:?}");
        let left = UbootVars::read(&format!("BOOT_ORDER={order}\nBOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\n"), &pair);
        assert_eq!(BootVars::Uboot(left), vars, "{case:?}");
    }
}

/// The slots that were started, in the words of U-Boot, each followed by the letter its kernel said, if it came to that.
fn starts(order: &str, left: [u8; 2], kernels: [Option<Vec<u8>>; 2], count: usize) -> Vec<String> {
    let [a, b] = left;
    // QEMU 7.2 loses what U-Boot writes to the board's flash (QEMU issue 2343), so the environment is kept on the disk in its place.
    let (at, size) = (1 + 3 * PARTITION / SECTOR, SAVED * SECTOR);
    let main = format!(
        "virtio read ${{pxefile_addr_r}} {at:x} {SAVED:x}\n\
         if env import -c ${{pxefile_addr_r}} {size:x}; then\ntrue\nelse\n\
         setenv BOOT_ORDER {order}\nsetenv BOOT_A_LEFT {a}\nsetenv BOOT_B_LEFT {b}\nfi\n\
         load ${{devtype}} ${{devnum}}:1 ${{ramdisk_addr_r}} other.scr\nsource ${{ramdisk_addr_r}}\n"
    );
    let save = format!(
        "\nenv export -c -s {size:x} ${{pxefile_addr_r}} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT\nvirtio write ${{pxefile_addr_r}} {at:x} {SAVED:x}\n"
    );
    let script = fs::read_to_string(SCRIPT).unwrap();
    assert_eq!(script.matches("\nsaveenv\n").count(), 1, "once before the kernel is loaded");
    let said =
        Board::new(&main, &script.replace("\nsaveenv\n", &save), kernels).console_until("Starting slot", count + 1);
    let (_, said) = said.split_once("Starting slot ").unwrap();
    let mut starts: Vec<String> = said
        .split("Starting slot ")
        .map(|start| {
            let slot = start.lines().next().unwrap().trim();
            let kernel = start.split_once("Starting kernel ...").map(|(_, after)| after.trim_start());
            format!("{slot} {}", kernel.and_then(|after| after.chars().next()).unwrap_or('-'))
        })
        .collect();
    starts.truncate(count);
    starts
}

#[test]
fn uboot_tries_a_new_slot_once_through_resets_and_takes_turns_when_nobody_vouches() {
    let told = starts("B A", [3, 1], [Some(kernel(b'a')), Some(kernel(b'b'))], 7);
    assert_eq!(told, ["B b", "A a", "A a", "A a", "B (last resort) b", "A (last resort) a", "B (last resort) b"]);
}

#[test]
fn uboot_starts_no_slot_with_the_kernel_that_another_left_in_memory() {
    let told = starts("A B", [1, 1], [Some(kernel(b'a')), None], 4);
    assert_eq!(told, ["A a", "B -", "A (last resort) a", "B (last resort) -"]);
}
