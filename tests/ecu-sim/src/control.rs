//! The control socket: one JSON object per line each way, for tests and people.
//!
//! - `{"command":"ecus"}`: state, banks, versions and digests of every ECU;
//! - `{"command":"digests"}`: SHA-256 of every bank, by ECU, and nothing that changes by itself;
//! - `{"command":"fault","ecu":E,"fault":F}`: see [`crate::Fault`] for F; `{"command":"clear-faults"[,"ecu":E]}`;
//! - `{"command":"power","ecu":E,"on":bool}`;
//! - `{"command":"signals"}`; `{"command":"signal","name":N,"value":number or null}`, null: not available.
//!
//! An answer with `error` means that nothing was done.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use pitstop_types::EcuId;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::actor::{EcuHandle, Ended};
use crate::can::SignalValues;
use crate::fault::{Fault, FaultError};

/// Longest request line, in bytes.
const MAX_LINE: u64 = 4096;

/// What the socket commands.
#[derive(Debug, Clone)]
pub struct Control {
    pub ecus: BTreeMap<EcuId, EcuHandle>,
    pub signals: SignalValues,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "command", rename_all = "kebab-case")]
enum Command {
    Ecus,
    Digests,
    Fault { ecu: EcuId, fault: String },
    ClearFaults { ecu: Option<EcuId> },
    Power { ecu: EcuId, on: bool },
    Signals,
    Signal { name: String, value: Option<f64> },
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request is not understood: {0}")]
    Request(#[from] serde_json::Error),
    #[error("there is no ECU {0}")]
    UnknownEcu(EcuId),
    #[error("no ECU broadcasts a signal {0}")]
    UnknownSignal(String),
    #[error(transparent)]
    Fault(#[from] FaultError),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Control {
    /// Serves the socket; an old socket file is replaced.
    pub fn listen(self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let control = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = control.serve(stream).await {
                        log::debug!("a control connection ended: {error}");
                    }
                });
            }
        });
        Ok(())
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        loop {
            let mut line = String::new();
            if (&mut read).take(MAX_LINE).read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let answer = self.answer(&line).await.unwrap_or_else(|refusal| json!({ "error": refusal.to_string() }));
            write.write_all(format!("{answer}\n").as_bytes()).await?;
        }
    }

    async fn answer(&self, line: &str) -> Result<Value, Refusal> {
        match serde_json::from_str(line)? {
            Command::Ecus => {
                let mut ecus = Vec::new();
                for ecu in self.ecus.values() {
                    ecus.push(ecu.report().await?);
                }
                return Ok(json!({ "ecus": ecus }));
            }
            Command::Digests => {
                let mut digests = BTreeMap::new();
                for (id, ecu) in &self.ecus {
                    digests.insert(id.to_string(), ecu.report().await?.digests);
                }
                return Ok(json!({ "digests": digests }));
            }
            Command::Fault { ecu, fault } => self.ecu(ecu)?.add_fault(fault.parse::<Fault>()?).await?,
            Command::ClearFaults { ecu: Some(ecu) } => self.ecu(ecu)?.clear_faults().await?,
            Command::ClearFaults { ecu: None } => {
                for ecu in self.ecus.values() {
                    ecu.clear_faults().await?;
                }
            }
            Command::Power { ecu, on } => self.ecu(ecu)?.set_power(on).await?,
            Command::Signals => return Ok(json!({ "signals": self.signals.all() })),
            Command::Signal { name, value } => {
                if !self.signals.set(&name, value) {
                    return Err(Refusal::UnknownSignal(name));
                }
            }
        }
        Ok(json!({ "ok": true }))
    }

    fn ecu(&self, id: EcuId) -> Result<&EcuHandle, Refusal> {
        self.ecus.get(&id).ok_or(Refusal::UnknownEcu(id))
    }
}
