//! Calls that must not succeed, on the real bus under the real policy, by a process of the user named.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use pitstop_end_to_end::world::VIN;
use serde_json::Value;

use crate::drive::Drive;

const SERVICES: [&str; 9] =
    ["Manager", "BackendLink", "Downloader", "Validator", "Hmi", "Flasher", "SelfUpdate", "UdsServer", "VehicleState"];
const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// Who calls.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// root in no group.
    Root,
    /// Somebody in the administrators' group.
    Admin,
    Manager,
    UdsServer,
}

impl Caller {
    fn rights(self) -> &'static [&'static str] {
        match self {
            Self::Root => &["--reuid=root", "--regid=root", "--clear-groups"],
            Self::Admin => &["--reuid=nobody", "--regid=pitstop-admin", "--clear-groups"],
            Self::Manager => &["--reuid=pitstop-manager", "--regid=pitstop-manager", "--init-groups"],
            Self::UdsServer => &["--reuid=pitstop-uds-server", "--regid=pitstop-uds-server", "--init-groups"],
        }
    }
}

#[tokio::test]
async fn arguments_of_wrong_types_are_named_and_change_nothing() -> anyhow::Result<()> {
    let drive = Drive::start(&[]).await?;
    let probe = Probe::new(&drive)?;
    let before = owners(&drive).await?;
    for (caller, name, least) in [(Caller::Manager, "manager", 20), (Caller::Admin, "admin", 5)] {
        let answers = probe.call(caller, &["malformed", name])?;
        let answers = answers["ok"].as_array().with_context(|| format!("{answers}"))?;
        ensure!(answers.len() >= least, "only {} calls were tried as {name}", answers.len());
        for answer in answers {
            ensure!(answer["error"] == INVALID_ARGS, "{answer}");
        }
    }
    ensure!(before == owners(&drive).await?, "a service was restarted");
    Ok(())
}

#[tokio::test]
async fn the_bus_denies_what_the_policy_does_not_name() -> anyhow::Result<()> {
    let drive = Drive::start(&[]).await?;
    if !drive.world.tcu.separate_users() {
        eprintln!("not root: there are no users to keep apart, so nothing was tried");
        return Ok(());
    }
    let probe = Probe::new(&drive)?;
    let before = owners(&drive).await?;
    let install = [("Flasher", "Stage"), ("SelfUpdate", "Reboot"), ("Validator", "Admit"), ("Downloader", "Fetch")];
    for caller in [Caller::Root, Caller::Admin] {
        for (service, member) in install {
            let answer = probe.call(caller, &["member", service, member])?;
            ensure!(answer["error"] == ACCESS_DENIED, "{service}.{member} as {caller:?}: {answer}");
        }
    }
    for (caller, service, member) in [
        (Caller::Root, "Manager", "Cancel"),
        (Caller::Manager, "BackendLink", "FetchMetadata"),
        (Caller::Manager, "Validator", "OpenAdmitted"),
        (Caller::Manager, "Validator", "ReceiveLocal"),
        (Caller::UdsServer, "Validator", "Admit"),
        (Caller::UdsServer, "Validator", "OpenAdmitted"),
        (Caller::UdsServer, "Validator", "RaiseFloors"),
        (Caller::UdsServer, "SelfUpdate", "Stage"),
        (Caller::UdsServer, "SelfUpdate", "Reboot"),
        (Caller::UdsServer, "VehicleState", "RequestInhibit"),
    ] {
        let answer = probe.call(caller, &["member", service, member])?;
        ensure!(answer["error"] == ACCESS_DENIED, "{service}.{member} as {caller:?}: {answer}");
    }
    for caller in [Caller::Root, Caller::Admin, Caller::Manager] {
        let answer = probe.call(caller, &["member", "SelfUpdate", "Reboot", "--interface", "Workshop"])?;
        ensure!(answer["error"] == ACCESS_DENIED, "Workshop.Reboot as {caller:?}: {answer}");
    }
    let allowed = probe.call(Caller::Admin, &["member", "Manager", "GetStatus"])?;
    ensure!(allowed["ok"].is_null() && allowed["error"].is_null(), "the administrators may look: {allowed}");
    ensure!(before == owners(&drive).await?, "a service was restarted");
    Ok(())
}

#[tokio::test]
async fn a_diagnostic_server_that_has_gone_wrong_installs_nothing_and_reaches_no_other_update() -> anyhow::Result<()> {
    let mut drive = Drive::start(&[]).await?;
    let probe = Probe::new(&drive)?;
    let update = drive.begin_update().await?;
    drive.until_phase("awaiting-consent", std::time::Duration::from_secs(30)).await?;
    let before = drive.world.slot_digests()?;
    let tried = probe.call(Caller::UdsServer, &["diagnose", &update])?;
    for (what, error) in [
        ("stage what nobody admitted", "Busy"),
        ("restart", "WrongPhase"),
        ("activate", "WrongPhase"),
        ("commit the other path's update", "InvalidArgument"),
        ("roll the other path's update back", "InvalidArgument"),
        ("raise floors for the other path's update", "InvalidArgument"),
        ("bring ten gigabytes", "TooLarge"),
    ] {
        ensure!(tried["ok"][what] == format!("io.pitstop.Ota1.Error.{error}"), "{what}: {tried}");
    }
    ensure!(drive.world.slot_digests()? == before, "a slot was written");
    // With the slots free it gets no further.
    drive.world.tcu.mask(&["manager"]).await?;
    drive.world.tcu.cut_power();
    drive.world.tcu.boot()?;
    drive.world.wait_for_services().await?;
    let tried = probe.call(Caller::UdsServer, &["diagnose", &update])?;
    let error = &tried["ok"]["stage what nobody admitted"];
    ensure!(*error == "io.pitstop.Ota1.Error.NotAdmitted", "{tried}");
    ensure!(drive.world.slot_digests()? == before, "a slot was written");
    Ok(())
}

