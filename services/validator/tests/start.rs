//! The service as a process of its own on a private bus, from configuration files to SIGTERM.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is the report")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pitstop_bundle_io::keys::{self, Usage};
use pitstop_dbus::{OtaError, ValidatorProxy};
use pitstop_uptane::{MemorySigner, Repository, Role, RootBuilder, Scheme, Signer as _, Time, sign};

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:dir=DIR</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#;

/// Ended when it goes out of scope.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bus(folder: &Path) -> (Process, String) {
    let config = folder.join("bus.conf");
    std::fs::write(&config, BUS.replace("DIR", folder.to_str().unwrap())).unwrap();
    let mut daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--nopidfile", "--print-address"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (Process(daemon), address.trim().to_owned())
}

fn root(repository: Repository) -> Vec<u8> {
    let key = MemorySigner::generate(Scheme::Ed25519).unwrap();
    let mut builder = RootBuilder::new(repository, 1.try_into().unwrap(), Time::from_unix(4_000_000_000).unwrap());
    for role in Role::ALL {
        builder = builder.role(role, [key.public()], 1);
    }
    sign(&builder.build().unwrap(), &[&key]).unwrap().bytes
}

fn write(root: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn furnish(below: &Path) {
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-overlay");
    let copy = |name: &str| write(below, name, std::fs::read(overlay.join(name)).unwrap());
    copy("usr/lib/pitstop/validator.toml");
    copy("etc/pitstop/vehicle.toml");
    let authority = keys::identity("Test CA", Usage::Authority, None, 1_700_000_000, 3650).unwrap();
    write(below, "usr/lib/pitstop/keyring.pem", authority.certificate_pem().unwrap());
    for repository in [Repository::Director, Repository::Image] {
        write(below, &format!("usr/lib/pitstop/uptane/{repository}/root.json"), root(repository));
    }
    let key =
        "[key]\nstore = \"file\"\nfile = \"/var/lib/pitstop/validator/identity.key\"\ninsecure_file_keys = true\n";
    write(below, "etc/pitstop/validator.toml", key);
}

/// This test program again, as the service.
fn service(root: &Path, address: &str) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_the_service", "--ignored", "--nocapture"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", address)
        .env("PITSTOP_TEST_ROOT", root)
        .spawn()
        .unwrap();
    Process(child)
}

#[test]
#[ignore = "the other test starts it as its own process"]
fn as_the_service() {
    let Some(root) = std::env::var_os("PITSTOP_TEST_ROOT") else { return };
    let args = pitstop_runtime::Args { root: root.into(), rest: Vec::new() };
    assert_eq!(pitstop_validator::main(args), std::process::ExitCode::SUCCESS);
}

async fn ready(client: &zbus::Connection) -> ValidatorProxy<'static> {
    let names = zbus::fdo::DBusProxy::new(client).await.unwrap();
    for _ in 0..600 {
        if names.name_has_owner("io.pitstop.Ota1.Validator".try_into().unwrap()).await.unwrap() {
            return ValidatorProxy::new(client).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the service does not come up");
}

#[tokio::test]
async fn the_service_starts_answers_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let (_daemon, address) = bus(folder.path());
    let client = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
    let mut key_ids = Vec::new();
    for _ in 0..2 {
        let mut process = service(folder.path(), &address);
        let proxy = ready(&client).await;
        let status = proxy.get_status().await.unwrap();
        assert_eq!((status.key_store.as_str(), status.trusted), ("file", false));
        assert_eq!(proxy.get_floors().await.unwrap().len(), 5);
        key_ids.push(proxy.get_identity().await.unwrap().0);
        // Nobody else is on this bus: what the manifest needs is not there yet.
        assert!(matches!(proxy.collect_manifest("").await, Err(OtaError::NotReady(_))));
        assert!(matches!(proxy.get_decision("u-1").await, Err(OtaError::UnknownUpdate(_))));
        let pid = nix::unistd::Pid::from_raw(process.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = tokio::task::spawn_blocking(move || process.0.wait().unwrap()).await.unwrap();
        assert!(status.success());
    }
    assert_eq!(key_ids.first(), key_ids.last());
}
