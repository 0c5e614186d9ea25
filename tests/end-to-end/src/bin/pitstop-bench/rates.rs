//! Transfer rates on the simulated buses at real bus time.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use pitstop_can::{
    CanBus, CanId, DiagnosticClient, DoipConnection, DoipSettings, IsoTpChannel, IsoTpSettings, LinkAddress,
};
use pitstop_end_to_end::programs::Programs;
use pitstop_end_to_end::simulator::Simulator;
use pitstop_uds::{
    AddressAndSize, BlockLength, ClientTiming, Request, Response, RoutineAction, RoutineId, SessionType, StepLimits,
};
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::Arguments;

/// Where the simulated ECUs' firmware lies.
const FIRMWARE: u32 = 0x0801_0000;
/// Bytes sent on each bus: random, as packed firmware is. Some seconds on CAN.
const LENGTH: usize = 150_000;
/// What each bus carries with random data in blocks of 4095 bytes and no turn-around time, bytes per second: frame lengths with
/// stuffing counted out (11-bit identifiers; classic 500 kbit/s, FD 500 kbit/s and 2 Mbit/s with 64-byte frames).
const CAN_LINE: f64 = 30_500.0;
const FD_LINE: f64 = 179_000.0;

pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let hub = folder.path().join("hub.sock");
    let simulator =
        Simulator::start(folder.path(), &hub, &programs.ecu_sim, &programs.vehicle, 1.0, 1, folder.path()).await?;
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let data: Vec<u8> = (0..LENGTH).map(|_| random.random()).collect();
    let classic = download(&mut can(&hub, "can0", 0x7E0, false).await?, &data).await?;
    let fd = download(&mut can(&hub, "can1", 0x7E1, true).await?, &data).await?;
    let doip = download(&mut doip(&simulator.doip).await?, &data).await?;
    println!("CAN 500 kbit/s:        {classic:>9.0} B/s, {:.1} % of what the bus carries", 100.0 * classic / CAN_LINE);
    println!("CAN FD 500k/2M:        {fd:>9.0} B/s, {:.1} % of what the bus carries", 100.0 * fd / FD_LINE);
    println!("DoIP on loopback:      {doip:>9.0} B/s (the ECU's flash is the limit)");
    if arguments.json {
        println!(
            "{}",
            json!({
                "can": { "bytes_per_s": classic, "of_line": classic / CAN_LINE },
                "can_fd": { "bytes_per_s": fd, "of_line": fd / FD_LINE },
                "doip": { "bytes_per_s": doip }
            })
        );
    }
    Ok(())
}

async fn can(hub: &Path, bus: &str, request: u16, fd: bool) -> anyhow::Result<DiagnosticClient> {
    let link = LinkAddress::Hub { path: hub.to_owned(), bus: bus.into() };
    let bus = CanBus::open(&link, fd).await?;
    let settings = IsoTpSettings::tester("ecu", CanId::Standard(request), CanId::Standard(request + 8), fd);
    Ok(DiagnosticClient::new(Box::new(IsoTpChannel::open(&bus, settings)?), ClientTiming::default()))
}

async fn doip(address: &str) -> anyhow::Result<DiagnosticClient> {
    let (host, port) = address.rsplit_once(':').context("an address has a port")?;
    let link = LinkAddress::Tcp { host: host.to_owned(), port: port.parse()? };
    let settings = DoipSettings::new("ecu", &link, 0x1001).context("the gateway is reached by TCP")?;
    Ok(DiagnosticClient::new(Box::new(DoipConnection::open(settings).await?), ClientTiming::default()))
}

async fn ask(client: &mut DiagnosticClient, request: Request) -> anyhow::Result<Response> {
    let response = client.request(&request, StepLimits::for_request(&request)).await?;
    ensure!(!matches!(response, Response::Negative { .. }), "the ECU refused: {response:?}");
    Ok(response)
}

/// Erases and writes `data`; answers bytes per second of the transfer alone.
async fn download(client: &mut DiagnosticClient, data: &[u8]) -> anyhow::Result<f64> {
    for session in [SessionType::Extended, SessionType::Programming] {
        ask(client, Request::DiagnosticSessionControl { session }).await?;
    }
    let length = u32::try_from(data.len())?;
    let option = AddressAndSize::four(FIRMWARE, length.next_multiple_of(4096)).encode()?;
    let (action, routine) = (RoutineAction::Start, RoutineId::ERASE_MEMORY);
    ask(client, Request::RoutineControl { action, routine, option }).await?;
    let memory = AddressAndSize::four(FIRMWARE, length);
    let opened = ask(client, Request::RequestDownload { data_format: 0, memory }).await?;
    let Response::RequestDownload { max_block: BlockLength(block) } = opened else {
        bail!("request download was answered {opened:?}")
    };
    let start = Instant::now();
    let size = usize::try_from(block)?.saturating_sub(2).max(1);
    for (bytes, counter) in data.chunks(size).zip((1..=255).chain(0..=255).cycle()) {
        ask(client, Request::TransferData { counter, data: bytes.to_vec() }).await?;
    }
    let rate = data.len() as f64 / start.elapsed().as_secs_f64();
    ask(client, Request::RequestTransferExit { parameters: vec![] }).await?;
    Ok(rate)
}
