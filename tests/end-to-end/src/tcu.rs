//! The TCU: its root folder, its nine services, and the part of a machine that restarts them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::unistd::{Group, User, chown};

use crate::process::{Program, Start, run};

/// The services in the order in which the image starts them.
pub const SERVICES: &[&str] = &[
    "vehicle-state",
    "hmi",
    "flasher",
    "self-update",
    "validator",
    "backend-link",
    "downloader",
    "uds-server",
    "manager",
];

/// A TCU on a developer's machine: real services, real boot environment and slot files, simulated restart.
#[derive(Debug)]
pub struct Tcu {
    pub root: PathBuf,
    pitstopd: PathBuf,
    bus: String,
    logs: PathBuf,
    /// One system user per service (as root), or all as we are.
    separate_users: bool,
    running: Vec<Program>,
    pub slot: String,
    /// Starts since the beginning, the first included.
    pub starts: u32,
    /// Services that no start starts.
    masked: Vec<String>,
}

/// What differs from one demonstration to the next.
#[derive(Debug)]
pub struct Wiring<'a> {
    pub bus: &'a str,
    pub overrides: &'a [(&'a str, String)],
    pub keyring: &'a Path,
    pub director_root: &'a Path,
    pub image_root: &'a Path,
    pub rootfs: &'a Path,
}

impl Tcu {
    /// Lays out the root folder: the overlay's files, the integrator's overrides, keys, two slots with software in A.
    pub fn build(
        root: &Path,
        overlay: &Path,
        pitstopd: &Path,
        logs: &Path,
        wiring: &Wiring<'_>,
    ) -> anyhow::Result<Self> {
        let separate_users = nix::unistd::geteuid().is_root();
        copy_tree(overlay, root)?;
        let lib = root.join("usr/lib/pitstop");
        fs::create_dir_all(lib.join("uptane/director"))?;
        fs::create_dir_all(lib.join("uptane/image"))?;
        fs::create_dir_all(root.join("etc/pitstop"))?;
        fs::copy(wiring.keyring, lib.join("keyring.pem"))?;
        fs::copy(wiring.director_root, lib.join("uptane/director/root.json"))?;
        fs::copy(wiring.image_root, lib.join("uptane/image/root.json"))?;
        for (file, text) in wiring.overrides {
            fs::write(root.join("etc/pitstop").join(file), text)?;
        }
        open_to_all(root)?;
        // Not run from where it was built: that folder may be closed to the services' users.
        let program = root.join("usr/libexec/pitstop/pitstopd");
        fs::create_dir_all(root.join("usr/libexec/pitstop"))?;
        fs::copy(pitstopd, &program)?;
        open_to_all(&root.join("usr/libexec"))?;
        let tcu = Self {
            root: root.to_owned(),
            pitstopd: program,
            bus: wiring.bus.to_owned(),
            logs: logs.to_owned(),
            separate_users,
            running: Vec::new(),
            slot: "A".to_owned(),
            starts: 0,
            masked: Vec::new(),
        };
        tcu.make_slots(wiring.rootfs)?;
        tcu.make_state_folders()?;
        Ok(tcu)
    }

    fn make_slots(&self, rootfs: &Path) -> anyhow::Result<()> {
        let (slots, boot) = (self.root.join("slots"), self.root.join("boot/grub"));
        fs::create_dir_all(&slots)?;
        fs::create_dir_all(&boot)?;
        fs::create_dir_all(self.root.join("run/pitstop"))?;
        fs::copy(rootfs, slots.join("a.img"))?;
        let length = fs::metadata(rootfs)?.len();
        fs::File::create(slots.join("b.img"))?.set_len(length)?;
        // As the factory leaves it: A committed, B empty.
        let mut environment = String::from("# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n");
        environment.push_str(&"#".repeat(1024 - environment.len()));
        fs::write(boot.join("grubenv"), &environment)?;
        fs::write(boot.join("grubenv.copy"), &environment)?;
        self.give(
            "self-update",
            &[
                &slots,
                &slots.join("a.img"),
                &slots.join("b.img"),
                &boot,
                &boot.join("grubenv"),
                &boot.join("grubenv.copy"),
            ],
        )
    }

    fn make_state_folders(&self) -> anyhow::Result<()> {
        for service in SERVICES {
            let state = self.root.join("var/lib/pitstop").join(service);
            fs::create_dir_all(&state)?;
            fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
            self.give(service, &[&state])?;
        }
        // Who may ask for a restart, and nobody else.
        let requests = self.root.join("run/pitstop/restart");
        fs::create_dir_all(&requests)?;
        self.give("self-update", &[&requests])
    }

