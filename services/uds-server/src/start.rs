//! Starting: as a service on the bus, or alone for outside testers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use pitstop_dbus::SlotRelease;
use pitstop_runtime::{Args, Context, wall_clock};
use pitstop_types::Vin;
use pitstop_uds::server::{Authenticator, AuthenticatorSettings};
use tokio::sync::{mpsc, watch};

use crate::adapters::BusPeers;
use crate::bus::UdsServer;
use crate::config::{Input, Settings, Vehicle, WorkshopInput};
use crate::content::{TcuContent, WorkshopLink};
use crate::engine::{Engine, Sockets};
use crate::software::follow;
use crate::testers::Testers;
use crate::workshop::Workshop;

/// Orders that may wait for the workshop's task: the one under way, and the end of the transfer it belongs to.
const ORDERS: usize = 4;

/// Runs the service until it is told to end. With `--listen ADDR:PORT --vehicle FILE [--testers FILE]` it runs without a bus and
/// prints one line of JSON when it is ready: `{"address":"127.0.0.1","port":40123,"logical_address":4352}`. Testers authenticate then
/// as they do in a vehicle, but there is nothing to update.
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
    let testers = testers(context, &input.workshop, vehicle.vin.clone())?;
    let sockets = bind(settings.listen).await?;
    let (software, known) = watch::channel(None);
    let bus = context.bus().await?;
    tokio::spawn(follow(bus.clone(), software));
    let port = sockets.local.port();
    let peers = BusPeers {
        bus: bus.clone(),
        services: input.workshop.services.clone(),
        local: sockets.local,
        address: settings.address,
    };
    let (told, status) = watch::channel(String::new());
    let (orders, queue) = mpsc::channel(ORDERS);
    let (finished, done) = mpsc::channel(ORDERS);
    let workshop = Workshop::new(settings.workshop.clone(), peers, context.storage()?, told)?;
    let link = WorkshopLink { orders, status, max_package: settings.max_package };
    let engine = Engine::new(&settings, sockets, content(vehicle, known, testers, Some(link)), done);
    let object = UdsServer { port, address: settings.address.0, status: engine.status() };
    bus.object_server().at(pitstop_dbus::object_path("UdsServer"), object).await?;
    context.ready(&bus, "UdsServer").await?;
    // Not before: an update under way is judged by whether we are up, too.
    tokio::spawn(workshop.run(queue, finished));
    context.status(&format!("port {port}"));
    serve(context, engine).await
}

async fn alone(context: &Context, listen: &str) -> anyhow::Result<()> {
    let listen: SocketAddr = listen.parse().with_context(|| format!("{listen:?} is no ADDRESS:PORT"))?;
    let file = context.args().option("--vehicle").context("--listen needs --vehicle FILE")?;
    let vehicle = Vehicle::read(Path::new(file))?;
    let mut testers = Testers::new(vehicle.vin.clone(), wall_clock);
    if let Some(file) = context.args().option("--testers") {
        testers = testers.with_trusted(&std::fs::read(file).with_context(|| format!("reading {file}"))?)?;
    }
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
    // Its sender is gone, so nothing is ever done.
    let (_, done) = mpsc::channel(1);
    let engine = Engine::new(&settings, sockets, content(vehicle, known, testers, None), done);
    let address = settings.address.0;
    println!("{}", serde_json::json!({ "address": local.ip(), "port": local.port(), "logical_address": address }));
    serve(context, engine).await
}

/// The vendor's settings, so that a server that runs alone differs in nothing else.
const ALONE: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/uds-server.toml");

async fn bind(listen: SocketAddr) -> anyhow::Result<Sockets> {
    Sockets::bind(listen).await.with_context(|| format!("listening on {listen}"))
}

/// The integrator's files. Without them the server reads out and lets nobody in.
fn testers(context: &Context, input: &WorkshopInput, vin: Vin) -> anyhow::Result<Testers> {
    let mut testers = Testers::new(vin, wall_clock);
    let path = context.path(&input.testers);
    match std::fs::read(&path) {
        Ok(pem) => testers = testers.with_trusted(&pem).with_context(|| format!("reading {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    if testers.is_empty() {
        log::warn!("no tester can authenticate: {} holds no certificate", path.display());
    }
    if !input.tester_crls.is_empty() {
        let path = context.path(&input.tester_crls);
        let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        testers = testers.with_crls(&pem).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(testers)
}

fn content(
    vehicle: Vehicle,
    software: watch::Receiver<Option<SlotRelease>>,
    testers: Testers,
    workshop: Option<WorkshopLink>,
) -> TcuContent {
    TcuContent {
        vin: vehicle.vin,
        hardware: vehicle.tcu.hardware,
        serial: vehicle.tcu.serial,
        rxswin: vehicle.tcu.rxswin,
        software,
        testers,
        authenticator: Authenticator::new(AuthenticatorSettings::default()),
        workshop,
    }
}

async fn serve(context: &Context, engine: Engine) -> anyhow::Result<()> {
    tokio::select! {
        () = engine.run() => {}
        () = context.until_shutdown() => {}
    }
    Ok(())
}
