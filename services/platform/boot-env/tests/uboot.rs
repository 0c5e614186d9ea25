//! The tools that a board has, `fw_printenv` and `fw_setenv` of libubootenv, on a redundant environment of two files: what we write
//! they read, what they write we read, and one copy that is torn or lost leaves the other. Debian package libubootenv-tool.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pitstop_boot_env::{BootEnv, Separator, UbootTools};
use pitstop_slots::{BootVars, Health, SlotPair};
use pitstop_types::SlotName;
use tempfile::TempDir;

const PRINT: &str = "/usr/bin/fw_printenv";
const SET: &str = "/usr/bin/fw_setenv";
/// Bytes of a copy.
const SIZE: usize = 0x2000;

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

/// A board's environment: both copies, the file that says where they are, and a variable of U-Boot's own.
struct Board {
    folder: TempDir,
    tools: UbootTools,
}

impl Board {
    /// From the factory: slot A three tries, slot B empty.
    fn new() -> Self {
        for tool in [PRINT, SET] {
            assert!(Path::new(tool).is_file(), "{tool} is missing; see cargo xtask setup");
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        for copy in ["first", "second"] {
            fs::write(at(copy), [0xFF; SIZE]).unwrap();
        }
        let places = ["first", "second"].map(|copy| format!("{} 0x0000 {SIZE:#x}\n", at(copy).display()));
        fs::write(at("fw_env.config"), places.concat()).unwrap();
        fs::write(at("default"), "bootdelay=2\n").unwrap();
        let tools = UbootTools {
            fw_printenv: wrapper(&at("print"), PRINT, &at("fw_env.config")),
            fw_setenv: wrapper(&at("set"), SET, &at("fw_env.config")),
            separator: Separator::Equals,
            slots: SlotPair::new(name("A"), name("B")).unwrap(),
        };
        let board = Self { folder, tools };
        let defaults = board.path("default").display().to_string();
        board.set("BOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n", &["-f", &defaults]);
        // Once more, so that both copies are good ones.
        board.set("BOOT_A_LEFT=3\n", &[]);
        board
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn copies(&self) -> [Vec<u8>; 2] {
        ["first", "second"].map(|copy| fs::read(self.path(copy)).unwrap())
    }

    /// `fw_setenv -s` as anybody else would call it.
    fn set(&self, script: &str, more: &[&str]) {
        let file = self.path("script");
        fs::write(&file, script).unwrap();
        let done = Command::new(&self.tools.fw_setenv).args(more).arg("-s").arg(&file).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// One variable as `fw_printenv` prints it.
    fn printed(&self, variable: &str) -> String {
        let done = Command::new(&self.tools.fw_printenv).args(["-n", variable]).output().unwrap();
        assert!(done.status.success(), "{variable}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    fn all_printed(&self) -> [String; 3] {
        ["BOOT_ORDER", "BOOT_A_LEFT", "BOOT_B_LEFT"].map(|variable| self.printed(variable))
    }
}

/// The tool with the board's configuration instead of `/etc/fw_env.config`.
fn wrapper(path: &Path, tool: &str, config: &Path) -> PathBuf {
    fs::write(path, format!("#!/bin/sh\nexec {tool} -c {} \"$@\"\n", config.display())).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

#[test]
fn what_we_write_fw_printenv_reads_and_other_variables_stay() {
    let board = Board::new();
    board.tools.change(|vars| vars.try_once(&name("B"))).unwrap();
    assert_eq!(board.all_printed(), ["B A", "3", "1"]);
    board.tools.change(|vars| vars.settle_on(&name("B"))).unwrap();
    assert_eq!(board.all_printed(), ["B", "0", "3"]);
    assert_eq!(board.printed("bootdelay"), "2");
}

#[test]
fn what_fw_setenv_writes_we_read() {
    let board = Board::new();
    board.set("BOOT_ORDER=B A\nBOOT_A_LEFT=a\nBOOT_B_LEFT=0\nintegrator=1\n", &[]);
    let vars = board.tools.load().unwrap();
    // B is first and has used its tries; A would start.
    assert_eq!(vars.primary(), Some(&name("A")));
    assert_eq!((vars.health(&name("A")), vars.health(&name("B"))), (Health::Good, Health::Bad));
    assert!(vars.was_tried(&name("B")));
    board.tools.change(|vars| vars.mark_good(&name("B"))).unwrap();
    // Tries are hexadecimal, and not ours to change for the slot that was not marked.
    assert_eq!(
        (board.all_printed(), board.printed("integrator")),
        (["B A", "a", "3"].map(str::to_owned), "1".to_owned())
    );
}

#[test]
fn a_script_in_the_other_tool_s_form_is_noticed() {
    let mut board = Board::new();
    board.tools.separator = Separator::Space;
    assert!(board.tools.change(|vars| vars.try_once(&name("B"))).is_err());
    assert_eq!(board.all_printed(), ["A", "3", "0"]);
}

/// A cut while a copy is written leaves its beginning new and its end old. Three variables are then all new or all old.
#[test]
fn a_write_that_is_torn_anywhere_changes_all_three_variables_or_none() {
    let board = Board::new();
    let before = (board.tools.load().unwrap(), board.copies());
    board.tools.change(|vars| vars.try_once(&name("B"))).unwrap();
    let after = (board.tools.load().unwrap(), board.copies());
    let changed: Vec<usize> = (0..2).filter(|&copy| before.1[copy] != after.1[copy]).collect();
    let [copy] = changed[..] else { panic!("one change wrote {} copies", changed.len()) };
    let (old, new) = (&before.1[copy], &after.1[copy]);
    let last = (0..SIZE).rfind(|&at| old[at] != new[at]).unwrap();
    let file = board.path(["first", "second"][copy]);
    let mut seen: Vec<(usize, BootVars)> = Vec::new();
    // Around checksum and flag, and at the end, every byte.
    for cut in (0..=last + 1).filter(|cut| *cut < 8 || cut % 8 == 0 || cut + 4 > last) {
        fs::write(&file, [&new[..cut], &old[cut..]].concat()).unwrap();
        seen.push((cut, board.tools.load().unwrap()));
    }
    for (cut, vars) in &seen {
        assert!(*vars == if *cut > last { after.0.clone() } else { before.0.clone() }, "cut at {cut}: {vars:?}");
    }
    // The next change works on what is left.
    fs::write(&file, [&new[..last], &old[last..]].concat()).unwrap();
    board.tools.change(|vars| vars.try_once(&name("B"))).unwrap();
    assert_eq!(board.all_printed(), ["B A", "3", "1"]);
}

#[test]
fn either_copy_alone_is_enough_for_both() {
    for lost in ["first", "second"] {
        for rubbish in [0x00, 0x5A, 0xFF] {
            let board = Board::new();
            // The same in both copies, whichever is lost.
            for _ in 0..2 {
                board.set("BOOT_ORDER=B\nBOOT_A_LEFT=0\nBOOT_B_LEFT=2\n", &[]);
            }
            fs::write(board.path(lost), [rubbish; SIZE]).unwrap();
            assert_eq!(board.tools.load().unwrap().primary(), Some(&name("B")), "{lost} {rubbish:02x}");
            assert_eq!(board.all_printed(), ["B", "0", "2"], "{lost} {rubbish:02x}");
            board.tools.change(|vars| vars.mark_good(&name("B"))).unwrap();
            assert_eq!(board.all_printed(), ["B", "0", "3"], "{lost} {rubbish:02x}");
        }
    }
}

#[test]
fn with_both_copies_lost_nothing_is_made_up() {
    let board = Board::new();
    for copy in ["first", "second"] {
        fs::write(board.path(copy), [0; SIZE]).unwrap();
    }
    assert!(board.tools.load().is_err());
    assert!(board.tools.change(|vars| vars.try_once(&name("B"))).is_err());
}
