//! The simulated ECUs of `pitstop-ecu-sim` behind the flasher's own link port: its servers, flash and boot loaders in virtual time,
//! over wires that take as long as real ones. Transport protocols have their own tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use pitstop_can::{DiagnosticClient, DiagnosticError, DiagnosticLink, LinkError};
use pitstop_dbus::OtaError;
use pitstop_ecu_sim::{Content as SimContent, EcuSpec, Fault, Flash, Output, SimEcu};
use pitstop_flasher::ports::{EcuLink, Links};
use pitstop_flashing::vehicle::{Banks, Bus, BusKind, Ecu};
use pitstop_flashing::{Outcome, Profile, Vehicle};
use pitstop_types::{BusName, EcuId, Vin};
use pitstop_uds::server::ClientId;
use pitstop_uds::{Addressing, ClientTiming, Request, StepLimits};
use tokio::time::Instant;

use crate::common::Content;

pub const FIRMWARE: u32 = 0x0801_0000;
pub const IDENTITY: u32 = 0x0800_8000;

/// All ECUs and wires of one vehicle. It outlives the flasher: a killed service finds it as it left it.
pub struct World {
    ecus: BTreeMap<EcuId, Arc<Mutex<SimEcu>>>,
    wires: BTreeMap<BusName, Arc<Wire>>,
    /// Virtual time of earlier lives of the service.
    before: Mutex<Duration>,
}

/// One frame at a time, and a log of who sent data when.
#[derive(Default)]
pub struct Wire {
    lock: tokio::sync::Mutex<()>,
    pub transfers: Mutex<Vec<EcuId>>,
}

/// Firmware of some kilobytes, different in every version, with a blank run in it.
pub fn content(ecu: &Ecu, version: &str, kilobytes: usize) -> Content {
    let salt = version.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let mut firmware: Vec<u8> = (0..kilobytes * 1024).map(|i| ((i as u32).wrapping_mul(salt | 1) >> 9) as u8).collect();
    let middle = firmware.len() / 2;
    firmware[middle..middle + 500].fill(0xFF);
    Content::new(ecu.hardware.as_str(), &format!("PS-{}", ecu.id), version, (FIRMWARE, firmware), IDENTITY)
}

fn spec(ecu: &Ecu) -> EcuSpec {
    let banks = if ecu.banks == Banks::Dual { "dual" } else { "single" };
    let security = match crate::common::is_locked(ecu.id.as_str()) {
        true => format!("kind = \"sha256\", level = 0x11, secret = \"{}\"", hex::encode("test secret")),
        false => "kind = \"none\"".to_owned(),
    };
    let text = format!(
        r#"
        id = "{}"
        hardware = "{}"
        serial = "S-{}"
        boot_software = "BOOT"
        banks = "{banks}"
        address = {{ kind = "doip", logical = 1 }}
        boot_ms = 300
        security = {{ {security} }}
        [memory]
        base = 0x08000000
        size = 0x40000
        sector = 0x400
        identity = 0x08008000
        erase_ms_per_kib = 4.0
        write_ms_per_kib = 0.5
        "#,
        ecu.id, ecu.hardware, ecu.id
    );
    toml::from_str(&text).expect("a simulated ECU")
}

impl World {
    /// Every ECU of the vehicle runs `version`, `kilobytes` of it.
    pub fn new(vehicle: &Vehicle, version: &str, kilobytes: usize) -> Arc<Self> {
        let ecus = vehicle.ecus.values().map(|ecu| {
            let spec = Arc::new(spec(ecu));
            let mut flash = Flash::blank(spec.memory.clone(), spec.banks);
            let content = content(ecu, version, kilobytes);
            for segment in &content.description.segments {
                let bytes = &content.payload[segment.offset as usize..segment.end_offset() as usize];
                flash.load(0, segment.address.into(), bytes).expect("fits");
            }
            flash.change_boot(|boot| boot.complete[0] = true).expect("kept");
            let vin = Vin::new("WP0ZZZ99ZTS392124").unwrap();
            (ecu.id.clone(), Arc::new(Mutex::new(SimEcu::new(SimContent::new(spec, vin, flash, 1.0, 1)))))
        });
        let wires = vehicle.buses.keys().map(|bus| (bus.clone(), Arc::default()));
        Arc::new(Self { ecus: ecus.collect(), wires: wires.collect(), before: Mutex::default() })
    }

    pub fn ecu(&self, id: &str) -> MutexGuard<'_, SimEcu> {
        self.ecus[&EcuId::new(id).unwrap()].lock().unwrap()
    }

    pub fn add_fault(&self, ecu: &str, fault: &str) {
        self.ecu(ecu).add_fault(fault.parse::<Fault>().expect("a fault"));
    }

    pub fn wire(&self, bus: &str) -> &Wire {
        &self.wires[&BusName::new(bus).unwrap()]
    }

    /// What the ECU's boot loader would start: its version, or none.
    pub fn version(&self, ecu: &str) -> Option<String> {
        let ecu = self.ecu(ecu);
        let (flash, running) = (ecu.content().flash(), ecu.content().running());
        flash.is_bootable(running).then(|| flash.identity(running)).flatten().map(|block| block.version.to_string())
    }

    /// Whether a bank holds exactly this content, blank elsewhere in its segments' place.
    pub fn holds(&self, ecu: &str, bank: usize, content: &Content) -> bool {
        let ecu = self.ecu(ecu);
        content.description.segments.iter().all(|segment| {
            let bytes = &content.payload[segment.offset as usize..segment.end_offset() as usize];
            ecu.content().flash().read(bank, segment.address.into(), bytes.len() as u64) == Ok(bytes)
        })
    }

    /// Adds the time a life of the service took. ECUs hear of time that passed when somebody talks to them.
    pub fn passed(&self, time: Duration) {
        *self.before.lock().unwrap() += time;
    }
}

