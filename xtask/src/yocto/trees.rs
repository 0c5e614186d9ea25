//! What bitbake itself says of the layer, with checked-out trees and without network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::variants;
use crate::image::SERVICES;
use crate::shell::{Failure, Outcome, cargo, is_root, output, step, target_dir, workspace};

/// Where the trees are, and how far to go.
pub struct Options {
    bitbake: PathBuf,
    oe_core: PathBuf,
    /// meta-openembedded and meta-security, for the variant with a TPM.
    more: Option<[PathBuf; 2]>,
    user: Option<String>,
    /// Folder for everything: sources, crates, the build.
    pub work: PathBuf,
    variants: bool,
    build: bool,
    check_layer: bool,
}

impl Options {
    /// None when no trees are given.
    pub fn from_args(args: &[String]) -> Result<Option<Self>, Failure> {
        let after = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
        let whole = |path: String| fs::canonicalize(&path).map_err(|e| Failure::new(format!("{path}: {e}")));
        let pair = |one: &str, other: &str| match (after(one), after(other)) {
            (None, None) => Ok(None),
            (Some(a), Some(b)) => Ok(Some([whole(a)?, whole(b)?])),
            _ => Err(Failure::new(format!("{one} and {other} belong together"))),
        };
        let Some([bitbake, oe_core]) = pair("--bitbake", "--oe-core")? else { return Ok(None) };
        let user = after("--user");
        if is_root() && user.is_none() {
            return Err(Failure::new("bitbake refuses root: give --user NAME"));
        }
        let flag = |name: &str| args.iter().any(|a| a == name);
        Ok(Some(Self {
            bitbake,
            oe_core,
            more: pair("--meta-oe", "--meta-security")?,
            user,
            work: after("--work").map_or_else(|| target_dir().join("yocto/build"), PathBuf::from),
            variants: flag("--variants"),
            build: flag("--build"),
            check_layer: flag("--check-layer"),
        }))
    }

    /// The copy of the sources.
    pub fn sources(&self) -> PathBuf {
        self.work.join("pitstop")
    }

    fn crates(&self) -> PathBuf {
        self.work.join("crates")
    }

    /// The layers of the variant with a TPM, if the trees are there.
    pub fn product_layers(&self) -> Option<Vec<PathBuf>> {
        let [oe, security] = self.more.as_ref()?;
        let mut layers: Vec<PathBuf> =
            ["meta-oe", "meta-python", "meta-networking"].iter().map(|name| oe.join(name)).collect();
        layers.push(security.join("meta-tpm"));
        Some(layers)
    }

