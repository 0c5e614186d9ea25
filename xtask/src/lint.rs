//! Formatting, clippy, licences and bans, XML.

use std::fs;
use std::process::Command;

use crate::setup;
use crate::shell::{Failure, Outcome, cargo, has, known_flags, step, target_dir, workspace};
use crate::units;

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!(
            "usage: cargo xtask lint\n\ncargo fmt --check, clippy with warnings as errors, cargo-deny (installed if missing), xmllint,\nsystemd-analyze over the image's units."
        );
        return Ok(());
    }
    known_flags("lint", args, &[], &[])?;
    setup::ensure()?;
    step("formatting (mend with cargo fmt)", cargo().args(["fmt", "--all", "--check"]))?;
    let fuzz = workspace().join("fuzz/Cargo.toml");
    step("formatting of the fuzz targets", cargo().args(["fmt", "--check", "--manifest-path"]).arg(&fuzz))?;
    step("clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    step(
        "clippy of the fuzz targets",
        cargo().args(["clippy", "--all-targets", "--quiet", "--locked", "--manifest-path"]).arg(&fuzz).args([
            "--target-dir",
            &target_dir().display().to_string(),
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "the workspace without a TPM library",
        cargo().args(["check", "--quiet", "-p", "pitstopd", "--no-default-features"]),
    )?;
    xml()?;
    units::check()?;
    if !has("cargo-deny") {
        step(
            "installing cargo-deny",
            cargo().args(["install", "--quiet", "--locked", "cargo-deny", "--version", "0.20.2"]),
        )?;
    }
    step(
        "licences, bans and sources",
        cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
    )?;
    let advisories = cargo().args(["deny", "--log-level", "error", "check", "advisories"]).output();
    let advisories = match advisories {
        Ok(out) if out.status.success() => "advisories checked",
        _ => "advisories NOT checked: their database is not at hand here",
    };
    println!("lint passed; {advisories}");
    Ok(())
}

/// Interfaces and bus policies are well-formed.
fn xml() -> Outcome {
    let mut files = Vec::new();
    for folder in ["dbus-interfaces", "rootfs-overlay/usr/share/dbus-1/system.d"] {
        let folder = workspace().join(folder);
        let entries = fs::read_dir(&folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
        files.extend(
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "xml" || x == "conf")),
        );
    }
    step("XML", Command::new("xmllint").args(["--noout", "--nonet"]).args(files))
}
