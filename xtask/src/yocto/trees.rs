//! What bitbake itself says of the layer, with checked-out trees and without network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::image::SERVICES;
use crate::shell::{Failure, Outcome, cargo, is_root, output, step, target_dir, workspace};

/// Where the trees are, and how far to go.
pub struct Options {
    bitbake: PathBuf,
    oe_core: PathBuf,
    user: Option<String>,
    work: PathBuf,
    build: bool,
    check_layer: bool,
}

impl Options {
    /// None when no trees are given.
    pub fn from_args(args: &[String]) -> Result<Option<Self>, Failure> {
        let after = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
        let (bitbake, oe_core) = match (after("--bitbake"), after("--oe-core")) {
            (None, None) => return Ok(None),
            (Some(bitbake), Some(oe_core)) => (bitbake, oe_core),
            _ => return Err(Failure::new("--bitbake and --oe-core belong together")),
        };
        let user = after("--user");
        if is_root() && user.is_none() {
            return Err(Failure::new("bitbake refuses root: give --user NAME"));
        }
        let whole = |path: String| fs::canonicalize(&path).map_err(|e| Failure::new(format!("{path}: {e}")));
        let flag = |name: &str| args.iter().any(|a| a == name);
        Ok(Some(Self {
            bitbake: whole(bitbake)?,
            oe_core: whole(oe_core)?,
            user,
            work: after("--work").map_or_else(|| target_dir().join("yocto/build"), PathBuf::from),
            build: flag("--build"),
            check_layer: flag("--check-layer"),
        }))
    }

    fn sources(&self) -> PathBuf {
        self.work.join("pitstop")
    }

    fn crates(&self) -> PathBuf {
        self.work.join("crates")
    }

    /// A command in bitbake's environment, as the user.
    fn inside(&self, command: &str) -> Command {
        // A fixed seed, because oe-core joins sets into variables: without it no run finds the parse of the last one.
        let script = format!(
            "export LANG=C.UTF-8 PYTHONHASHSEED=0 BITBAKEDIR={bitbake}; cd {work} && . {oe}/oe-init-build-env build >/dev/null && {command}",
            bitbake = self.bitbake.display(),
            work = self.work.display(),
            oe = self.oe_core.display(),
        );
        let mut shell = match &self.user {
            Some(user) => {
                let mut c = Command::new("su");
                c.args([user, "-s", "/bin/bash", "-c", &script]);
                c
            }
            None => {
                let mut c = Command::new("bash");
                c.args(["-c", &script]);
                c
            }
        };
        shell.current_dir("/");
        shell
    }
}

pub fn check(options: &Options) -> Outcome {
    prepare(options)?;
    spoken(options, "parse", "bitbake -p")?;
    spoken(options, "dependency graph", "bitbake -g pitstop-image pitstop-tcu-bundle")?;
    services(options)?;
    spoken(options, "fetch and unpack", "bitbake -c unpack pitstop pitstop-bundle-native")?;
    if options.build {
        build(options)?;
    }
    if options.check_layer {
        let layer = options.sources().join("yocto-layer/meta-pitstop");
        let command = format!(
            "mv conf/auto.conf conf/auto.kept && bitbake-layers remove-layer '*/meta-pitstop' && \
             sed -e '/pitstop/Id' conf/auto.kept > conf/auto.conf && yocto-check-layer {}; \
             status=$?; mv conf/auto.kept conf/auto.conf; exit $status",
            layer.display()
        );
        step("yocto-check-layer", &mut options.inside(&command))?;
    }
    Ok(())
}

/// A copy of the sources that the user owns, the crates as bitbake's mirror, and the configuration.
fn prepare(options: &Options) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", options.work.display()));
    let sources = options.sources();
    let _ = fs::remove_dir_all(&sources);
    fs::create_dir_all(&sources).map_err(failed)?;
    fs::create_dir_all(options.crates()).map_err(failed)?;
    let mut listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(workspace())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let names = listed.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut pack = Command::new("cpio")
        .args(["--pass-through", "--null", "--make-directories", "--quiet"])
        .arg(&sources)
        .current_dir(workspace())
        .stdin(names)
        .spawn()
        .map_err(failed)?;
    if !pack.wait().map_err(failed)?.success() || !listed.wait().map_err(failed)?.success() {
        return Err(Failure::new("copying the sources failed (package cpio)"));
    }
    mirror(options)?;
    if let Some(user) = &options.user {
        output(Command::new("chown").args(["-R", user]).arg(&options.work))?;
    }
    step("build folder", &mut options.inside("true"))?;
    configure(options).map_err(failed)
}

