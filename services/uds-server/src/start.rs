//! Starting: as a service on the bus, or alone for outside testers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use pitstop_dbus::SlotRelease;
use pitstop_runtime::{Args, Context};
use tokio::sync::watch;

use crate::bus::UdsServer;
use crate::config::{Input, Settings, Vehicle};
use crate::content::TcuContent;
use crate::engine::{Engine, Sockets};
use crate::software::follow;

/// Runs the service until it is told to end. With `--listen ADDR:PORT --vehicle FILE` it runs without a bus and prints one line of
/// JSON when it is ready: `{"address":"127.0.0.1","port":40123,"logical_address":4352}`.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("uds-server", args, |context| async move {
        match context.args().option("--listen").map(str::to_owned) {
            Some(listen) => alone(&context, &listen).await,
            None => start(&context).await,
        }
    })
}

async fn start(context: &Context) -> anyhow::Result<()> {
    let input: Input = context.config()?;
    let settings = Settings::new(&input)?;
    let vehicle = Vehicle::read(&context.path(&input.vehicle))?;
    let sockets = bind(settings.listen).await?;
    let (software, known) = watch::channel(None);
    let bus = context.bus().await?;
    tokio::spawn(follow(bus.clone(), software));
    let port = sockets.local.port();
    let engine = Engine::new(&settings, sockets, content(vehicle, known));
    let object = UdsServer { port, address: settings.address.0, status: engine.status() };
    bus.object_server().at(pitstop_dbus::object_path("UdsServer"), object).await?;
    context.ready(&bus, "UdsServer").await?;
    context.status(&format!("port {port}"));
    serve(context, engine).await
}

async fn alone(context: &Context, listen: &str) -> anyhow::Result<()> {
    let listen: SocketAddr = listen.parse().with_context(|| format!("{listen:?} is no ADDRESS:PORT"))?;
    let file = context.args().option("--vehicle").context("--listen needs --vehicle FILE")?;
    let vehicle = Vehicle::read(Path::new(file))?;
    let settings = Settings::new(&toml::from_str(ALONE)?)?;
    let settings = Settings { listen, ..settings };
    let release = vehicle.tcu.software_number.clone().zip(vehicle.tcu.version.clone());
    let release = release.map(|(software_number, version)| SlotRelease {
        software_number,
        version,
        counter: 0,
        hardware: vehicle.tcu.hardware.to_string(),
    });
    // The sender lives as long as the engine, so that the value stays.
    let (_software, known) = watch::channel(release);
    let sockets = bind(listen).await?;
    let local = sockets.local;
    let engine = Engine::new(&settings, sockets, content(vehicle, known));
    let address = settings.address.0;
    println!("{}", serde_json::json!({ "address": local.ip(), "port": local.port(), "logical_address": address }));
    serve(context, engine).await
}

/// The vendor's settings, so that a server that runs alone differs in nothing else.
const ALONE: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/uds-server.toml");

async fn bind(listen: SocketAddr) -> anyhow::Result<Sockets> {
    Sockets::bind(listen).await.with_context(|| format!("listening on {listen}"))
}

fn content(vehicle: Vehicle, software: watch::Receiver<Option<SlotRelease>>) -> TcuContent {
    TcuContent {
        vin: vehicle.vin,
        hardware: vehicle.tcu.hardware,
        serial: vehicle.tcu.serial,
        rxswin: vehicle.tcu.rxswin,
        software,
    }
}

async fn serve(context: &Context, engine: Engine) -> anyhow::Result<()> {
    tokio::select! {
        () = engine.run() => {}
        () = context.until_shutdown() => {}
    }
    Ok(())
}