    /// A command in bitbake's environment, as the user.
    pub fn inside(&self, command: &str) -> Command {
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

    /// What bitbake prints; every line about an error or a warning is a failure.
    pub fn bitbake(&self, name: &str, command: &str) -> Outcome {
        eprintln!("==> {name}");
        let (succeeded, said) = self.said(command)?;
        let bad: Vec<&str> = said.lines().filter(|l| l.contains("WARNING:") || l.contains("ERROR:")).collect();
        if succeeded && bad.is_empty() {
            return Ok(());
        }
        let last: Vec<&str> = said.lines().rev().take(30).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Err(Failure::new(format!("{command}:\n{}", if bad.is_empty() { last.join("\n") } else { bad.join("\n") })))
    }

    /// Whether a command succeeds, and all it prints.
    pub fn said(&self, command: &str) -> Result<(bool, String), Failure> {
        let out =
            self.inside(&format!("{command} 2>&1")).output().map_err(|e| Failure::new(format!("{command}: {e}")))?;
        Ok((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
    }

    /// A variable of a recipe, expanded.
    pub fn variable(&self, recipe: &str, name: &str) -> Result<String, Failure> {
        let value = output(&mut self.inside(&format!("bitbake-getvar --quiet --value -r {recipe} {name}")))?;
        Ok(value.trim().to_owned())
    }

    /// Recipes of the graph that was made last.
    pub fn graph(&self) -> Result<Vec<String>, Failure> {
        let list = self.work.join("build/pn-buildlist");
        let text = fs::read_to_string(&list).map_err(|e| Failure::new(format!("{}: {e}", list.display())))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Writes the build's configuration: oe-core, further layers, this one; and lines of the variant.
    pub fn configure(&self, layers: &[PathBuf], lines: &str) -> Outcome {
        let folder = self.work.join("build/conf");
        let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", folder.display()));
        let settings = format!(
            "MACHINE = \"qemux86-64\"\nCONNECTIVITY_CHECK_URIS = \"\"\nBB_NO_NETWORK = \"1\"\nINHERIT_DISTRO:remove = \"uninative\"\n\
             INHERIT += \"own-mirrors\"\nSOURCE_MIRROR_URL = \"file://{}\"\n{lines}",
            self.crates().display()
        );
        fs::write(folder.join("auto.conf"), settings).map_err(failed)?;
        let all = [self.oe_core.join("meta")].into_iter().chain(layers.iter().cloned());
        let named: Vec<String> = all.map(|layer| format!("  {} \\\n", layer.display())).collect();
        let text = format!(
            "POKY_BBLAYERS_CONF_VERSION = \"2\"\nLCONF_VERSION = \"7\"\nBBPATH = \"${{TOPDIR}}\"\nBBFILES ?= \"\"\nBBLAYERS ?= \" \\\n{}\"\n",
            named.concat()
        );
        fs::write(folder.join("bblayers.conf"), text).map_err(failed)
    }
}

/// The layer in the copy of the sources.
pub fn ours(options: &Options) -> PathBuf {
    options.sources().join("yocto-layer/meta-pitstop")
}

pub fn check(options: &Options) -> Outcome {
    prepare(options)?;
    options.configure(&[ours(options)], variants::LABORATORY)?;
    options.bitbake("parse", "bitbake -p")?;
    options.bitbake("dependency graph", "bitbake -g pitstop-image pitstop-tcu-bundle")?;
    services(options)?;
    options.bitbake("fetch and unpack", "bitbake -c unpack pitstop pitstop-bundle-native")?;
    if options.build {
        build(options)?;
    }
    if options.variants {
        variants::check(options)?;
    }
    if options.check_layer {
        // With systemd, so that the layer's recipes take part; without the feature that asks for the kernel fragment.
        options.configure(&[], "INIT_MANAGER = \"systemd\"\nPITSTOP_INSECURE_FILE_KEYS = \"1\"\n")?;
        let command = format!("yocto-check-layer {}", ours(options).display());
        step("yocto-check-layer", &mut options.inside(&command))?;
    }
    Ok(())
}

/// A copy of the sources that the user owns, the crates as bitbake's mirror, and the build folder.
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
    step("build folder", &mut options.inside("true"))
}

/// cargo's own cache files are what bitbake's crate fetcher wants.
fn mirror(options: &Options) -> Outcome {
    let home = options.work.join("cargo");
    step("crates", cargo().args(["fetch", "--locked", "--quiet"]).env("CARGO_HOME", &home))?;
    let copy = format!("cp -u {}/registry/cache/*/*.crate {}/", home.display(), options.crates().display());
    output(Command::new("bash").args(["-c", &copy])).map(|_| ())
}

/// The image's package group brings every service, and the graph has the recipe that builds them.
fn services(options: &Options) -> Outcome {
    let built = options.graph()?;
    for recipe in
        ["pitstop", "pitstop-boot", "pitstop-data", "pitstop-trust", "packagegroup-pitstop", "pitstop-bundle-native"]
    {
        if !built.iter().any(|line| line == recipe) {
            return Err(Failure::new(format!("the graph of pitstop-image lacks {recipe}")));
        }
    }
    let brought = options.variable("packagegroup-pitstop", "RDEPENDS:packagegroup-pitstop")?;
    for service in SERVICES {
        let package = format!("pitstop-{service}");
        if !brought.split_whitespace().any(|word| word == package) {
            return Err(Failure::new(format!("packagegroup-pitstop lacks {package}: {brought}")));
        }
    }
    Ok(())
}

/// Options of recipe `pitstop` that reach cargo.
const CARGO_OPTIONS: [&str; 3] = ["tpm", "hmi-web", "qemu"];

/// This machine's cargo on the sources, with the crates that bitbake unpacked as the only registry and the arguments of each recipe:
/// as the recipe is, and with all its options. Not its release profile, whose link-time optimisation says nothing about the crates
/// and takes long.
fn build(options: &Options) -> Outcome {
    for recipe in ["pitstop", "pitstop-bundle-native"] {
        let crates = Path::new(&options.variable(recipe, "UNPACKDIR")?).join("cargo_home/bitbake");
        if !crates.is_dir() {
            return Err(Failure::new(format!("{} is not there", crates.display())));
        }
        let flags = options.variable(recipe, "CARGO_BUILD_FLAGS")?;
        let mut arguments: Vec<String> =
            flags.split_whitespace().skip_while(|word| *word != "--package").map(str::to_owned).collect();
        step(&format!("build of what {recipe} unpacked"), &mut compile(options, &crates, &arguments))?;
        if recipe == "pitstop" {
            for name in CARGO_OPTIONS {
                let option = options.variable(recipe, &format!("PACKAGECONFIG --flag {name}"))?;
                let words = option.split(',').next().unwrap_or_default().split_whitespace();
                arguments.extend(words.map(str::to_owned));
            }
            step("the same with all options", &mut compile(options, &crates, &arguments))?;
        }
    }
    Ok(())
}

fn compile(options: &Options, crates: &Path, arguments: &[String]) -> Command {
    let mut command = cargo();
    command
        .current_dir(options.sources())
        .env("CARGO_HOME", options.work.join("cargo-empty"))
        .env("CARGO_TARGET_DIR", options.work.join("cargo-target"))
        .args(["build", "--frozen", "--quiet"])
        .args(arguments)
        .args(["--config", "source.crates-io.replace-with=\"bitbake\""])
        .arg("--config")
        .arg(format!("source.bitbake.directory={:?}", crates.display().to_string()));
    command
}
