//! One emulated TCU: its disk, TPM, buses and lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::monitor::Monitor;
use super::shell::Shell;
use crate::image::Paths;
use crate::shell::{Failure, Outcome, output};

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Where the TCU's diagnostic server is reached on the host.
pub const DIAGNOSTIC_PORT: u16 = 14400;
/// Where its ssh server is, which only the image of `cargo xtask image` has.
pub const LOGIN_PORT: u16 = 14422;

/// Where the console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// This terminal, with QEMU's own commands behind Ctrl-A.
    Terminal,
    /// A file.
    Log,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Disk, firmware variables, TPM state and logs of this machine.
    pub dir: PathBuf,
    /// Whether to begin as from the factory.
    pub fresh: bool,
    pub console: Console,
    /// Files that the guest has as more disks, read-only: vdb, vdc, ...
    pub disks: Vec<PathBuf>,
}

/// A running machine. Dropping it takes its power away.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    console: Console,
    disks: Vec<PathBuf>,
    /// Where every write to the disk is recorded.
    log: Option<PathBuf>,
    sockets: PathBuf,
    qemu: Child,
    tpm: Child,
    end: Monitor,
}

impl Machine {
    pub fn start(paths: &Paths, options: &Options) -> Result<Self, Failure> {
        Self::start_recorded(paths, options, None)
    }

    /// The same with a log of every write to the disk, over all its restarts; an empty file at first.
    pub fn start_recorded(paths: &Paths, options: &Options, log: Option<&Path>) -> Result<Self, Failure> {
        let log = log.map(Path::to_owned);
        let dir = options.dir.clone();
        if options.fresh {
            let _ = fs::remove_dir_all(&dir);
        }
        fs::create_dir_all(dir.join("tpm")).map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
        // A socket's path has 107 bytes at most, and nobody knows how deep the workspace lies.
        let made = output(Command::new("mktemp").args(["-d", "-t", "pitstop-qemu-XXXXXX"]))?;
        let sockets = PathBuf::from(made.trim());
        for (from, name) in [(paths.disk(), "disk.img"), (PathBuf::from(FIRMWARE_VARIABLES), "efi-variables.fd")] {
            let to = dir.join(name);
            if !to.is_file() {
                sparse_copy(&from, &to)?;
            }
        }
        let disks = options.disks.clone();
        let (tpm, qemu, end) = power_on(&dir, &sockets, options.console, &disks, log.as_deref())?;
        Ok(Self { dir, console: options.console, disks, log, sockets, qemu, tpm, end })
    }

