//! Builds what the demonstration and the measurements need and runs them.

use std::process::Command;

use crate::container;
use crate::setup;
use crate::shell::{self, Failure, Outcome, cargo, step};

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        build()?;
        return start("pitstop-demo", &["--help".to_owned()]);
    }
    setup::ensure()?;
    build()?;
    if args.iter().any(|a| a == "container" || a == "--backend=container") {
        container::run(&[])?;
    }
    start("pitstop-demo", args)
}

pub fn bench(args: &[String]) -> Outcome {
    setup::ensure()?;
    build()?;
    start("pitstop-bench", args)
}

/// The whole workspace in the profile that tests use too, so that dependencies are built once.
pub fn build() -> Outcome {
    step("building", cargo().args(["build", "--workspace", "--quiet"]))
}

fn start(program: &str, args: &[String]) -> Outcome {
    let path = shell::target_dir().join("debug").join(program);
    let status = Command::new(&path)
        .args(args)
        .status()
        .map_err(|e| Failure::new(format!("cannot start {}: {e}", path.display())))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1);
    Err(Failure { text: format!("{program} ended with {status}"), status: code })
}
