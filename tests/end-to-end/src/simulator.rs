//! The simulated ECUs: a process of its own, which keeps its power when the TCU loses it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::process::{Program, Start};

#[derive(Debug)]
pub struct Simulator {
    /// Socket of the CAN hub.
    pub hub: PathBuf,
    control: PathBuf,
    /// Address and port of the DoIP gateway.
    pub doip: String,
    _program: Program,
}

impl Simulator {
    pub async fn start(
        dir: &Path,
        hub: &Path,
        program: &Path,
        vehicle: &Path,
        bus_speed: f64,
        seed: u64,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (hub, control) = (hub.to_owned(), dir.join("control.sock"));
        let words = [
            "--vehicle".to_owned(),
            vehicle.display().to_string(),
            "--hub".to_owned(),
            hub.display().to_string(),
            "--control".to_owned(),
            control.display().to_string(),
            "--state".to_owned(),
            dir.join("flash").display().to_string(),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--bus-speed".to_owned(),
            bus_speed.to_string(),
            "--seed".to_owned(),
            seed.to_string(),
            "--json".to_owned(),
        ];
        let start = Start {
            name: "ecu-sim",
            program: program.to_owned(),
            args: words.to_vec(),
            user: None,
            environment: Vec::new(),
        };
        let mut running = start.spawn(logs)?;
        let ready = running.ready_line().await?;
        let port = ready["port"].as_u64().context("the simulator did not tell its port")?;
        let address = ready["address"].as_str().unwrap_or("127.0.0.1");
        let doip = if address.contains(':') { address.to_owned() } else { format!("{address}:{port}") };
        Ok(Self { hub, control, doip, _program: running })
    }

    /// One request on the control socket, one JSON line each way.
    pub async fn control(&self, request: &Value) -> anyhow::Result<Value> {
        let stream =
            UnixStream::connect(&self.control).await.context("connecting to the simulator's control socket")?;
        let (read, mut write) = stream.into_split();
        write.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("the simulator answered {line:?}"))?;
        anyhow::ensure!(answer.get("error").is_none(), "the simulator refused {request}: {answer}");
        Ok(answer)
    }
}