/// cargo's own cache files are what bitbake's crate fetcher wants.
fn mirror(options: &Options) -> Outcome {
    let home = options.work.join("cargo");
    step("crates", cargo().args(["fetch", "--locked", "--quiet"]).env("CARGO_HOME", &home))?;
    let copy = format!("cp -u {}/registry/cache/*/*.crate {}/", home.display(), options.crates().display());
    output(Command::new("bash").args(["-c", &copy])).map(|_| ())
}

fn configure(options: &Options) -> std::io::Result<()> {
    let folder = options.work.join("build/conf");
    let settings = format!(
        "MACHINE = \"qemux86-64\"\nCONNECTIVITY_CHECK_URIS = \"\"\nBB_NO_NETWORK = \"1\"\nINHERIT_DISTRO:remove = \"uninative\"\n\
         INHERIT += \"own-mirrors\"\nSOURCE_MIRROR_URL = \"file://{}\"\nrequire conf/pitstop.inc\nPITSTOP_INSECURE_FILE_KEYS = \"1\"\n",
        options.crates().display()
    );
    fs::write(folder.join("auto.conf"), settings)?;
    let layers = format!(
        "POKY_BBLAYERS_CONF_VERSION = \"2\"\nLCONF_VERSION = \"7\"\nBBPATH = \"${{TOPDIR}}\"\nBBFILES ?= \"\"\nBBLAYERS ?= \" \\\n  {} \\\n  {} \\\n\"\n",
        options.oe_core.join("meta").display(),
        options.sources().join("yocto-layer/meta-pitstop").display()
    );
    fs::write(folder.join("bblayers.conf"), layers)
}

/// A run of bitbake that must succeed without a warning.
fn spoken(options: &Options, name: &str, command: &str) -> Outcome {
    eprintln!("==> {name}");
    let out =
        options.inside(&format!("{command} 2>&1")).output().map_err(|e| Failure::new(format!("{command}: {e}")))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let bad: Vec<&str> = said.lines().filter(|l| l.contains("WARNING:") || l.contains("ERROR:")).collect();
    if out.status.success() && bad.is_empty() {
        return Ok(());
    }
    let last: Vec<&str> = said.lines().rev().take(30).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Failure::new(format!("{command}:\n{}", if bad.is_empty() { last.join("\n") } else { bad.join("\n") })))
}

/// The image's package group brings every service, and the graph has the recipe that builds them.
fn services(options: &Options) -> Outcome {
    let list = options.work.join("build/pn-buildlist");
    let built = fs::read_to_string(&list).map_err(|e| Failure::new(format!("{}: {e}", list.display())))?;
    for recipe in
        ["pitstop", "pitstop-boot", "pitstop-data", "pitstop-trust", "packagegroup-pitstop", "pitstop-bundle-native"]
    {
        if !built.lines().any(|line| line == recipe) {
            return Err(Failure::new(format!("the graph of pitstop-image lacks {recipe}")));
        }
    }
    let variable = "bitbake-getvar --quiet --value -r packagegroup-pitstop RDEPENDS:packagegroup-pitstop";
    let brought = output(&mut options.inside(variable))?;
    for service in SERVICES {
        let package = format!("pitstop-{service}");
        if !brought.split_whitespace().any(|word| word == package) {
            return Err(Failure::new(format!("packagegroup-pitstop lacks {package}: {brought}")));
        }
    }
    Ok(())
}

/// This machine's cargo on the sources, with the crates that bitbake unpacked as the only registry.
fn build(options: &Options) -> Outcome {
    let variable = "bitbake-getvar --quiet --value -r pitstop UNPACKDIR";
    let unpacked = output(&mut options.inside(variable))?;
    let crates = Path::new(unpacked.trim()).join("cargo_home/bitbake");
    if !crates.is_dir() {
        return Err(Failure::new(format!("{} is not there", crates.display())));
    }
    let mut command = cargo();
    command
        .current_dir(options.sources())
        .env("CARGO_HOME", options.work.join("cargo-empty"))
        .env("CARGO_TARGET_DIR", options.work.join("cargo-target"))
        .args(["build", "--frozen", "--quiet", "-p", "pitstopd", "-p", "pitstopctl", "-p", "pitstop-bundle-tool"])
        .args(["--config", "source.crates-io.replace-with=\"bitbake\""])
        .arg("--config")
        .arg(format!("source.bitbake.directory={:?}", crates.display().to_string()));
    step("build of what was unpacked", &mut command)
}