/// Links into the world, for one life of the service.
pub struct SimLinks {
    world: Arc<World>,
    origin: Instant,
    clients: std::sync::atomic::AtomicU64,
}

impl SimLinks {
    /// To be made inside the runtime of that life.
    pub fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), origin: Instant::now(), clients: 1.into() }
    }
}

#[async_trait]
impl Links for SimLinks {
    async fn open(&self, bus: &Bus, ecu: &Ecu, profile: &Profile) -> Result<Box<dyn EcuLink>, OtaError> {
        let find = |id: &EcuId| self.world.ecus[id].clone();
        let link = SimLink {
            id: ecu.id.clone(),
            ecu: find(&ecu.id),
            gateway: ecu.via.as_ref().map(find),
            wire: self.world.wires[&ecu.bus].clone(),
            bytes_per_second: match bus.kind {
                BusKind::Can { .. } => 30_000,
                BusKind::CanFd { .. } => 180_000,
                BusKind::Doip { .. } => 10_000_000,
            },
            connection: matches!(bus.kind, BusKind::Doip { .. }),
            client: ClientId(self.clients.fetch_add(1, std::sync::atomic::Ordering::SeqCst)),
            inbox: VecDeque::new(),
            open: true,
            before: *self.world.before.lock().unwrap(),
            origin: self.origin,
        };
        let timing = ClientTiming {
            p2: profile.timing.p2,
            p2_star: profile.timing.p2_star,
            margin: Duration::from_millis(500),
            s3_client: profile.timing.keep_alive,
            busy_pause: profile.retry.busy_pause,
        };
        Ok(Box::new(Client(DiagnosticClient::new(Box::new(link), timing))))
    }
}

struct SimLink {
    id: EcuId,
    ecu: Arc<Mutex<SimEcu>>,
    gateway: Option<Arc<Mutex<SimEcu>>>,
    wire: Arc<Wire>,
    bytes_per_second: u64,
    connection: bool,
    client: ClientId,
    inbox: VecDeque<Vec<u8>>,
    open: bool,
    before: Duration,
    origin: Instant,
}

impl SimLink {
    fn now(&self) -> Duration {
        self.before + self.origin.elapsed()
    }

    fn closed(&self) -> LinkError {
        LinkError::Closed { ecu: self.id.to_string() }
    }

    /// Lets the ECU's time pass and takes what it sends.
    fn drain(&mut self) -> Option<Duration> {
        let mut ecu = self.ecu.lock().unwrap();
        ecu.handle_timeout(self.before + self.origin.elapsed());
        while let Some(output) = ecu.poll_output() {
            match output {
                Output::Pdu { client, pdu } if client == self.client => self.inbox.push_back(pdu),
                Output::Close { client } if client == self.client && self.connection => self.open = false,
                Output::Restart if self.connection => self.open = false,
                _ => {}
            }
        }
        ecu.poll_timeout()
    }

    /// Whether ECU and gateway are there to take a connection.
    fn reachable(&mut self) -> bool {
        let now = self.now();
        let up = |ecu: &Mutex<SimEcu>| {
            let mut ecu = ecu.lock().unwrap();
            ecu.handle_timeout(now);
            ecu.is_up()
        };
        up(&self.ecu) && self.gateway.as_ref().is_none_or(|gateway| up(gateway))
    }
}

#[async_trait]
impl DiagnosticLink for SimLink {
    async fn send(&mut self, addressing: Addressing, pdu: &[u8]) -> Result<(), LinkError> {
        {
            let wire = self.wire.clone();
            let _one_at_a_time = wire.lock.lock().await;
            tokio::time::sleep(Duration::from_micros(pdu.len() as u64 * 1_000_000 / self.bytes_per_second)).await;
        }
        self.drain();
        if self.connection && (!self.open || !self.reachable()) {
            self.open = false;
            return Err(self.closed());
        }
        if pdu.first() == Some(&0x36) {
            self.wire.transfers.lock().unwrap().push(self.id.clone());
        }
        let now = self.now();
        self.ecu.lock().unwrap().handle_request(now, self.client, addressing, pdu);
        Ok(())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            let next = self.drain();
            if let Some(pdu) = self.inbox.pop_front() {
                return Ok(pdu);
            }
            if !self.open {
                return Err(self.closed());
            }
            let now = self.now();
            match next {
                Some(at) => tokio::time::sleep(at.saturating_sub(now).max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), LinkError> {
        self.inbox.clear();
        self.drain();
        self.inbox.clear();
        self.open = !self.connection || self.reachable();
        if self.open { Ok(()) } else { Err(self.closed()) }
    }

    fn has_connection(&self) -> bool {
        self.connection
    }
}

/// The adapter's way with a client, without its way of connecting.
struct Client(DiagnosticClient);

#[async_trait]
impl EcuLink for Client {
    async fn ask(&mut self, request: &Request, addressing: Addressing, quiet: bool, limits: StepLimits) -> Outcome {
        let result = match quiet {
            true => self.0.notify(request, addressing, limits).await,
            false => self.0.request(request, limits).await.map(Some),
        };
        match result {
            Ok(Some(response)) => Outcome::Response(response),
            Ok(None) => Outcome::Silent,
            Err(DiagnosticError::Client(error)) => Outcome::NoAnswer(error),
            Err(error) => Outcome::LinkLost(error.to_string()),
        }
    }

    async fn idle(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.0.keep_alive(true);
        let _ = self.0.idle(time).await;
        self.0.keep_alive(false);
        tokio::time::sleep_until(end).await;
    }

    async fn reopen(&mut self) -> Result<(), String> {
        self.0.reopen().await.map_err(|error| error.to_string())
    }
}
