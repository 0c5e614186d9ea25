//! What the stack costs on a machine: memory, processor, wake-ups, flash, time to be ready; and RAUC and SWUpdate beside it,
//! measured the same way on the same machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::inside::rauc;
use super::machine::{Console, Machine, Options};
use super::shell::Shell;
use super::{ANSWER_LIMIT, BOOT_LIMIT};
use crate::image::{self, Paths, SERVICES};
use crate::shell::{Failure, Outcome, known_flags, output, step};

/// After the start everything settles before it is looked at.
const SETTLE: Duration = Duration::from_secs(60);
/// How long idle services are watched.
const WINDOW_SECS: u64 = 60;
/// What may be used, from the project's own targets: MiB of memory, percent of a core, MiB of flash.
const MOST: (f64, f64, f64) = (32.0, 0.5, 32.0);

/// Files of ours in the image, and those of the two others.
const OURS: &str = "/usr/libexec/pitstop/pitstopd /usr/bin/pitstopctl /usr/lib/pitstop /usr/lib/systemd/system/pitstop-* /usr/lib/systemd/system/tcu-* /usr/share/dbus-1/system.d/io.pitstop.*";

/// What ours is compared with: name of its unit here, how it is started, its files.
struct Peer {
    unit: &'static str,
    start: &'static str,
    files: &'static str,
}

/// Both run all the time here, as they do beside an update's client; ours were started by the boot.
const PEERS: [Peer; 2] = [
    Peer {
        unit: "rauc-idle",
        start: "rauc --conf=/run/rauc.conf service",
        files: "/usr/bin/rauc /usr/share/dbus-1/system.d/de.pengutronix.rauc.conf",
    },
    // Not in the image, for its libraries are large: on a disk of its own. As Debian's unit starts it, and with a certificate, without
    // which it ends at once.
    Peer {
        unit: "swupdate-idle",
        start: "--setenv=LD_LIBRARY_PATH=/run/peers/lib /run/peers/swupdate -v -k /usr/lib/pitstop/keyring.pem",
        files: "/run/peers/swupdate /run/peers/lib/libswupdate.so*",
    },
];

pub fn run(args: &[String]) -> Outcome {
    known_flags("bench footprint", args, &["--json"], &[])?;
    let paths = Paths::new();
    image::bootable(&paths)?;
    let peers = peers(&paths)?;
    let dir = paths.dir.join("footprint");
    let machine = Machine::start(&paths, &Options { dir, fresh: true, console: Console::Log, disks: vec![peers] })?;
    let mut guest = Guest(machine.up(BOOT_LIMIT)?);
    eprintln!("    up; waiting {} s for it to settle, then {WINDOW_SECS} s of looking", SETTLE.as_secs());
    let report = guest.report()?;
    drop(machine);
    if args.iter().any(|a| a == "--json") {
        println!("{report}");
    } else {
        println!("{report:#}");
    }
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::MAX);
    let found = (number("/pitstop/pss_mib"), number("/pitstop/cpu_percent"), number("/pitstop/installed_mib"));
    if found.0 <= MOST.0 && found.1 <= MOST.1 && found.2 <= MOST.2 {
        return Ok(());
    }
    Err(Failure::new(format!("more than is allowed: {found:?} MiB, %, MiB; the most is {MOST:?}")))
}

/// A disk with Debian's SWUpdate and the libraries it is linked with.
fn peers(paths: &Paths) -> Result<PathBuf, Failure> {
    const PROGRAM: &str = "/usr/bin/swupdate";
    if !Path::new(PROGRAM).is_file() {
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
        // Its words must not mix with the line of JSON.
        step("SWUpdate, to be compared with", install.arg("swupdate").stdout(std::process::Stdio::null()))?;
    }
    let (tree, image) = (paths.dir.join("peers"), paths.dir.join("peers.img"));
    let _ = fs::remove_dir_all(&tree);
    let _ = fs::remove_file(&image);
    fs::create_dir_all(tree.join("lib")).map_err(|e| Failure::new(format!("{}: {e}", tree.display())))?;
    output(Command::new("cp").arg("-L").arg(PROGRAM).arg(&tree))?;
    let linked = output(Command::new("ldd").arg(PROGRAM))?;
    // The C library is the guest's own.
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/') && !word.contains("/ld-linux"));
    for library in libraries.filter(|library| !library.contains("/libc.so")) {
        output(Command::new("cp").arg("-L").arg(library).arg(tree.join("lib")))?;
    }
    output(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("96M"))?;
    Ok(image)
}

struct Guest(Shell);

/// A unit's processes at one instant.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    /// Their ids; others mean that it was started anew.
    processes: String,
    pss_kib: f64,
    cpu_ticks: f64,
    switches: f64,
}

impl Guest {
    fn text(&mut self, command: &str) -> Result<String, Failure> {
        self.0.must(command, ANSWER_LIMIT)
    }

    fn number(&mut self, command: &str) -> Result<f64, Failure> {
        let text = self.text(command)?;
        text.trim().parse().map_err(|_| Failure::new(format!("{command}: {text:?} is no number")))
    }

