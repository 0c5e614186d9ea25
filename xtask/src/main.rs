//! `cargo xtask …`: set-up, demonstration, tests, lints, benchmarks, container.
//!
//! It depends on next to nothing, so that it builds in seconds on a bare machine and can say what is missing there.

mod container;
mod demo;
mod fuzz;
mod image;
mod lint;
mod qemu;
mod setup;
mod shell;
mod test;
mod units;
mod yocto;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND [options]

  setup [--check]      install what the other commands need (as root), or name the one command that does
  demo [options]       the main job on this machine: one campaign updates a whole simulated vehicle
                       (`cargo xtask demo --help` lists its options and scenarios)
  test [FILTER]        all tests; --qemu [--long]: those of the emulated machine instead
  lint                 formatting, clippy, licences and bans, XML
  bench [NAME]         measurements: status (answers while an installation runs), rates (CAN, CAN FD, DoIP),
                       footprint (memory, processor, flash of the emulated machine)
  fuzz [TARGET...]     feeds every parser of foreign bytes with made-up inputs, guided by coverage
  container [--tag T]  an OCI image of the backend, made by buildah
  image [options]      a bootable disk of the TCU from Debian packages, and the update bundle of the same software
  qemu [options]       boots that disk with a TPM, a watchdog and CAN controllers; --vehicle: with a whole vehicle around it;
                       --smoke judges the start
  yocto [options]      checks the Yocto layer, as far as that goes without an image build; --write makes its crate list

Every command takes --help. These end with JSON for programs by --json: setup --check, demo, bench, fuzz, image, and of qemu
--smoke and --scenario.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match words.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("--help", &[][..]),
    };
    let outcome = match command {
        "setup" => setup::run(rest),
        "demo" => demo::run(rest),
        "test" => test::run(rest),
        "lint" => lint::run(rest),
        "bench" => demo::bench(rest),
        "container" => container::run(rest),
        "fuzz" => fuzz::run(rest),
        "image" => image::run(rest),
        "qemu" => qemu::run(rest),
        "yocto" => yocto::run(rest),
        "--help" | "-h" | "help" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(shell::Failure::new(format!("there is no command {other:?}\n\n{HELP}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {}", failure.text);
            ExitCode::from(failure.status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Run = fn(&[String]) -> shell::Outcome;

    #[test]
    fn a_slip_in_a_flag_starts_no_work() {
        let commands: [(&str, Run); 6] = [
            ("setup", setup::run),
            ("lint", lint::run),
            ("container", container::run),
            ("image", image::run),
            ("yocto", yocto::run),
            ("bench", demo::bench),
        ];
        for (name, run) in commands {
            let words = ["footprint", "--chek"].iter().skip(usize::from(name != "bench"));
            let refused = run(&words.map(|word| (*word).to_owned()).collect::<Vec<_>>()).expect_err(name);
            assert!(refused.text.contains(name) && refused.text.contains("\"--chek\""), "{name}: {}", refused.text);
        }
    }
}
