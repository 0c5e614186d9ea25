//! What stands around the emulated TCU and keeps its power when that loses it: backend and broker, simulated control units with
//! their buses, and the ways by which the guest reaches them.
//!
//! `cargo xtask qemu --scenario` (or `--vehicle`) starts it and talks to it: it prints one JSON line when all is ready, then answers each word on
//! standard input with one JSON line: `campaign BUNDLE` publishes the control units' new software with this bundle of the TCU's and
//! starts a campaign with it, `package BUNDLE` publishes the same and makes a workshop's package of the TCU's, `state` tells what the backend says of the vehicle,
//! `power off` takes the power from every simulated control unit and `power on` gives it back.
//! It ends with its standard input.

#![allow(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use pitstop_end_to_end::backend::{Backend, Hosting};
use pitstop_end_to_end::firmware;
use pitstop_end_to_end::programs::Programs;
use pitstop_end_to_end::simulator::Simulator;
use pitstop_end_to_end::world::VIN;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Parser)]
#[command(about = "Backend and simulated control units for a TCU in QEMU")]
struct Arguments {
    /// Folder for logs, flash and bundles.
    #[arg(long)]
    dir: PathBuf,
    /// The backend's data folder, whose roots the image trusts.
    #[arg(long)]
    backend: PathBuf,
    /// Folder of the keys that sign bundles.
    #[arg(long)]
    keys: PathBuf,
    /// The TCU's bundle of the software that it runs.
    #[arg(long)]
    tcu_before: PathBuf,
    /// Port for the far end of the CAN buses.
    #[arg(long)]
    can_port: u16,
    /// Port of the DoIP gateway.
    #[arg(long)]
    doip_port: u16,
    /// Speed of buses and flash, times real time.
    #[arg(long, default_value_t = 1.0)]
    bus_speed: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// All that runs.
struct Host {
    backend: Backend,
    simulator: Simulator,
    dir: PathBuf,
    program: PathBuf,
    /// The control units' new software.
    after: Vec<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    let host = Host::start(&arguments).await?;
    let token = host.backend.rest().register(VIN).await.context("registering the vehicle")?;
    println!("{}", json!({ "token": token, "admin": host.backend.rest().browser_url(), "vin": VIN }));
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    while let Some(word) = words.next_line().await? {
        let answer = match host.answer(word.trim()).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        println!("{answer}");
    }
    Ok(())
}

impl Host {
    async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let (dir, logs) = (&arguments.dir, arguments.dir.join("log"));
        std::fs::create_dir_all(&logs)?;
        let bundles = dir.join("firmware");
        let (mut before, after) = firmware::ecu_bundles(&bundles, &programs.bundle_tool, &arguments.keys)?;
        before.push(arguments.tcu_before.clone());
        let hub = dir.join("hub.sock");
        let (speed, seed) = (arguments.bus_speed, arguments.seed);
        let vehicle = vehicle(dir, &programs.vehicle)?;
        let simulator =
            Simulator::start(&dir.join("ecus"), &hub, &programs.ecu_sim, &vehicle, speed, seed, &logs).await?;
        reach(arguments, &simulator).await?;
        let backend = Backend::open(&arguments.backend, &programs.backend, Hosting::Process, &logs).await?;
        backend.rest().publish_initial(&before).await.context("publishing what vehicles have")?;
        Ok(Self { backend, simulator, dir: dir.clone(), program: programs.backend, after })
    }

    /// The control units' new software with this bundle of the TCU's.
    async fn publish(&self, bundle: &str) -> anyhow::Result<String> {
        let mut bundles = self.after.clone();
        bundles.push(PathBuf::from(bundle));
        let name = Path::new(bundle).file_stem().unwrap_or_default().to_string_lossy();
        self.backend.rest().publish_update(&name, &bundles).await
    }

