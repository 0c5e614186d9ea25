//! What a restart into the other slot keeps: machine id, journal, and the key of the ssh server.

use std::process::Command;
use std::time::{Duration, Instant};

use super::Guest;
use crate::image::Paths;
use crate::qemu::BOOT_LIMIT;
use crate::qemu::machine::{LOGIN_PORT, Machine};
use crate::shell::{Failure, Outcome, output};

const MARK: &str = "said before the restart";

/// As [`super::rauc::installs`] left it, slot B starts next.
pub(super) fn keeps(guest: &mut Guest, machine: &mut Machine, paths: &Paths) -> Outcome {
    let id = guest.text("cat /etc/machine-id")?;
    guest.expect("cat /data/config/machine-id", id.trim())?;
    guest.text(&format!("logger '{MARK}'"))?;
    let key = login(paths, "cat /data/ssh/host-key | sha256sum")?;
    guest.shell.send("systemctl reboot")?;
    let deadline = Instant::now() + BOOT_LIMIT;
    while !machine.restarted()? {
        if Instant::now() > deadline {
            return Err(Failure::new("the machine does not restart"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    guest.shell = machine.up(BOOT_LIMIT)?;
    guest.expect("cat /proc/cmdline", "rauc.slot=B")?;
    guest.expect("cat /etc/machine-id", id.trim())?;
    guest.expect("journalctl --no-pager -q -b -1 -t root", MARK)?;
    // This start is in the same journal from its first line on.
    guest.expect("journalctl --no-pager -q -b -k | head -1", "Linux version")?;
    guest.silent("journalctl --no-pager -q --header | grep '^File path: /run/'")?;
    guest.silent("systemctl --failed --plain --no-legend")?;
    if login(paths, "cat /data/ssh/host-key | sha256sum")? != key {
        return Err(Failure::new("the ssh server has another key after the restart"));
    }
    Ok(())
}

/// What a command says by ssh, as a developer types it.
fn login(paths: &Paths, command: &str) -> Result<String, Failure> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    ssh.args(["-o", "ConnectTimeout=60", "-p", &LOGIN_PORT.to_string(), "-i"]).arg(paths.login());
    output(ssh.args(["root@127.0.0.1", command]))
}
