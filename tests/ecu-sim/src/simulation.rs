use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use pitstop_bundle::IdentityBlock;
use pitstop_can::{CanBus, LinkAddress};
use pitstop_conditions::Database;
use pitstop_doip::LogicalAddress;
use pitstop_types::{BusName, EcuId, ReleaseCounter};
use serde::Serialize;

use crate::actor::EcuHandle;
use crate::can::{self, SignalValues};
use crate::content::Content;
use crate::control::Control;
use crate::doip::{self, Gateway};
use crate::ecu::SimEcu;
use crate::fault::Fault;
use crate::flash::Flash;
use crate::hub::Hub;
use crate::vehicle::{Address, EcuSpec, Software, Vehicle};

/// How a simulated vehicle is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub vehicle: PathBuf,
    /// Unix socket of the CAN hub.
    pub hub: PathBuf,
    /// Where the DoIP gateway listens; port 0: any free one.
    pub listen: SocketAddr,
    pub socketcand: Option<SocketAddr>,
    pub control: Option<PathBuf>,
    /// Folder that keeps the flash; without it a vehicle is new at each start.
    pub state: Option<PathBuf>,
    /// Times real, for buses, flash and boot alike.
    pub speed: f64,
    pub seed: u64,
    /// Software instead of that in the vehicle file.
    pub software: BTreeMap<EcuId, Software>,
    /// ECUs that start with blank flash.
    pub erased: Vec<EcuId>,
    pub faults: Vec<(EcuId, Fault)>,
}

/// Where a started vehicle is reached.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    pub ready: bool,
    /// Address, port and logical address of the DoIP gateway; null: the vehicle has none.
    pub address: Option<String>,
    pub port: Option<u16>,
    pub logical_address: Option<u16>,
    pub hub: PathBuf,
    pub buses: Vec<BusName>,
    pub socketcand: Option<SocketAddr>,
    pub control: Option<PathBuf>,
    pub vin: String,
}

/// Starts the hub and all ECUs as tasks of this runtime. They live as long as it.
pub async fn start(options: Options) -> anyhow::Result<Ready> {
    let vehicle = Vehicle::load(&options.vehicle)?;
    let text = std::fs::read_to_string(&vehicle.dbc).with_context(|| format!("reading {}", vehicle.dbc.display()))?;
    let database = Database::parse(&text)?;
    let hub = Hub::start(&vehicle.buses, options.speed)?;
    hub.listen_unix(&options.hub).with_context(|| format!("listening on {}", options.hub.display()))?;
    let socketcand = match options.socketcand {
        Some(address) => Some(hub.listen_socketcand(address).await?),
        None => None,
    };
    let signals = SignalValues::default();
    let mut ecus = BTreeMap::new();
    for (number, spec) in vehicle.ecus.iter().enumerate() {
        let ecu = start_ecu(&vehicle, spec, &options, number as u64)?;
        join_buses(&vehicle, spec, &options.hub, &database, &signals, &ecu).await?;
        ecus.insert(spec.id.clone(), ecu);
    }
    let gateway = start_gateway(&vehicle, &ecus, options.listen).await?;
    if let Some(path) = &options.control {
        let control = Control { ecus: ecus.clone(), signals };
        control.listen(path).with_context(|| format!("listening on {}", path.display()))?;
    }
    for (id, fault) in options.faults {
        ecus.get(&id).with_context(|| format!("there is no ECU {id}"))?.add_fault(fault).await?;
    }
    Ok(Ready {
        ready: true,
        address: gateway.map(|(address, _)| address.ip().to_string()),
        port: gateway.map(|(address, _)| address.port()),
        logical_address: gateway.map(|(_, logical)| logical.0),
        hub: options.hub,
        buses: vehicle.buses.into_iter().map(|bus| bus.name).collect(),
        socketcand,
        control: options.control,
        vin: vehicle.vin.to_string(),
    })
}

