//! All tests: the workspace's own, and those against peers nobody here wrote.

use std::process::Command;

use crate::shell::{Outcome, cargo, has, step, workspace};
use crate::{demo, setup};

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!(
            "usage: cargo xtask test [FILTER] | --qemu [--long]\n\nThe workspace's tests (cargo-nextest where it is installed), then the tests against Python peers.\n\n--qemu         instead: the TCU as an emulated machine (some minutes for each story; needs root for the image): an update of\n               the whole vehicle, one whose new software lacks a service, two with power cuts, checks from inside\n--qemu --long  twenty updates with power cuts, five that cut the control units too, every flush of an\n               update, and software that fails in every way; goes on where an earlier run stopped"
        );
        return Ok(());
    }
    if args.iter().any(|a| a == "--qemu") {
        return crate::qemu::long::run(args.iter().any(|a| a == "--long"));
    }
    setup::ensure()?;
    let python = setup::peers()?;
    // Tests of the whole vehicle start the programs of other packages, which neither runner builds for them.
    demo::build()?;
    let mut tests = cargo();
    tests.env("PITSTOP_PEERS_PYTHON", &python);
    if has("cargo-nextest") {
        tests
            .args([
                "nextest",
                "run",
                "--workspace",
                "--no-fail-fast",
                "--status-level",
                "fail",
                "--final-status-level",
                "fail",
            ])
            .args(args);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast", "--quiet"]).args(args);
    }
    step("tests of the workspace", &mut tests)?;
    if !has("cargo-nextest") {
        eprintln!("    (cargo-nextest is not installed; cargo test ran them)");
    }
    step(
        "tests against peers",
        Command::new(python)
            .current_dir(workspace())
            .env("PITSTOP_TARGET", crate::shell::target_dir().join("debug"))
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/peers"]),
    )
}