    async fn answer(&self, word: &str) -> anyhow::Result<Value> {
        let rest = self.backend.rest();
        match word.split_once(' ').unwrap_or((word, "")) {
            ("campaign", bundle) => {
                let release = self.publish(bundle).await?;
                Ok(json!({ "campaign": rest.campaign(&release, &[VIN]).await? }))
            }
            ("package", bundle) => {
                let release = self.publish(bundle).await?;
                let out = self.dir.join("package.tar");
                let mut make = tokio::process::Command::new(&self.program);
                make.arg("offline-package").arg("--dir").arg(&self.backend.dir).args(["--release", &release]);
                make.arg("--keys").arg(self.backend.dir.join("offline-keys")).arg("--out").arg(&out);
                let status = make.stdout(std::process::Stdio::null()).status().await?;
                anyhow::ensure!(status.success(), "offline-package: {status}");
                Ok(json!({ "package": out }))
            }
            ("state", _) => {
                let vehicle = rest.get(&format!("/api/v1/vehicles/{VIN}")).await?;
                let newest = vehicle["assignments"].as_array().and_then(|all| all.last()).cloned();
                Ok(newest.unwrap_or(Value::Null))
            }
            ("power", state @ ("on" | "off")) => self.power(state == "on").await,
            ("digests", _) => self.simulator.control(&json!({ "command": "digests" })).await,
            _ => bail!("there is no word {word:?}"),
        }
    }

    /// Takes the power from every control unit, or gives it back.
    async fn power(&self, on: bool) -> anyhow::Result<Value> {
        let known = self.simulator.control(&json!({ "command": "ecus" })).await?;
        let ecus = ids(&known);
        anyhow::ensure!(!ecus.is_empty(), "the simulator names no control unit: {known}");
        for ecu in &ecus {
            self.simulator.control(&json!({ "command": "power", "ecu": ecu, "on": on })).await?;
        }
        Ok(json!({ "power": on, "ecus": ecus }))
    }
}

/// Identifiers in the simulator's answer to `ecus`.
fn ids(answer: &Value) -> Vec<&str> {
    let listed = answer["ecus"].as_array().into_iter().flatten();
    listed.filter_map(|ecu| ecu["id"].as_str()).collect()
}

/// The simulated vehicle as QEMU's buses allow it. An emulated SJA1000 keeps 64 bytes, five frames, and its bus takes no time: a
/// sixth frame before the guest has read the first is lost. So ECUs on the classic bus take four at a time; and short blocks, because a
/// lost frame costs the block that it belongs to.
fn vehicle(dir: &Path, demonstration: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(demonstration).context("reading the simulated vehicle")?;
    let folder = demonstration.parent().context("a file lies in a folder")?;
    let classic = r#"address = { kind = "can", bus = "can0""#;
    anyhow::ensure!(text.contains(classic), "no ECU is on can0");
    let text = text
        .replace(classic, &format!("frames_per_block = 4\nmax_block = 514\n{classic}"))
        .replace("dbc = \"", &format!("dbc = \"{}/", folder.display()));
    let file = dir.join("vehicle.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Opens the ways from the guest: frames to the hub, DoIP to the gateway.
async fn reach(arguments: &Arguments, simulator: &Simulator) -> anyhow::Result<()> {
    let can = listen(arguments.can_port).await?;
    let hub = simulator.hub.clone();
    tokio::spawn(async move { told("CAN relay", pitstop_can_bridge::relay(can, Path::new(&hub)).await) });
    let doip = listen(arguments.doip_port).await?;
    let gateway = simulator.doip.clone();
    tokio::spawn(async move { told("DoIP relay", forward(doip, gateway).await) });
    Ok(())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("listening at port {port}"))
}

async fn forward(listener: TcpListener, to: String) -> io::Result<()> {
    loop {
        let (mut peer, _) = listener.accept().await?;
        let to = to.clone();
        tokio::spawn(async move {
            let Ok(mut gateway) = TcpStream::connect(&to).await else { return };
            // Either side may end; the other learns it.
            let _ = tokio::io::copy_bidirectional(&mut peer, &mut gateway).await;
        });
    }
}

fn told(name: &str, ended: io::Result<()>) {
    if let Err(error) = ended {
        eprintln!("{name}: {error}");
    }
}