fn start_ecu(vehicle: &Vehicle, spec: &EcuSpec, options: &Options, number: u64) -> anyhow::Result<EcuHandle> {
    let (mut flash, known) = match &options.state {
        Some(dir) => Flash::open(dir, spec.id.as_str(), spec.memory.clone(), spec.banks)
            .with_context(|| format!("opening the flash of {} in {}", spec.id, dir.display()))?,
        None => (Flash::blank(spec.memory.clone(), spec.banks), false),
    };
    let software = options.software.get(&spec.id).or(spec.software.as_ref());
    if let Some(software) = software.filter(|_| !known && !options.erased.contains(&spec.id)) {
        load(&mut flash, software).with_context(|| format!("loading the first software of {}", spec.id))?;
    }
    let content =
        Content::new(Arc::new(spec.clone()), vehicle.vin.clone(), flash, options.speed, options.seed ^ number << 32);
    Ok(EcuHandle::start(SimEcu::new(content)))
}

fn load(flash: &mut Flash, software: &Software) -> anyhow::Result<()> {
    let firmware = std::fs::read(&software.file).with_context(|| format!("reading {}", software.file.display()))?;
    let identity = IdentityBlock {
        software_number: software.number.clone(),
        version: software.version.clone(),
        counter: ReleaseCounter(software.counter.into()),
    };
    flash.load(0, software.address.into(), &firmware).context("the firmware does not fit the memory")?;
    flash.load(0, flash.memory().identity.into(), &identity.write()?)?;
    flash.change_boot(|boot| boot.complete.iter_mut().take(1).for_each(|complete| *complete = true))?;
    Ok(())
}

async fn join_buses(
    vehicle: &Vehicle,
    spec: &EcuSpec,
    hub: &Path,
    database: &Database,
    signals: &SignalValues,
    ecu: &EcuHandle,
) -> anyhow::Result<()> {
    if let Address::Can { bus, request, response } = &spec.address {
        let bus = join(vehicle, bus, hub).await?;
        can::serve(&bus, spec, *request, *response, ecu.clone())?;
    }
    for name in can::buses_of(spec) {
        let bus = join(vehicle, name, hub).await?;
        let messages: Vec<_> = spec.broadcasts.iter().filter(|b| b.bus == *name).cloned().collect();
        can::broadcast(&bus, &messages, database, signals, &ecu.status())?;
        if spec.drive_inhibit {
            can::drive_inhibit(&bus, database, signals, ecu.status())?;
        }
    }
    Ok(())
}

/// ECUs join like everybody else, through the hub's socket.
async fn join(vehicle: &Vehicle, name: &BusName, hub: &Path) -> anyhow::Result<CanBus> {
    let fd = vehicle.bus(name).is_some_and(|bus| bus.data_bitrate.is_some());
    let link = LinkAddress::Hub { path: hub.to_owned(), bus: name.to_string() };
    Ok(CanBus::open(&link, fd).await?)
}

async fn start_gateway(
    vehicle: &Vehicle,
    ecus: &BTreeMap<EcuId, EcuHandle>,
    listen: SocketAddr,
) -> anyhow::Result<Option<(SocketAddr, LogicalAddress)>> {
    let mut behind = BTreeMap::new();
    let mut gateway = None;
    for spec in &vehicle.ecus {
        let (Address::Doip { logical, via }, Some(ecu)) = (&spec.address, ecus.get(&spec.id)) else { continue };
        let address = LogicalAddress(*logical);
        behind.insert(address, ecu.clone());
        if via.is_none() {
            gateway = Some((address, ecu.status()));
        }
    }
    let Some((address, status)) = gateway else { return Ok(None) };
    let served = doip::serve(Gateway { vin: vehicle.vin.clone(), address, ecus: behind, status }, listen).await;
    Ok(Some((served.with_context(|| format!("listening on {listen}"))?, address)))
}