#[tokio::test]
async fn impossible_orders_and_false_bundles_are_refused_by_name() -> anyhow::Result<()> {
    let mut drive = Drive::start(&[]).await?;
    let probe = Probe::new(&drive)?;
    // The probe takes the manager's place.
    drive.world.tcu.stop_service("manager").await?;
    let before = owners(&drive).await?;
    drive.world.backend.rest().campaign(&drive.world.release, &[VIN]).await?;
    let decided = probe.call(Caller::Manager, &["decide"])?;
    let update = decided["ok"].as_str().filter(|update| !update.is_empty()).with_context(|| format!("{decided}"))?;

    let bundle = drive.world.firmware.after.iter().find(|file| file.to_string_lossy().contains("bcm"));
    let bundle = fs::read(bundle.context("there is no bundle for bcm")?)?;
    let zeros = probe.file("zeros.raucb", &vec![0; bundle.len()])?;
    let truncated = probe.file("truncated.raucb", bundle.get(..bundle.len() / 2).unwrap_or_default())?;
    let whole = probe.file("whole.raucb", &bundle)?;
    let sha256 = "0".repeat(64);
    let ten_gb = 10_000_000_000_u64.to_string();
    for (words, error) in [
        (vec!["stage", update, "toaster"], "UnknownEcu"),
        (vec!["stage", update, "no such ECU"], "InvalidArgument"),
        (vec!["stage", update, "adas"], "NotAdmitted"),
        (vec!["fetch", update, &sha256, &ten_gb], "TooLarge"),
        (vec!["fetch", update, "../../etc/passwd", "1000"], "InvalidArgument"),
        (vec!["fetch", update, &sha256, "1000"], "BackendRefused"),
        (vec!["admit", update, "bcm", "target", &zeros], "HashMismatch"),
        (vec!["admit", update, "bcm", "target", &truncated], "LengthMismatch"),
        (vec!["admit", update, "toaster", "target", &whole], "UnknownEcu"),
        (vec!["admit", update, "bcm", "spare", &whole], "InvalidArgument"),
        (vec!["admit", "no-such-update", "bcm", "target", &whole], "UnknownUpdate"),
    ] {
        let answer = probe.call(Caller::Manager, &words)?;
        ensure!(answer["error"] == format!("io.pitstop.Ota1.Error.{error}"), "{words:?} should be {error}: {answer}");
    }
    let whole = probe.call(Caller::Manager, &["admit", update, "bcm", "target", &whole])?;
    ensure!(whole["error"].is_null(), "the right bundle is refused too: {whole}");
    ensure!(before == owners(&drive).await?, "a service was restarted");
    Ok(())
}

/// Process ids of those who own the services' names now.
async fn owners(drive: &Drive) -> anyhow::Result<BTreeMap<&'static str, u32>> {
    let bus = zbus::fdo::DBusProxy::new(&drive.world.connection).await?;
    let mut found = BTreeMap::new();
    for service in SERVICES {
        let name = zbus::names::BusName::try_from(pitstop_dbus::bus_name(service))?;
        if let Ok(pid) = bus.get_connection_unix_process_id(name).await {
            found.insert(service, pid);
        }
    }
    ensure!(found.len() >= SERVICES.len() - 1, "services are missing; these run: {found:?}");
    Ok(found)
}

/// pitstop-probe where every user may start it.
struct Probe {
    program: PathBuf,
    folder: PathBuf,
    bus: String,
    separate_users: bool,
}

impl Probe {
    fn new(drive: &Drive) -> anyhow::Result<Self> {
        let folder = drive.world.dir.join("probe");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let program = folder.join("pitstop-probe");
        fs::copy(Path::new(env!("CARGO_BIN_EXE_pitstop-probe")), &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let separate_users = drive.world.tcu.separate_users();
        Ok(Self { program, folder, bus: drive.world.bus.address.clone(), separate_users })
    }

    fn call(&self, caller: Caller, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = if self.separate_users {
            let mut command = Command::new("setpriv");
            command.args(caller.rights()).arg("--").arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(words).env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus);
        let done = command.output().context("starting pitstop-probe")?;
        let text = String::from_utf8_lossy(&done.stderr);
        serde_json::from_slice(&done.stdout).with_context(|| format!("pitstop-probe {words:?} as {caller:?}: {text}"))
    }

    /// A file that every user may read; its path.
    fn file(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path.display().to_string())
    }
}