    /// Makes a service's user the owner of files.
    fn give(&self, service: &str, paths: &[&Path]) -> anyhow::Result<()> {
        if !self.separate_users {
            return Ok(());
        }
        let name = format!("pitstop-{service}");
        let user =
            User::from_name(&name)?.with_context(|| format!("there is no user {name}; run: cargo xtask setup"))?;
        let group = Group::from_name(&name)?.map(|g| g.gid);
        for path in paths {
            chown(*path, Some(user.uid), group).with_context(|| format!("giving {} to {name}", path.display()))?;
        }
        Ok(())
    }

    /// Starts as the boot loader would: decides the slot by the boot environment, then starts all services of it.
    pub fn boot(&mut self) -> anyhow::Result<()> {
        let root = self.root.to_str().context("the root's path is not UTF-8")?;
        let decision = run(&self.pitstopd, &["boot-decision", "--root", root, "--json"])?;
        let decision: serde_json::Value = serde_json::from_str(decision.trim()).context("reading the boot decision")?;
        self.slot = decision["slot"].as_str().context("the boot decision names no slot")?.to_owned();
        fs::write(self.root.join("run/cmdline"), format!("root=PARTLABEL=slot rauc.slot={}\n", self.slot))?;
        fs::set_permissions(self.root.join("run/cmdline"), fs::Permissions::from_mode(0o644))?;
        self.starts += 1;
        let boot_id = self.root.join("run/pitstop/boot-id");
        fs::write(&boot_id, format!("start-{}\n", self.starts))?;
        fs::set_permissions(&boot_id, fs::Permissions::from_mode(0o644))?;
        for service in SERVICES {
            if !self.is_masked(service) {
                let program = self.spawn(service)?;
                self.running.push(program);
            }
        }
        Ok(())
    }

    /// Ends services for good: no start brings them back.
    pub async fn mask(&mut self, services: &[&str]) -> anyhow::Result<()> {
        for service in services {
            self.masked.push((*service).to_owned());
            self.stop_service(service).await?;
        }
        Ok(())
    }

    /// The next start starts all services again.
    pub fn unmask(&mut self) {
        self.masked.clear();
    }

    pub fn is_masked(&self, service: &str) -> bool {
        self.masked.iter().any(|masked| masked == service)
    }

    fn spawn(&self, service: &str) -> anyhow::Result<Program> {
        let start = Start {
            name: service,
            program: self.pitstopd.clone(),
            args: vec![service.to_owned(), "--root".to_owned(), self.root.display().to_string()],
            user: self.separate_users.then(|| format!("pitstop-{service}")),
            environment: vec![("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), self.bus.clone())],
        };
        start.spawn(&self.logs)
    }

    /// Takes the power away from everything on the TCU.
    pub fn cut_power(&mut self) {
        for program in &mut self.running {
            program.kill();
        }
        self.running.clear();
        let _ = fs::remove_file(self.restart_request());
    }

    /// Ends all services in an orderly way.
    pub async fn shut_down(&mut self) {
        for program in self.running.iter_mut().rev() {
            program.stop().await;
        }
        self.running.clear();
    }

    /// Does what a machine does by itself: restarts when asked to, and starts again what ended. True: it restarted.
    pub async fn tick(&mut self) -> anyhow::Result<bool> {
        if self.restart_request().exists() {
            self.shut_down().await;
            let _ = fs::remove_file(self.restart_request());
            self.boot()?;
            return Ok(true);
        }
        for at in 0..self.running.len() {
            let Some(program) = self.running.get_mut(at) else { break };
            if !program.is_running() {
                let name = program.name().to_owned();
                let again = self.spawn(&name)?;
                self.running.insert(at, again);
                self.running.remove(at + 1);
            }
        }
        Ok(false)
    }

    fn restart_request(&self) -> PathBuf {
        self.root.join("run/pitstop/restart/request")
    }

    pub fn separate_users(&self) -> bool {
        self.separate_users
    }

    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Process ids of the services, by name.
    pub fn pids(&self) -> Vec<(String, i32)> {
        self.running.iter().map(|p| (p.name().to_owned(), p.pid())).collect()
    }

    /// Stops one service for good (a test's "with manager stopped").
    pub async fn stop_service(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self.running.iter().position(|p| p.name() == name);
        let at = at.with_context(|| format!("{name} is not running"))?;
        let mut program = self.running.remove(at);
        program.stop().await;
        Ok(())
    }
}

/// Copies a folder with what lies below it.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    ensure!(from.is_dir(), "{} is not a folder", from.display());
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Lets every user read what lies below a folder, whatever the umask was.
fn open_to_all(path: &Path) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() && !found.is_file() {
        return Ok(());
    }
    let executable = found.is_dir() || found.permissions().mode() & 0o100 != 0;
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}
