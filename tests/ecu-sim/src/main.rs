//! `ecu-sim`: the simulated vehicle as a process of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use pitstop_ecu_sim::{Fault, Options, Software, Vehicle};
use pitstop_types::EcuId;

/// Simulated ECUs and the CAN hub they meet on.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The vehicle (TOML).
    #[arg(long)]
    vehicle: PathBuf,
    /// Unix socket of the CAN hub; without it a new one in the temporary folder.
    #[arg(long)]
    hub: Option<PathBuf>,
    /// Where the DoIP gateway listens; port 0: any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve CAN peers by the socketcand protocol here.
    #[arg(long)]
    socketcand: Option<SocketAddr>,
    /// Unix socket for faults, signals and digests.
    #[arg(long)]
    control: Option<PathBuf>,
    /// Folder that keeps the ECUs' flash from one start to the next.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Times real speed, for buses, flash and boot alike.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    bus_speed: f64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First software of an ECU: ECU=FILE,NUMBER,VERSION,COUNTER; the address is the vehicle file's.
    #[arg(long, value_name = "SOFTWARE")]
    flash: Vec<String>,
    /// An ECU that starts with blank flash.
    #[arg(long, value_name = "ECU")]
    erased: Vec<EcuId>,
    /// ECU=FAULT: reject-check[:COUNT], nrc:SERVICE:CODE[:COUNT], hang[:COUNT], drop:SERVICE, reset:SERVICE:N.
    #[arg(long, value_name = "ECU=FAULT")]
    fault: Vec<String>,
    /// Print one JSON line when ready (the default is a line for people).
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    log::set_logger(&StderrLog).map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    log::set_max_level(log::LevelFilter::Info);
    let json = arguments.json;
    let options = options(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let hub = options.hub.clone();
        let ready = pitstop_ecu_sim::start(options).await?;
        if json {
            println!("{}", serde_json::to_string(&ready)?);
        } else {
            let gateway = ready.address.as_deref().zip(ready.port);
            let doip = gateway.map_or("none".to_owned(), |(address, port)| format!("{address}:{port}"));
            println!("vehicle {} is up: hub {}, DoIP gateway {doip}", ready.vin, ready.hub.display());
        }
        until_stopped().await?;
        // The next start makes it anew.
        let _ = std::fs::remove_file(hub);
        Ok(())
    })
}

async fn until_stopped() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}

fn options(arguments: Arguments) -> anyhow::Result<Options> {
    let software = software(&arguments)?;
    let faults: anyhow::Result<Vec<_>> = arguments.fault.iter().map(|text| fault(text)).collect();
    let hub =
        arguments.hub.unwrap_or_else(|| std::env::temp_dir().join(format!("ecu-sim-{}.sock", std::process::id())));
    Ok(Options {
        vehicle: arguments.vehicle,
        hub,
        listen: arguments.listen,
        socketcand: arguments.socketcand,
        control: arguments.control,
        state: arguments.state,
        speed: arguments.bus_speed,
        seed: arguments.seed,
        software,
        erased: arguments.erased,
        faults: faults?,
    })
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.001..=10_000.0).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.001 to 10000".into()),
    }
}

fn fault(text: &str) -> anyhow::Result<(EcuId, Fault)> {
    let (ecu, fault) = text.split_once('=').with_context(|| format!("{text:?} is not ECU=FAULT"))?;
    Ok((ecu.parse()?, fault.parse()?))
}

fn software(arguments: &Arguments) -> anyhow::Result<BTreeMap<EcuId, Software>> {
    let mut all = BTreeMap::new();
    if arguments.flash.is_empty() {
        return Ok(all);
    }
    let vehicle = Vehicle::load(&arguments.vehicle)?;
    for text in &arguments.flash {
        let form = || format!("{text:?} is not ECU=FILE,NUMBER,VERSION,COUNTER");
        let (ecu, rest) = text.split_once('=').with_context(form)?;
        let ecu: EcuId = ecu.parse()?;
        let mut parts = rest.rsplitn(4, ',');
        let (counter, version, number, file) = (parts.next(), parts.next(), parts.next(), parts.next());
        let spec = vehicle.ecus.iter().find(|spec| spec.id == ecu);
        let spec = spec.with_context(|| format!("there is no ECU {ecu}"))?;
        let address = spec.software.as_ref().map_or(spec.memory.base, |software| software.address);
        let software = Software {
            file: file.with_context(form)?.into(),
            address,
            number: number.with_context(form)?.into(),
            version: version.with_context(form)?.parse()?,
            counter: counter.with_context(form)?.parse()?,
        };
        all.insert(ecu, software);
    }
    Ok(all)
}

/// Lines on standard error.
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}
