//! The Yocto layer: its generated part, and what can be checked of it without building an image.

mod crates;
mod disk;
mod packages;
mod trees;
mod variants;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Failure, Outcome, known_flags, step, target_dir, workspace};
use packages::read;

const HELP: &str = "\
usage: cargo xtask yocto [--write] [--bitbake DIR --oe-core DIR [--user NAME] [--work DIR]
                         [--variants [--meta-oe DIR --meta-security DIR]] [--build] [--check-layer]]

Checks yocto-layer/: the crate list equals Cargo.lock, every file of rootfs-overlay/ is installed by exactly one recipe, units and
users are registered, the packages hold what the image of `cargo xtask image` holds (where one was made), the disk layout makes the disk that the boot script expects, oelint-adv has no findings, kas files are valid.
--write makes the crate list anew.

With checked-out trees of openembedded/bitbake (branch 2.18) and openembedded/openembedded-core (branch wrynose), without network:
parse, dependency graph of pitstop-image with every service, fetch and unpack from local crates.
  --user NAME     runs bitbake, which refuses root, as this user
  --work DIR      folder for the build (default target/yocto/build; with --user a folder that user may enter)
  --build         this machine's cargo builds the sources with nothing but the crates that bitbake unpacked
  --variants      U-Boot with services left out and a writable root; sources from git at a pinned commit; what is refused; and with
                  the trees of meta-openembedded and meta-security (branches wrynose) the product, whose keys are in a TPM
  --check-layer   yocto-check-layer as well (10 minutes and more)";

const FLAGS: &[&str] = &["--write", "--variants", "--build", "--check-layer"];
const VALUED: &[&str] = &["--bitbake", "--oe-core", "--user", "--work", "--meta-oe", "--meta-security"];

/// The generated list, below the layer.
const CRATES: &str = "recipes-pitstop/pitstop-crates.inc";
/// Tools from Python's registry, in an environment of their own.
const TOOLS: &[&str] = &["oelint-adv==9.11.2", "kas==5.5"];
/// Rules that do not fit: one needs the network, one forbids the '-' that oe-core's own classes have, two call every variable of a
/// layer's own a spelling mistake.
const SUPPRESSED: &[&str] =
    &["oelint.vars.homepageping", "oelint.bbclass.underscores", "oelint.vars.mispell", "oelint.vars.mispell.unknown"];

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    known_flags("yocto", args, FLAGS, VALUED)?;
    crate_list(args.iter().any(|a| a == "--write"))?;
    eprintln!("==> packages, units, users");
    let mut wrong = packages::differences(env!("CARGO_PKG_VERSION"))?;
    wrong.extend(packages::against_image(&target_dir().join("tcu/tree"))?);
    if !wrong.is_empty() {
        return Err(Failure::new(wrong.join("\n")));
    }
    eprintln!("==> disk layout");
    disk::check()?;
    let tools = tools()?;
    lint(&tools)?;
    kas(&tools)?;
    let trees = trees::Options::from_args(args)?;
    match &trees {
        Some(options) => trees::check(options)?,
        None => eprintln!("parse, graph and fetch not checked: give --bitbake and --oe-core"),
    }
    println!("the layer is as it should be");
    Ok(())
}

/// The layer's folder.
fn layer() -> PathBuf {
    workspace().join("yocto-layer/meta-pitstop")
}

fn crate_list(write: bool) -> Outcome {
    eprintln!("==> crate list");
    let text = crates::list(&read(&workspace().join("Cargo.lock"))?).map_err(Failure::new)?;
    let file = layer().join(CRATES);
    if fs::read_to_string(&file).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    if !write {
        return Err(Failure::new("the crate list is not that of Cargo.lock; run: cargo xtask yocto --write"));
    }
    fs::write(&file, text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}

/// The folder of the tools' programs; installs them at the first time.
fn tools() -> Result<PathBuf, Failure> {
    let folder = target_dir().join("yocto-tools");
    let (programs, stamp) = (folder.join("bin"), folder.join("installed.txt"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == TOOLS.join(" ")) {
        return Ok(programs);
    }
    step("environment for oelint-adv and kas", Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    step("oelint-adv and kas", Command::new(programs.join("python")).args(pip).args(TOOLS))?;
    fs::write(&stamp, TOOLS.join(" ")).map_err(|e| Failure::new(format!("{}: {e}", stamp.display())))?;
    Ok(programs)
}

fn lint(tools: &Path) -> Outcome {
    let mut files = Vec::new();
    recipes(&layer(), &mut files)?;
    let mut oelint = Command::new(tools.join("oelint-adv"));
    oelint.args(["--quiet", "--release", "wrynose", "--hide", "info"]);
    for rule in SUPPRESSED {
        oelint.args(["--suppress", rule]);
    }
    step("oelint-adv", oelint.args(files))
}

/// Recipes, and what they include; not configuration, for which the linter has no rules.
fn recipes(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_recipe = path.extension().is_some_and(|x| x == "bb" || x == "bbappend" || x == "inc");
        if path.is_dir() && !path.ends_with("conf") {
            recipes(&path, found)?;
        } else if is_recipe {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

/// kas files against the schema that kas brings, because kas itself would fetch first.
fn kas(tools: &Path) -> Outcome {
    const PROGRAM: &str = "\
import json, pathlib, sys, kas, jsonschema, yaml
schema = json.loads((pathlib.Path(kas.__file__).parent / 'schema-kas.json').read_text())
for name in sys.argv[1:]:
    jsonschema.validate(yaml.safe_load(open(name)), schema)
";
    let folder = workspace().join("yocto-layer/kas");
    let entries = fs::read_dir(&folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    step("kas files", Command::new(tools.join("python")).args(["-c", PROGRAM]).args(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_help_is_known() {
        let words = HELP.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-');
        let told: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
        assert!(told.len() > FLAGS.len());
        assert!(told.iter().all(|flag| FLAGS.contains(flag) || VALUED.contains(flag)), "{told:?}");
    }
}