    fn report(&mut self) -> Result<Value, Failure> {
        self.start_peers()?;
        std::thread::sleep(SETTLE);
        let mut units: Vec<String> = SERVICES.iter().map(|service| format!("pitstop-{service}")).collect();
        units.extend(PEERS.map(|peer| peer.unit.to_owned()));
        let mut before = Vec::new();
        for unit in &units {
            before.push(self.sample(unit)?);
        }
        std::thread::sleep(Duration::from_secs(WINDOW_SECS));
        let (mut services, mut others) = (Map::new(), Map::new());
        let mut total = Sample::default();
        let tick = self.number("getconf CLK_TCK")?;
        for (unit, before) in units.iter().zip(before) {
            let after = self.sample(unit)?;
            if after.processes != before.processes {
                return Err(Failure::new(format!("{unit} was started anew while it was looked at")));
            }
            let cpu = (after.cpu_ticks - before.cpu_ticks) / tick / WINDOW_SECS as f64 * 100.0;
            let wake_ups = (after.switches - before.switches) / WINDOW_SECS as f64;
            let told = figures(after.pss_kib, cpu, wake_ups);
            match unit.strip_prefix("pitstop-") {
                Some(name) => {
                    total.pss_kib += after.pss_kib;
                    total.cpu_ticks += cpu;
                    total.switches += wake_ups;
                    services.insert(name.to_owned(), told.into());
                }
                None => drop(others.insert(unit.clone(), told.into())),
            }
        }
        for Peer { unit, files, .. } in PEERS {
            let size = self.installed(files)?;
            if let Some(Value::Object(other)) = others.get_mut(unit) {
                other.insert("installed_mib".to_owned(), size.into());
            }
        }
        let mut ours = figures(total.pss_kib, total.cpu_ticks, total.switches);
        ours.insert("installed_mib".to_owned(), self.installed(OURS)?.into());
        ours.insert("ready_secs_after_bus".to_owned(), self.ready()?.into());
        ours.insert("services".to_owned(), services.into());
        Ok(json!({ "pitstop": ours, "others": others }))
    }

    fn start_peers(&mut self) -> Outcome {
        rauc::configure(&mut self.0)?;
        self.text("mkdir -p /run/peers && mount -o ro /dev/vdb /run/peers")?;
        for Peer { unit, start, .. } in PEERS {
            self.text(&format!("systemd-run --unit={unit} {start}"))?;
        }
        Ok(())
    }

    /// Fails if the unit does not run: a figure that is left out would look like one that is small.
    fn sample(&mut self, unit: &str) -> Result<Sample, Failure> {
        let group = self.text(&format!("systemctl show --property=ControlGroup --value {unit}.service"))?;
        let listed = format!("cat /sys/fs/cgroup{}/cgroup.procs | tr '\\n' ' '", group.trim());
        let processes = if group.trim().is_empty() { String::new() } else { self.text(&listed)? };
        if processes.trim().is_empty() {
            let said = self.text(&format!("journalctl --no-pager -q -n 5 -o cat -u {unit}"))?;
            return Err(Failure::new(format!("{unit} does not run; it said last:\n{said}")));
        }
        let mut sum = |each: &str, fields: &str| {
            self.number(&format!(
                "for id in {processes}; do {each}; done | awk '{fields} {{ n += $2 }} END {{ print n + 0 }}'"
            ))
        };
        let pss_kib = sum("cat /proc/$id/smaps_rollup", "/^Pss:/")?;
        // Behind the name, which may hold spaces: user and system time are the 12th and 13th.
        let cpu_ticks = sum("sed 's/.*) //' /proc/$id/stat | awk '{ print \"ticks\", $12 + $13 }'", "/^ticks/")?;
        let switches = sum("cat /proc/$id/task/*/status", "/^voluntary_ctxt_switches/")?;
        Ok(Sample { processes, pss_kib, cpu_ticks, switches })
    }

    fn installed(&mut self, files: &str) -> Result<f64, Failure> {
        let bytes = self.number(&format!("du -scb {files} 2>/dev/null | tail -1 | cut -f1"))?;
        Ok(tenths(bytes / 1024.0 / 1024.0))
    }

    /// From the bus to the last of our services, in seconds.
    fn ready(&mut self) -> Result<f64, Failure> {
        let at = |unit: &str| format!("systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}");
        let bus = self.number(&at("dbus.service"))?;
        let mut last = bus;
        for service in SERVICES {
            last = last.max(self.number(&at(&format!("pitstop-{service}.service")))?);
        }
        Ok(tenths((last - bus) / 1e6))
    }
}

/// Memory in KiB, share of a core in percent, wake-ups in a second; as they are printed.
fn figures(pss_kib: f64, cpu_percent: f64, wake_ups: f64) -> Map<String, Value> {
    let named = [
        ("pss_mib", tenths(pss_kib / 1024.0)),
        ("cpu_percent", hundredths(cpu_percent)),
        ("wake_ups_per_s", hundredths(wake_ups)),
    ];
    named.map(|(name, figure)| (name.to_owned(), figure.into())).into_iter().collect()
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
