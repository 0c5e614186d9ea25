//! The demonstration's vehicle in this process, reached by our own links over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use pitstop_can::{
    CanBus, CanFrame, CanId, DiagnosticClient, DiagnosticError, DoipConnection, DoipSettings, IsoTpChannel,
    IsoTpSettings, LinkAddress, LinkError,
};
use pitstop_ecu_sim::{Options, Ready, Software};
use pitstop_types::{EcuId, SoftwareVersion};
use pitstop_uds::{
    AddressAndSize, BlockLength, ClientTiming, Did, Nrc, Request, ResetType, Response, RoutineAction, RoutineId,
    SessionType, StepLimits,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const FIRMWARE: u32 = 0x0801_0000;
const CAN0: CanId = CanId::Standard(0x7E0);
const CAN1: CanId = CanId::Standard(0x7E1);

struct World {
    folder: tempfile::TempDir,
    ready: Ready,
}

impl World {
    async fn start(speed: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready = pitstop_ecu_sim::start(options(folder.path(), speed)).await.unwrap();
        Self { folder, ready }
    }

    fn link(&self, bus: &str) -> LinkAddress {
        LinkAddress::Hub { path: self.ready.hub.clone(), bus: bus.into() }
    }

    async fn can(&self, bus: &str, request: CanId, fd: bool) -> DiagnosticClient {
        let bus = CanBus::open(&self.link(bus), fd).await.unwrap();
        tester(&bus, request, fd)
    }

    async fn doip(&self, target: u16) -> DiagnosticClient {
        let host = self.ready.address.clone().unwrap();
        let link = LinkAddress::Tcp { host, port: self.ready.port.unwrap() };
        let settings = DoipSettings::new("ecu", &link, target).unwrap();
        DiagnosticClient::new(Box::new(DoipConnection::open(settings).await.unwrap()), ClientTiming::default())
    }

    async fn control(&self, request: Value) -> Value {
        let (read, mut write) =
            UnixStream::connect(self.folder.path().join("control.sock")).await.unwrap().into_split();
        write.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn options(folder: &Path, speed: f64) -> Options {
    let file = folder.join("old.bin");
    std::fs::write(&file, vec![0x5A; 5000]).unwrap();
    let software = |ecu: &str| Software {
        file: file.clone(),
        address: FIRMWARE,
        number: format!("PS-{ecu}"),
        version: SoftwareVersion::new("1.0.0").unwrap(),
        counter: 1,
    };
    Options {
        vehicle: Path::new(env!("CARGO_MANIFEST_DIR")).join("vehicles/demo.toml"),
        hub: folder.join("hub.sock"),
        listen: "127.0.0.1:0".parse().unwrap(),
        socketcand: Some("127.0.0.1:0".parse().unwrap()),
        control: Some(folder.join("control.sock")),
        state: Some(folder.join("flash")),
        speed,
        seed: 1,
        software: ["adas", "bcm", "gateway", "tpms"].map(|ecu| (EcuId::new(ecu).unwrap(), software(ecu))).into(),
        erased: vec![],
        faults: vec![],
    }
}

fn tester(bus: &CanBus, request: CanId, fd: bool) -> DiagnosticClient {
    let response = CanId::Standard(request.number() as u16 + 8);
    let channel = IsoTpChannel::open(bus, IsoTpSettings::tester("ecu", request, response, fd)).unwrap();
    DiagnosticClient::new(Box::new(channel), ClientTiming::default())
}

async fn ask(client: &mut DiagnosticClient, request: Request) -> Response {
    client.request(&request, StepLimits::for_request(&request)).await.unwrap()
}

async fn read(client: &mut DiagnosticClient, did: Did) -> String {
    let response = ask(client, Request::ReadDataByIdentifier { dids: vec![did] }).await;
    String::from_utf8(response.value_of(did).unwrap_or_default().to_vec()).unwrap()
}

async fn programming(client: &mut DiagnosticClient) {
    for session in [SessionType::Extended, SessionType::Programming] {
        let response = ask(client, Request::DiagnosticSessionControl { session }).await;
        assert!(matches!(response, Response::DiagnosticSessionControl { .. }), "{response:?}");
    }
}

/// Erases and writes `data`, and says how fast the transfer was, in bytes per second.
async fn download(client: &mut DiagnosticClient, address: u32, data: &[u8]) -> f64 {
    programming(client).await;
    let memory = AddressAndSize::four(address, (data.len() as u32).next_multiple_of(4096));
    let option = memory.encode().unwrap();
    let (action, routine) = (RoutineAction::Start, RoutineId::ERASE_MEMORY);
    let erased = ask(client, Request::RoutineControl { action, routine, option }).await;
    assert_eq!(erased, Response::RoutineControl { action, routine, status: vec![0] });
    let memory = AddressAndSize::four(address, data.len() as u32);
    let opened = ask(client, Request::RequestDownload { data_format: 0, memory }).await;
    let Response::RequestDownload { max_block: BlockLength(length) } = opened else { panic!("{opened:?}") };
    let start = Instant::now();
    for (block, counter) in data.chunks(length as usize - 2).zip((1..=255).chain(0..=255).cycle()) {
        let response = ask(client, Request::TransferData { counter, data: block.to_vec() }).await;
        assert_eq!(response, Response::TransferData { counter, data: vec![] });
    }
    let rate = data.len() as f64 / start.elapsed().as_secs_f64();
    let closed = ask(client, Request::RequestTransferExit { parameters: vec![] }).await;
    assert_eq!(closed, Response::RequestTransferExit { parameters: vec![] });
    rate
}

#[tokio::test]
async fn every_ecu_answers_on_its_own_way() {
    let world = World::start(20.0).await;
    for (name, mut client) in [
        ("bcm", world.can("can0", CAN0, false).await),
        ("adas", world.can("can1", CAN1, true).await),
        ("gateway", world.doip(0x1001).await),
        // Both connections are open at once, so they need two tester addresses.
        ("tpms", world.doip_as(0x1010, 0x0E81).await),
    ] {
        assert_eq!(read(&mut client, Did::ECU_SOFTWARE_VERSION).await, "1.0.0", "{name}");
        assert_eq!(read(&mut client, Did::ECU_SOFTWARE_NUMBER).await, format!("PS-{name}"));
    }
    let link = format!("socketcand:{}:can0", world.ready.socketcand.unwrap()).parse().unwrap();
    let mut client = tester(&CanBus::open(&link, false).await.unwrap(), CAN0, false);
    assert_eq!(read(&mut client, Did::ECU_SOFTWARE_NUMBER).await, "PS-bcm");
}

impl World {
    async fn doip_as(&self, target: u16, tester: u16) -> DiagnosticClient {
        let link = LinkAddress::Tcp { host: self.ready.address.clone().unwrap(), port: self.ready.port.unwrap() };
        let mut settings = DoipSettings::new("ecu", &link, target).unwrap();
        settings.tester.source = pitstop_doip::LogicalAddress(tester);
        DiagnosticClient::new(Box::new(DoipConnection::open(settings).await.unwrap()), ClientTiming::default())
    }
}

#[tokio::test]
async fn an_unknown_bus_and_an_fd_channel_on_a_classic_bus_are_refused() {
    let world = World::start(20.0).await;
    assert!(CanBus::open(&world.link("can7"), false).await.is_err());
    assert!(CanBus::open(&world.link("can0"), true).await.is_err());
    let bus = CanBus::open(&world.link("can0"), false).await.unwrap();
    let settings = IsoTpSettings::tester("ecu", CAN0, CanId::Standard(0x7E8), true);
    assert!(matches!(IsoTpChannel::open(&bus, settings), Err(LinkError::Bus { .. })));
}

#[tokio::test]
async fn memory_is_written_over_every_transport() {
    let world = World::start(50.0).await;
    let before = world.control(json!({ "command": "digests" })).await;
    let data: Vec<u8> = (0..20_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    for mut client in [
        world.can("can0", CAN0, false).await,
        world.can("can1", CAN1, true).await,
        world.doip(0x1001).await,
        world.doip_as(0x1010, 0x0E81).await,
    ] {
        download(&mut client, FIRMWARE, &data).await;
    }
    let after = world.control(json!({ "command": "digests" })).await;
    for (ecu, bank) in [("bcm", 0), ("adas", 1), ("gateway", 1), ("tpms", 0)] {
        assert_ne!(before["digests"][ecu][bank], after["digests"][ecu][bank], "{ecu}");
    }
    for ecu in ["adas", "gateway"] {
        assert_eq!(before["digests"][ecu][0], after["digests"][ecu][0], "{ecu}: the running bank stays");
    }
}

#[tokio::test]
async fn a_gateway_that_resets_answers_closes_and_comes_back() {
    let world = World::start(4.0).await;
    let mut client = world.doip(0x1001).await;
    let reset = Request::EcuReset { reset: ResetType::Hard };
    assert!(matches!(ask(&mut client, reset).await, Response::EcuReset { .. }));
    let limits = StepLimits::for_request(&Request::TesterPresent);
    let error = client.request(&Request::TesterPresent, limits).await.unwrap_err();
    assert!(matches!(error, DiagnosticError::Link(_)), "{error:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.reopen().await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(read(&mut client, Did::ECU_SOFTWARE_VERSION).await, "1.0.0");
}

#[tokio::test]
async fn faults_come_and_go_at_run_time() {
    let world = World::start(20.0).await;
    let mut client = world.can("can0", CAN0, false).await;
    let fault = |fault| json!({ "command": "fault", "ecu": "bcm", "fault": fault });
    world.control(fault("nrc:22:22:1")).await;
    let refused = ask(&mut client, Request::ReadDataByIdentifier { dids: vec![Did::VIN] }).await;
    assert!(matches!(refused, Response::Negative { nrc: Nrc::ConditionsNotCorrect, .. }));
    world.control(fault("hang")).await;
    let limits = StepLimits { total: Duration::from_secs(1), repeats: 0 };
    assert!(client.request(&Request::TesterPresent, limits).await.is_err());
    world.control(json!({ "command": "clear-faults" })).await;
    assert_eq!(ask(&mut client, Request::TesterPresent).await, Response::TesterPresent);
    let wrong = world.control(fault("explode")).await;
    assert!(wrong["error"].as_str().unwrap().contains("explode"), "{wrong}");
    let unknown = world.control(json!({ "command": "power", "ecu": "radio", "on": true })).await;
    assert!(unknown["error"].as_str().unwrap().contains("radio"), "{unknown}");
}

/// The next frame with this identifier whose first byte satisfies the test.
async fn frame_with(bus: &CanBus, id: u16, wanted: impl Fn(&[u8]) -> bool) -> CanFrame {
    let mut frames = bus.subscribe(Some(vec![CanId::Standard(id)]));
    let search = async {
        loop {
            let frame = frames.next().await.unwrap();
            if wanted(frame.data()) {
                return frame;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search).await.expect("no such frame")
}

#[tokio::test]
async fn signals_follow_the_control_socket_and_drive_inhibit_the_vehicle() {
    let world = World::start(20.0).await;
    let bus = CanBus::open(&world.link("can0"), false).await.unwrap();
    let speed = |value: Value| json!({ "command": "signal", "name": "VehicleSpeed", "value": value });
    let request =
        |inhibit: u8, counter: u8| bus.send(CanFrame::classic(CanId::Standard(0x3C0), &[inhibit, counter]).unwrap());
    world.control(speed(json!(36.0))).await;
    frame_with(&bus, 0x120, |data| data[..2] == [0x10, 0x0E]).await;
    request(1, 1).await.unwrap();
    frame_with(&bus, 0x140, |data| data[0] == 2).await;
    world.control(speed(json!(0.0))).await;
    request(1, 1).await.unwrap();
    request(1, 2).await.unwrap();
    frame_with(&bus, 0x140, |data| data[0] == 1).await;
    request(0, 3).await.unwrap();
    frame_with(&bus, 0x140, |data| data[0] == 0).await;
    world.control(speed(Value::Null)).await;
    frame_with(&bus, 0x120, |data| data[..2] == [0xFF, 0xFF]).await;
    world.control(json!({ "command": "power", "ecu": "bcm", "on": false })).await;
    let report = world.control(json!({ "command": "ecus" })).await;
    let bcm = report["ecus"].as_array().unwrap().iter().find(|ecu| ecu["id"] == "bcm").unwrap();
    assert_eq!(bcm["state"], "off");
}
