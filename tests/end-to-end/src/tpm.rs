//! The TCU's TPM: swtpm, whose state outlives the TCU's power cuts as a chip's would.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

use crate::process::{Program, Start, free_port_pair};

#[derive(Debug)]
pub struct Tpm {
    /// TCTI configuration for the services.
    pub tcti: String,
    _daemon: Program,
}

impl Tpm {
    pub async fn start(dir: &Path, logs: &Path) -> anyhow::Result<Self> {
        let state = dir.join("tpm");
        fs::create_dir_all(&state)?;
        let port = free_port_pair()?;
        let start = Start {
            name: "swtpm",
            program: PathBuf::from("swtpm"),
            args: [
                "socket",
                "--tpm2",
                "--tpmstate",
                &format!("dir={}", state.display()),
                "--server",
                &format!("type=tcp,port={port},bindaddr=127.0.0.1"),
                "--ctrl",
                &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1),
                "--flags",
                "not-need-init,startup-clear",
            ]
            .map(str::to_owned)
            .to_vec(),
            user: None,
            environment: Vec::new(),
        };
        let mut daemon = start.spawn(logs)?;
        // Only the control port may be tried: swtpm ends when a client leaves its server port.
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port + 1)).is_ok() {
                return Ok(Self { tcti: format!("swtpm:host=127.0.0.1,port={port}"), _daemon: daemon });
            }
            if !daemon.is_running() {
                bail!("swtpm ended at once; see {}", logs.join("swtpm.err").display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("swtpm does not answer after 5 s")
    }
}
