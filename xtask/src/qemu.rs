//! Boots the image in QEMU: firmware, GRUB, kernel and services as on the vehicle, with a TPM, a watchdog and CAN controllers.

#![expect(clippy::indexing_slicing, reason = "a key of a JSON object that is absent is made")]

mod arguments;
mod bus_off;
mod cuts;
mod flushes;
pub mod footprint;
mod host;
mod inside;
mod instant;
pub mod long;
mod machine;
mod monitor;
mod scenario;
mod shell;
mod started;
mod story;
mod vehicle;
mod volumes;
mod workshop;
mod writes;

use std::time::{Duration, Instant};

use crate::image::{self, Paths};
use crate::shell::{Failure, Outcome, tenths};
use arguments::Wish;
use machine::{Console, Machine, Options};
use started::Started;

const HELP: &str = "\
usage: cargo xtask qemu [--fresh] | --vehicle [--no-build] | --smoke [--json] | --inside
       cargo xtask qemu --scenario NAME [--auto] [--no-build] [--json]
                        [--cycles N] [--seed S] [--ecus] [--sample N] [--recorded]

Boots target/tcu/disk.img (made first if absent) on a copy that keeps its changes, with OVMF, GRUB, a TPM, a watchdog, two CAN
controllers on one bus and a virtual CAN FD bus. The console is this terminal, logged in as root; Ctrl-A X ends it.

--vehicle boots a fresh disk at this terminal with backend, broker and simulated control units around it, provisions it and starts a
          campaign: what follows is yours, by pitstopctl and busctl on the console or by ssh
--smoke   boots a fresh disk without a terminal, waits for all services, asks `pitstopctl status`, powers off; the exit status tells
--inside  what only the machine shows: exposure of the units, every call as every user, the kernel's CAN and ISO-TP, GRUB's tools and
          Debian's RAUC on our slots
--scenario NAME
          updates the whole vehicle: backend and simulated control units on this machine, the stack in the emulated TCU
            happy       every control unit gets new software
            no-boot, hang, unhealthy, no-data
                        the TCU's new software does not start, hangs, lacks a service, or cannot read the data partition: the boot
                        loader falls back, everything goes back to old; then a good update succeeds
            bus-off     the classic bus is lost again and again while a control unit is flashed over it; the update ends well
            workshop    a tester (udsoncan, doipclient) updates the TCU by DoIP with a package that offline roles signed, while manager,
                        backend-link and downloader are masked
            power-cut   the power of the TCU is cut at random instants, again and again, until the update has ended
            flushes     an update is recorded write for write, then at every flush the disk is judged as a cut would leave it: file systems,
                        boot environment, the slots that may start, the services' records
--cycles N, --seed S, --ecus
          for power-cut: so many updates from the factory (1), each with a seed of its own (from 1); a second call goes on where
          the first stopped, from target/tcu/power-cuts-S.jsonl, unless the image was made anew; --ecus cuts the control units' power
          together with the TCU's (target/tcu/power-cuts-ecus-S.jsonl)
--sample N, --recorded
          for flushes: so many of these disks are started (5); --recorded judges the last recording again, from target/tcu/flushes
--auto    the driver's prompt is answered: so it is in any case
--no-build
          takes the programs of this machine as they were built last
--fresh   begins with the factory's disk and an empty TPM
--json    with --smoke and --scenario: ends with one line of JSON

PITSTOP_KVM=1 in the environment uses KVM; without it the processors are emulated.
The TCU's diagnostic server answers at 127.0.0.1:14400, its ssh server at port 14422 (qemu/README.md).
Console log of --smoke: target/tcu/smoke/console.log.";

/// How long a start may take. It takes 30 s on two cores without KVM; ten times that for a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How often a story is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long services may need to answer after the target was reached, and the machine to power off.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

pub fn run(args: &[String]) -> Outcome {
    let wish = arguments::parse(args)?;
    if wish == Wish::Help {
        println!("{HELP}");
        return Ok(());
    }
    let paths = Paths::new();
    image::bootable(&paths)?;
    match wish {
        Wish::Help => Ok(()),
        Wish::Smoke { json } => smoke(&paths, json),
        Wish::Vehicle { build } => vehicle::run(&paths, build),
        Wish::Inside => inside::run(&paths),
        Wish::Scenario(order) => scenario::run(&paths, &order),
        Wish::Terminal { fresh } => {
            let dir = paths.dir.join("run");
            let options = Options { dir, fresh, console: Console::Terminal, disks: Vec::new() };
            Machine::start(&paths, &options)?.wait()
        }
    }
}

/// One start from the factory's disk, judged from outside.
fn smoke(paths: &Paths, as_json: bool) -> Outcome {
    let began = Instant::now();
    let dir = paths.dir.join("smoke");
    let mut machine = Machine::start(paths, &Options { dir, fresh: true, console: Console::Log, disks: Vec::new() })?;
    eprintln!("==> starting (console: {})", machine.console_log().display());
    let mut shell = machine.up(BOOT_LIMIT)?;
    let booted = began.elapsed();
    eprintln!("    pitstop.target: {:.1} s", booted.as_secs_f32());
    let started = Started::look(&mut shell)?;
    shell.send("systemctl poweroff")?;
    machine.wait_for_end(ANSWER_LIMIT)?;
    let ok = started.is_good("A");
    let mut report = started.report();
    report["ok"] = ok.into();
    (report["boot_secs"], report["total_secs"]) = (tenths(booted).into(), tenths(began.elapsed()).into());
    if as_json {
        println!("{report}");
    }
    if ok {
        eprintln!("    slot A, {} services active, status answered", started.active());
        return Ok(());
    }
    Err(Failure::new(format!("the start is not as it must be: {report:#}")))
}

/// The slot that the boot loader named on the kernel's command line; empty if it named none.
fn named_slot(command_line: &str) -> &str {
    command_line.split_whitespace().find_map(|word| word.strip_prefix("rauc.slot=")).unwrap_or_default()
}
