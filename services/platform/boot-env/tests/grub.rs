//! GRUB itself as the judge: its emulator runs the boot script of the image over every state of the boot environment, and its
//! tool reads and writes what we write and read. Debian packages grub-emu, grub-common, e2fsprogs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pitstop_boot_env::{BootEnv, FileCopy, GrubFiles, boot_decision};
use pitstop_slots::{GrubEnv, GrubVars, SlotPair, Why};
use pitstop_types::SlotName;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../rootfs-overlay/boot/grub/grub.cfg");

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

fn pair() -> SlotPair {
    SlotPair::new(name("A"), name("B")).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let path = "/usr/bin:/bin:/usr/sbin:/sbin";
    let output =
        Command::new(program).args(arguments).env("PATH", path).env("TERM", "dumb").stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} ({error}); see cargo xtask setup"))
}

fn env_of(variables: &[(&str, &str)]) -> GrubEnv {
    let mut env = GrubEnv::default();
    for (key, value) in variables {
        env.set(key, value).unwrap();
    }
    env
}

/// First and second copy of one case; `None`: the copy is there but torn.
type Case = (Option<GrubEnv>, Option<GrubEnv>);

fn cases() -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for (o, order) in ["A B", "B A", "A", "B", "", "X B Y A", "B B A"].into_iter().enumerate() {
        for bits in 0..16_u32 {
            let bit = |n: u32| if bits & (1 << n) == 0 { "0" } else { "1" };
            let all = [("ORDER", order), ("A_OK", bit(0)), ("A_TRY", bit(1)), ("B_OK", bit(2)), ("B_TRY", bit(3))];
            let env = env_of(&[&[("saved_entry", "7")], &all[..]].concat());
            // The second copy says something else, so that taking it in error shows.
            let second = env_of(&[("ORDER", "B A"), ("A_OK", "0"), ("A_TRY", "1"), ("B_OK", "1"), ("B_TRY", "1")]);
            cases.insert(format!("s{o}x{bits:02}"), (Some(env.clone()), Some(second)));
            cases.insert(format!("t{o}x{bits:02}"), (None, Some(env)));
        }
    }
    let odd = env_of(&[("ORDER", "A B"), ("A_OK", "yes"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "2")]);
    cases.insert("odd".into(), (Some(odd.clone()), Some(odd)));
    let few = env_of(&[("B_OK", "1")]);
    cases.insert("few".into(), (Some(few.clone()), Some(few)));
    cases.insert("lost".into(), (None, None));
    cases
}

fn block(env: &Option<GrubEnv>) -> Vec<u8> {
    env.as_ref().map_or(vec![0; 1024], |env| env.encode().unwrap().to_vec())
}

/// An ext2 image with one folder per case, and a script that runs the boot script with each folder as its own.
fn image(folder: &Path, cases: &BTreeMap<String, Case>) -> PathBuf {
    let tree = folder.join("tree");
    let mut script = String::from("set pager=0\n");
    fs::create_dir_all(tree.join("grub")).unwrap();
    for (name, (first, second)) in cases {
        let own = tree.join(name);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("grubenv"), block(first)).unwrap();
        fs::write(own.join("grubenv.copy"), block(second)).unwrap();
        script += &format!(
            "set prefix=(hd0)/{name}\nsource (hd0)/script.cfg\necho \"=={name} ${{default}} ${{reason}}==\"\n"
        );
    }
    script += "echo ==end==\nhalt\n";
    fs::write(tree.join("grub/grub.cfg"), script).unwrap();
    fs::copy(SCRIPT, tree.join("script.cfg")).unwrap();
    let image = folder.join("disk.img");
    let (tree, image_text) = (tree.display().to_string(), image.display().to_string());
    let made = run("mke2fs", &["-q", "-F", "-t", "ext2", "-b", "1024", "-N", "1024", "-d", &tree, &image_text, "8M"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

/// What GRUB said for each case: the slot and why.
fn boot_all(folder: &Path, image: &Path) -> BTreeMap<String, String> {
    let map = folder.join("device.map");
    fs::write(&map, format!("(hd0) {}\n", image.display())).unwrap();
    let output = run("timeout", &["60", "grub-emu", "-m", &map.display().to_string(), "-r", "hd0", "-d", "/grub"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("==end=="),
        "GRUB did not come to the end:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = text.split("==").filter_map(|part| part.split_once(' '));
    lines.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// Copies the image's files back into a folder.
fn dump(folder: &Path, image: &Path) -> PathBuf {
    let out = folder.join("after");
    fs::create_dir(&out).unwrap();
    run("debugfs", &["-R", &format!("rdump / {}", out.display()), &image.display().to_string()]);
    out
}

/// The same decision by our implementation, on the same two files.
fn ours(folder: &Path, case: &Case) -> (String, Vec<u8>, Vec<u8>) {
    let (first, second) = (folder.join("ours"), folder.join("ours.copy"));
    fs::write(&first, block(&case.0)).unwrap();
    fs::write(&second, block(&case.1)).unwrap();
    let decision = boot_decision(&GrubFiles::new(FileCopy::new(&first), FileCopy::new(&second), pair()), &pair());
    let why = match decision.why {
        Why::Preferred => "",
        Why::LastResort => " (last resort)",
        Why::NoneGood => " (none is good)",
    };
    (format!("{}{why}", decision.slot), fs::read(first).unwrap(), fs::read(second).unwrap())
}

#[test]
fn grub_decides_and_writes_as_we_do_in_every_state() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases();
    let image = image(folder.path(), &cases);
    let said = boot_all(folder.path(), &image);
    let after = dump(folder.path(), &image);
    for (name, case) in &cases {
        let (decision, first, second) = ours(folder.path(), case);
        let words = said[name].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words, decision, "{name} {case:?}");
        let vars = |block: &[u8]| GrubEnv::decode(block).ok().map(|env| GrubVars::read(&env, &pair()));
        let theirs = fs::read(after.join(name).join("grubenv")).unwrap();
        let theirs_copy = fs::read(after.join(name).join("grubenv.copy")).unwrap();
        if let Some(given) = &case.0 {
            assert_eq!(vars(&theirs), vars(&first), "{name} {case:?}");
            assert_eq!(GrubEnv::decode(&theirs).unwrap().text("saved_entry"), given.text("saved_entry"));
        } else {
            assert_eq!(theirs, [0; 1024], "GRUB writes no block where it found none");
        }
        if case.1.is_some() {
            assert_eq!(vars(&theirs_copy), vars(&second), "{name} {case:?}");
        }
    }
}

#[test]
fn grub_editenv_and_we_read_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grubenv").display().to_string();
    assert!(run("grub-editenv", &[&path, "create"]).status.success());
    let odd = "back\\slash and = sign";
    let value = format!("odd={odd}");
    assert!(run("grub-editenv", &[&path, "set", "ORDER=B A", "B_OK=1", &value]).status.success());
    let env = GrubEnv::decode(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((env.text("ORDER"), env.text("odd")), (Some("B A"), Some(odd)));

    let files = GrubFiles::new(FileCopy::new(&path), FileCopy::new(folder.path().join("copy")), pair());
    files.change(|vars| vars.try_once(&name("A"))).unwrap();
    let listed = String::from_utf8(run("grub-editenv", &[&path, "list"]).stdout).unwrap();
    for line in ["ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=1", "B_TRY=0", &value] {
        assert!(listed.lines().any(|listed| listed == line), "{line:?} is not in\n{listed}");
    }
}
