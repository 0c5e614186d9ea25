//! A hint on a real bus, from a service that comes up after this one, goes, and comes again.

use std::io::Read as _;
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;
use zbus::connection::Builder;

use crate::hints::hear_hints;
use crate::service::Command;

/// A bus that lets everybody do everything that the manager's own policy file does not deny.
const OPEN: &str = r#"<busconfig><type>custom</type><listen>unix:path=SOCKET</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/>
<allow send_type="signal"/><allow receive_type="signal"/><allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/></policy><include>POLICY</include></busconfig>"#;

const POLICY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs-overlay/usr/share/dbus-1/system.d/io.pitstop.Ota1.Manager.conf");

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the daemon and waits until it says its address.
fn bus(folder: &std::path::Path) -> (Daemon, String) {
    let socket = folder.join("bus");
    let config = folder.join("bus.conf");
    std::fs::write(&config, OPEN.replace("SOCKET", socket.to_str().unwrap()).replace("POLICY", POLICY)).unwrap();
    let mut daemon = Program::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--nopidfile", "--print-address=1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("dbus-daemon is installed (cargo xtask setup)");
    let mut first = [0];
    daemon.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    (Daemon(daemon), format!("unix:path={}", socket.display()))
}

async fn connect(address: &str) -> zbus::Connection {
    Builder::address(address).build().await.unwrap()
}

#[tokio::test]
async fn a_hint_is_heard_from_a_backend_link_that_came_later_and_from_its_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let (_daemon, address) = bus(folder.path());
    let (commands, mut received) = mpsc::channel(8);
    let manager = connect(&address).await;
    // With its name the policy file applies: it must keep callers away, and not signals.
    manager.request_name("io.pitstop.Ota1.Manager").await.unwrap();
    tokio::spawn(hear_hints(manager, commands));
    for _life in 0..2 {
        let link = connect(&address).await;
        link.request_name("io.pitstop.Ota1.BackendLink").await.unwrap();
        // The first may be sent before the manager listens: a hint that is lost is sent again.
        let heard = async {
            loop {
                let emitted = link.emit_signal(
                    None::<&str>,
                    "/io/pitstop/Ota1/BackendLink",
                    "io.pitstop.Ota1.BackendLink",
                    "Hint",
                    &"offer",
                );
                emitted.await.unwrap();
                if let Ok(command) = tokio::time::timeout(Duration::from_millis(50), received.recv()).await {
                    return command;
                }
            }
        };
        let command = tokio::time::timeout(Duration::from_secs(10), heard).await.expect("no hint was heard");
        assert!(matches!(command, Some(Command::Check(_))));
        while received.try_recv().is_ok() {}
    }
}
