//! A private system bus under the image's own policy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process::{Program, Start};

/// The running bus and its address.
#[derive(Debug)]
pub struct Bus {
    pub address: String,
    _daemon: Program,
}

/// What Debian's system.conf allows everybody, without its activation.
const RULES: &str = r#"
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="UpdateActivationEnvironment"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
"#;

/// For one who is not root: there are no other users, so there is nothing to keep apart.
const NO_RULES: &str = r#"
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_type="method_call"/> <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/> <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/> <allow receive_type="method_return"/> <allow receive_type="error"/> <allow receive_type="signal"/>
    <allow send_destination="*"/>
  </policy>
"#;

impl Bus {
    /// Starts dbus-daemon; with `policies`, under the policy files in that folder.
    pub async fn start(dir: &Path, logs: &Path, policies: Option<&Path>) -> anyhow::Result<Self> {
        let socket = dir.join("bus.sock");
        let address = format!("unix:path={}", socket.display());
        let rules = match policies {
            Some(folder) => format!("{RULES}\n  <includedir>{}</includedir>", folder.display()),
            None => NO_RULES.to_owned(),
        };
        let config = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\n  <type>custom</type>\n  <listen>{address}</listen>\n  <auth>EXTERNAL</auth>{rules}\n</busconfig>\n"
        );
        let file = dir.join("bus.conf");
        fs::write(&file, config)?;
        let start = Start {
            name: "dbus-daemon",
            program: PathBuf::from("dbus-daemon"),
            args: vec![format!("--config-file={}", file.display()), "--nofork".into(), "--nopidfile".into()],
            user: None,
            environment: Vec::new(),
        };
        let mut daemon = start.spawn(logs)?;
        for _ in 0..500 {
            if socket.exists() {
                return Ok(Self { address, _daemon: daemon });
            }
            if !daemon.is_running() {
                bail!("dbus-daemon ended at once; see {}", logs.join("dbus-daemon.err").display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("dbus-daemon made no socket in 5 s")
    }

    /// A connection of our own.
    pub async fn connect(&self) -> anyhow::Result<zbus::Connection> {
        zbus::connection::Builder::address(self.address.as_str())
            .method_timeout(Duration::from_secs(30))
            .build()
            .await
            .context("connecting to the private bus")
    }
}