    /// Takes the power away, as a cut would: disk and TPM keep what they had.
    pub fn cut(&mut self) {
        for child in [&mut self.qemu, &mut self.tpm] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Gives the power back. Everything begins anew but disk, firmware variables and TPM.
    pub fn power_on(&mut self) -> Outcome {
        self.cut();
        (self.tpm, self.qemu, self.end) =
            power_on(&self.dir, &self.sockets, self.console, &self.disks, self.log.as_deref())?;
        Ok(())
    }

    /// Whether the guest asked for a restart, or its watchdog did; then the machine is started again. A new process, because
    /// QEMU's CAN controllers receive nothing any more after a reset without power off.
    pub fn restarted(&mut self) -> Result<bool, Failure> {
        if self.qemu.try_wait().ok().flatten().is_none() {
            return Ok(false);
        }
        if !self.end.was_reset() {
            return Err(Failure::new("the machine switched itself off, or QEMU ended"));
        }
        self.power_on()?;
        Ok(true)
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Waits for the machine's end at a terminal.
    pub fn wait(&mut self) -> Outcome {
        loop {
            let status = self.qemu.wait().map_err(|e| Failure::new(format!("waiting for QEMU: {e}")))?;
            if !status.success() {
                return Err(Failure::new(format!("QEMU ended with {status}")));
            }
            if !self.end.was_reset() {
                return Ok(());
            }
            self.power_on()?;
        }
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_for_end(&mut self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.qemu.try_wait().ok().flatten().is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(Failure::new("the machine does not switch itself off"))
    }

    /// Waits until all services have been started; answers a root shell on the second serial line.
    pub fn up(&self, limit: Duration) -> Result<Shell, Failure> {
        let deadline = Instant::now() + limit;
        let on_console = |failure: Failure| {
            let log = fs::read(self.console_log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            Failure::new(format!("{}; the console says:\n{}", failure.text, tail.join("\n")))
        };
        let mut shell = Shell::open(&self.sockets.join("shell.sock"), limit).map_err(on_console)?;
        while shell.run("systemctl is-active --quiet pitstop.target", limit)?.code != 0 {
            if Instant::now() > deadline {
                let jobs = shell.run("systemctl list-jobs --no-legend", limit)?.text;
                return Err(Failure::new(format!(
                    "pitstop.target is not reached after {limit:?}; it waits for\n{jobs}"
                )));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(shell)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// Copies a disk without the blocks that hold nothing.
pub fn sparse_copy(from: &Path, to: &Path) -> Outcome {
    output(Command::new("cp").args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to)).map(drop)
}

/// A program that ends when we do, however that happens.
pub fn dependent(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

fn power_on(
    dir: &Path,
    sockets: &Path,
    console: Console,
    disks: &[PathBuf],
    log: Option<&Path>,
) -> Result<(Child, Child, Monitor), Failure> {
    // Those of the last time would be taken for the new ones.
    for old in ["tpm.sock", "shell.sock", "monitor.sock"] {
        let _ = fs::remove_file(sockets.join(old));
    }
    let tpm = start_tpm(dir, sockets)?;
    let mut qemu = emulator(dir, sockets, console);
    disk(&mut qemu, &dir.join("disk.img"), log);
    for (at, file) in disks.iter().enumerate() {
        qemu.args(["-drive", &format!("if=none,id=more{at},format=raw,readonly=on,file={}", file.display())]);
        qemu.args(["-device", &format!("virtio-blk-pci,drive=more{at}")]);
    }
    let qemu = qemu.spawn().map_err(|e| Failure::new(format!("cannot start qemu-system-x86_64: {e}")))?;
    let end = Monitor::watch(&sockets.join("monitor.sock"))?;
    Ok((tpm, qemu, end))
}

/// swtpm, which wants absolute paths.
fn start_tpm(dir: &Path, sockets: &Path) -> Result<Child, Failure> {
    let socket = sockets.join("tpm.sock");
    let state = dir.join("tpm").canonicalize().map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
    let child = dependent("swtpm")
        .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", state.display())])
        .args(["--ctrl", &format!("type=unixio,path={}", socket.display())])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| Failure::new(format!("cannot start swtpm: {e}")))?;
    for _ in 0..100 {
        if socket.exists() {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::new("swtpm made no socket in 5 s"))
}

fn disk(qemu: &mut Command, file: &Path, log: Option<&Path>) {
    let Some(log) = log else {
        qemu.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", file.display())]);
        qemu.args(["-device", "virtio-blk-pci,drive=disk"]);
        return;
    };
    // The guest's flushes end in the log: the machine that emulates keeps its power.
    let cached = |file: &Path| json!({ "driver": "file", "filename": file, "cache": { "no-flush": true } });
    let recorded = json!({
        "driver": "blklogwrites",
        "node-name": "disk",
        "file": cached(file),
        "log": cached(log),
        "log-append": true,
    });
    qemu.args(["-blockdev", &recorded.to_string()]);
    // QEMU before 9.0 may log such requests in the wrong place when others come between.
    qemu.args(["-device", "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off"]);
}

fn emulator(dir: &Path, sockets: &Path, console: Console) -> Command {
    let mut qemu = dependent("qemu-system-x86_64");
    // Emulated unless asked otherwise: a /dev/kvm that can be opened may still not work, as inside another virtual machine.
    let kvm = std::env::var_os("PITSTOP_KVM").is_some();
    qemu.args(if kvm { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg,thread=multi", "-cpu", "max"] });
    qemu.args(["-machine", "q35", "-smp", "2", "-m", "1024", "-display", "none", "-nodefaults"]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}")]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", dir.join("efi-variables.fd").display())]);
    qemu.args(["-chardev", &format!("socket,id=tpm,path={}", sockets.join("tpm.sock").display())]);
    qemu.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]);
    let forwarded = [(DIAGNOSTIC_PORT, 13400), (LOGIN_PORT, 22)];
    let forwarded = forwarded.map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
    qemu.args(["-netdev", &format!("user,id=net{}", forwarded.concat())]);
    qemu.args(["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"]);
    // A hang of the guest restarts it, as the hardware's watchdog would. A restart ends this process; see `Machine::restarted`.
    qemu.args(["-device", "i6300esb", "-action", "watchdog=reset", "-action", "reboot=shutdown"]);
    qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", sockets.join("monitor.sock").display())]);
    // Two controllers on one bus: the TCU's own, and the far end for the simulated ECUs. The image names them by these addresses.
    qemu.args(["-object", "can-bus,id=can0"]);
    qemu.args(["-device", "kvaser_pci,canbus=can0,addr=10", "-device", "kvaser_pci,canbus=can0,addr=11"]);
    match console {
        Console::Terminal => qemu.args(["-serial", "mon:stdio"]),
        Console::Log => {
            qemu.stdin(Stdio::null());
            qemu.args(["-serial", &format!("file:{}", dir.join("console.log").display())])
        }
    };
    qemu.args(["-serial", &format!("unix:{},server=on,wait=off", sockets.join("shell.sock").display())]);
    qemu
}
