//! What only the real machine shows: systemd's judgement of the units, the kernel's CAN and ISO-TP, who may call what on the real
//! bus, Debian's RAUC and GRUB tools on our slots and boot environment, and what outlives a restart.

mod isotp;
pub mod rauc;
mod restart;

use std::path::PathBuf;
use std::time::Duration;

use super::bus_off;
use super::machine::{Console, Machine, Options};
use super::shell::Shell;
use super::{ANSWER_LIMIT, BOOT_LIMIT};
use crate::image::{AFTER, Paths, SERVICES};
use crate::shell::{Failure, Outcome, cargo, output};

/// Highest exposure level by `systemd-analyze security`; the validator's is lower.
const EXPOSURE: f64 = 2.0;
const VALIDATOR_EXPOSURE: f64 = 1.0;
/// More than a thousand calls, each by a process of its own.
const ACCESS_LIMIT: Duration = Duration::from_secs(900);
/// Prints the calls that did not go as the table says.
const TRY_ALL: &str = r#"while read -r user group bus interface member verdict; do said=$(setpriv --reuid "$user" --regid "$group" --clear-groups dbus-send --system --print-reply --reply-timeout=5000 --dest="$bus" "/$(echo "$bus" | tr . /)" "$interface.$member" 2>&1 </dev/null); case "$said" in *AccessDenied*) found=deny;; *) found=allow;; esac; [ "$found" = "$verdict" ] || echo "$user $group $interface.$member at $bus: $found"; done < /run/access | head -40"#;
/// Prints users and groups that have another number than the overlay gives them.
const NUMBERS: &str = r#"while read -r kind name id rest; do case "$kind $id" in "u "[0-9]*) found="$(id -u "$name") $(id -g "$name")"; wanted="$id $id";; "g "[0-9]*) found=$(getent group "$name" | cut -d: -f3); wanted=$id;; *) continue;; esac; [ "$found" = "$wanted" ] || echo "$name: $found"; done < /usr/lib/sysusers.d/pitstop.conf"#;

/// Runs all of it on one machine from the factory; the first that fails ends it.
pub fn run(paths: &Paths) -> Outcome {
    let dir = paths.dir.join("inside");
    let bundle = paths.bundle(AFTER);
    let matrix = access_matrix(paths)?;
    let bytes = |file: &PathBuf| {
        std::fs::metadata(file).map(|data| data.len()).map_err(|e| Failure::new(format!("{}: {e}", file.display())))
    };
    let (bundle_bytes, matrix_bytes) = (bytes(&bundle)?, bytes(&matrix)?);
    let module = bus_off::module(paths)?;
    let take_module = bus_off::take_from("/dev/vdd", &module)?;
    let options = Options { dir, fresh: true, console: Console::Log, disks: vec![bundle, matrix, module] };
    let mut machine = Machine::start(paths, &options)?;
    let mut guest = Guest { shell: machine.up(BOOT_LIMIT)?, bundle_bytes, matrix_bytes, take_module };
    let checks: [(&str, Check); 7] = [
        ("exposure of the units", Guest::exposure),
        ("numbers of users and groups", Guest::numbers),
        ("every member called as every user", Guest::access),
        ("a bus-off is left again", Guest::bus_off),
        ("ISO-TP with the kernel's, both ways", isotp::both_ways),
        ("GRUB's tools and our environment", Guest::grub_tools),
        ("Debian's RAUC installs our bundle", rauc::installs),
    ];
    for (name, check) in checks {
        eprintln!("    {name}");
        check(&mut guest).map_err(|failure| Failure::new(format!("{name}: {}", failure.text)))?;
    }
    eprintln!("    journal, machine id and ssh over a restart into the other slot");
    restart::keeps(&mut guest, &mut machine, paths)
}

/// Every call with its verdict, as a file.
fn access_matrix(paths: &Paths) -> Result<PathBuf, Failure> {
    let table = output(cargo().args(["run", "--quiet", "-p", "pitstop-dbus", "--example", "access-matrix"]))?;
    let file = paths.dir.join("access.tsv");
    std::fs::write(&file, table).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    Ok(file)
}

