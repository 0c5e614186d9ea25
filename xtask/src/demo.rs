//! Builds what the demonstration and the measurements need and runs them.

use std::process::Command;

use crate::container;
use crate::setup;
use crate::shell::{self, Failure, Outcome, cargo, step};

/// Said here, because the program that knows its options may not be built yet.
const HELP: &str = "\
usage: cargo xtask demo [options]

One campaign updates a vehicle with five control units (a TCU and four ECUs) over the air: real services on a private D-Bus, a real
backend and broker, a TPM, simulated control units on simulated buses, real firmware. It waits for the driver's answer.

--scenario NAME    what happens (happy)
                     happy          every control unit gets new software
                     ecu-fails      bcm rejects the new image at its check routine every time
                     power-cut      all TCU services are killed at random points until the update is done
                     declined       the driver says no
                     tampered       a byte of a served bundle is flipped
                     wrong-vehicle  another vehicle's signed decision is replayed
--auto             answers the driver's prompt by itself
--json             ends with one line of JSON
--seed N           chooses the random points of power-cut, and the simulator's noise (1)
--bus-speed X      speed of the simulated buses, times real time, from 0.1 to 1000 (1)
--backend WHERE    process: the backend is a program; container: it runs out of its container image, which is made first (process)
--dir FOLDER       folder for everything it makes; kept. Without it a temporary folder is used and removed";

const BENCH_HELP: &str = "\
usage: cargo xtask bench [status | rates | footprint] [--bus-speed X] [--json]

Measures the running vehicle. Machines are noisy: look at ratios within one run, not at single times.

status           how fast the manager's status call answers, idle and while an installation runs (without a name: this)
rates            transfer rates on CAN, CAN FD and DoIP at real bus time, against what the bus can carry
footprint        memory, processor and flash of the emulated machine (some minutes)
--bus-speed X    speed of the simulated buses in status, times real time (2)
--json           ends with one line of JSON";

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    setup::ensure()?;
    build()?;
    if args.iter().any(|a| a == "container" || a == "--backend=container") {
        container::run(&[])?;
    }
    start("pitstop-demo", args)
}

pub fn bench(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{BENCH_HELP}");
        return Ok(());
    }
    if args.iter().any(|a| a == "footprint") {
        let rest: Vec<String> = args.iter().filter(|a| *a != "footprint").cloned().collect();
        return crate::qemu::footprint::run(&rest);
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    const PROGRAMS: &str = "tests/end-to-end/src";

    fn source(name: &str) -> String {
        fs::read_to_string(shell::workspace().join(PROGRAMS).join(name)).unwrap()
    }

    /// Flags of a clap structure: its fields that have `long`.
    fn options(source: &str) -> BTreeSet<String> {
        let fields = source.split("#[arg(long").skip(1).filter_map(|rest| rest.split_once("]\n"));
        let names = fields.filter_map(|(_, field)| field.trim_start().split_once(':')).map(|(name, _)| name);
        names.map(|name| format!("--{}", name.trim_start_matches("pub ").replace('_', "-"))).collect()
    }

    /// Values of a clap enumeration: its variants, as words of a command line.
    fn values(source: &str, name: &str) -> BTreeSet<String> {
        let (_, rest) = source.split_once(&format!("enum {name} {{")).unwrap();
        let (body, _) = rest.split_once('}').unwrap();
        let variants = body.lines().map(str::trim).filter_map(|line| line.strip_suffix(','));
        variants.map(kebab).collect()
    }

    fn kebab(variant: &str) -> String {
        let words = variant.char_indices().map(|(at, letter)| {
            let dash = if at > 0 && letter.is_uppercase() { "-" } else { "" };
            format!("{dash}{}", letter.to_lowercase())
        });
        words.collect()
    }

    /// First words of a help's lines.
    fn told(help: &str) -> BTreeSet<String> {
        help.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    fn flags(help: &str) -> BTreeSet<String> {
        told(help).into_iter().filter(|word| word.starts_with("--")).collect()
    }

    #[test]
    fn the_help_lists_what_the_demonstration_understands() {
        assert_eq!(flags(HELP), options(&source("bin/pitstop-demo.rs")));
        let scenarios = values(&source("scenario.rs"), "Scenario");
        assert!(scenarios.len() > 3 && scenarios.is_subset(&told(HELP)), "{scenarios:?}");
        let places = values(&source("backend.rs"), "Hosting");
        assert!(!places.is_empty() && places.iter().all(|place| HELP.contains(&format!("{place}: "))), "{places:?}");
    }

    #[test]
    fn the_help_lists_what_the_measurements_understand() {
        let program = source("bin/pitstop-bench/main.rs");
        assert_eq!(flags(BENCH_HELP), options(&program));
        assert!(values(&program, "What").is_subset(&told(BENCH_HELP)));
    }
}