type Check = fn(&mut Guest) -> Outcome;

struct Guest {
    shell: Shell,
    /// Length of the bundle at the beginning of the second disk.
    bundle_bytes: u64,
    /// The same of the table on the third.
    matrix_bytes: u64,
    /// The command that takes the module with the bus-off from the fourth.
    take_module: String,
}

impl Guest {
    fn text(&mut self, command: &str) -> Result<String, Failure> {
        self.within(command, ANSWER_LIMIT)
    }

    fn within(&mut self, command: &str, limit: Duration) -> Result<String, Failure> {
        self.shell.must(command, limit)
    }

    fn expect(&mut self, command: &str, wanted: &str) -> Outcome {
        let said = self.text(command)?;
        if said.contains(wanted) {
            return Ok(());
        }
        Err(Failure::new(format!("{command}: {wanted:?} is not in\n{said}")))
    }

    fn exposure(&mut self) -> Outcome {
        for service in SERVICES {
            let table = self.text(&format!("systemd-analyze security --no-pager pitstop-{service}.service"))?;
            let level = table.lines().last().and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok());
            let most = if *service == "validator" { VALIDATOR_EXPOSURE } else { EXPOSURE };
            if level.is_none_or(|level: f64| level > most) {
                return Err(Failure::new(format!("{service}: {level:?}, at most {most} is allowed")));
            }
        }
        Ok(())
    }

    /// Files on the data partition belong to the same users whichever slot runs.
    fn numbers(&mut self) -> Outcome {
        self.silent(NUMBERS)
    }

    /// A command that prints what is wrong, whatever its status.
    fn silent(&mut self, command: &str) -> Outcome {
        let said = self.shell.run(command, ANSWER_LIMIT)?.text;
        if said.trim().is_empty() { Ok(()) } else { Err(Failure::new(format!("{command}: {said}"))) }
    }

    /// Only what the table allows passes the bus. Calls carry no arguments: the bus judges before a service sees them.
    fn access(&mut self) -> Outcome {
        self.text(&format!("head -c {} /dev/vdc > /run/access", self.matrix_bytes))?;
        let wrong = self.within(TRY_ALL, ACCESS_LIMIT)?;
        if wrong.trim().is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("not as the table says:\n{wrong}")))
    }

    /// Applications see the bus-off and its end; the interface leaves it by itself, as its network file asks, and carries frames again.
    fn bus_off(&mut self) -> Outcome {
        self.expect("ip -details link show can0", "restart-ms 100")?;
        let take = self.take_module.clone();
        self.text(&take)?;
        let seen = self.text(bus_off::SEEN)?;
        if !(seen.contains("bus-off") && seen.contains("restarted-after-bus-off")) {
            return Err(Failure::new(format!("no error frames of a bus-off and of the restart after it:\n{seen}")));
        }
        let link = self.text("ip -json -statistics -details link show can0")?;
        if !serde_json::from_str(link.trim()).is_ok_and(|link| bus_off::came_back(&link, 1)) {
            return Err(Failure::new(format!("the interface did not come back: {link}")));
        }
        self.expect("(sleep 2; cansend far0 123#11) & timeout 15 candump -n 1 can0,123:7FF; wait", "can0")
    }

    fn grub_tools(&mut self) -> Outcome {
        self.expect("grub-editenv /boot/grub/grubenv list", "A_OK=1")?;
        self.expect("grub-editenv /boot/grub/grubenv.copy list", "ORDER=A B")?;
        // What they write, we read: a variable of somebody else's stays, and the slots are as before.
        self.text("grub-editenv /boot/grub/grubenv set integrator=1")?;
        self.expect("pitstopctl --json slots", "\"good\"")?;
        self.text("systemctl restart pitstop-self-update")?;
        self.expect("grub-editenv /boot/grub/grubenv list", "integrator=1")
    }
}
