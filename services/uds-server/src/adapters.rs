//! The real things behind [`crate::ports`]: the services on the bus, and ourselves as a tester sees us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use pitstop_dbus::{OtaError, Result, SelfUpdateProxy, ValidatorProxy, VehicleStateProxy, WorkshopProxy};
use pitstop_doip::{Frame, LogicalAddress, Message, ProtocolVersion, StreamDecoder, StreamItem};
use pitstop_runtime::operation::{self, patiently};
use pitstop_uds::{Did, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zbus::fdo::PeerProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

use crate::ports::{Peers, SlotView};

/// A service that does not answer a ping for so long is not well.
const PING: Duration = Duration::from_secs(5);
/// Address from which we ask ourselves: the last one of external testers (ISO 13400-2, table 13).
const SELF_TESTER: LogicalAddress = LogicalAddress(0x0FFF);
/// Longest answer that we give ourselves here, in bytes.
const MAX_ANSWER: u32 = 512;

/// The other services on the bus.
pub struct BusPeers {
    pub bus: Connection,
    /// Services that must answer before a slot is vouched for, by the last word of their bus name.
    pub services: Vec<String>,
    /// Where we listen.
    pub local: SocketAddr,
    pub address: LogicalAddress,
}

impl BusPeers {
    async fn workshop(&self) -> Result<WorkshopProxy<'_>> {
        Ok(WorkshopProxy::new(&self.bus).await?)
    }

    async fn ping(&self, service: &str) -> std::result::Result<(), String> {
        let asked = async {
            let name = pitstop_dbus::bus_name(service);
            PeerProxy::new(&self.bus, name, pitstop_dbus::object_path(service)).await?.ping().await?;
            Ok::<(), zbus::Error>(())
        };
        match tokio::time::timeout(PING, asked).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{service} does not answer: {error}")),
            Err(_) => Err(format!("{service} does not answer in {} s", PING.as_secs())),
        }
    }

    async fn runs(&self, version: &str) -> std::result::Result<(), String> {
        let asked = async { SelfUpdateProxy::new(&self.bus).await?.get_slots().await };
        let slots = asked.await.map_err(|error: OtaError| format!("self-update: {error}"))?;
        match slots.iter().find(|slot| slot.booted) {
            Some(slot) if slot.version == version => Ok(()),
            Some(slot) => Err(format!("slot {} says it is {:?}", slot.name, slot.version)),
            None => Err("no slot runs".to_owned()),
        }
    }

    /// Reads our own version by DoIP, over the loopback interface.
    async fn answers(&self, version: &str) -> std::result::Result<(), String> {
        let ip = match self.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let to = SocketAddr::new(ip, self.local.port());
        let answer = tokio::time::timeout(PING, ask_version(to, self.address)).await;
        match answer.map_err(|_| "our own answer did not come".to_owned())? {
            Ok(Some(found)) if found == version.as_bytes() => Ok(()),
            Ok(Some(_)) => Err("our own answer names another version".to_owned()),
            // All places are taken by testers, who are answered then; it is not for them to decide what is kept.
            Ok(None) => Ok(()),
            Err(error) => Err(format!("asking ourselves: {error}")),
        }
    }
}

/// F189 as a tester reads it; `None`: no place for another tester.
async fn ask_version(to: SocketAddr, entity: LogicalAddress) -> std::io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(to).await?;
    let source = SELF_TESTER;
    let activate = Message::RoutingActivationRequest { source, activation_type: 0, oem: None };
    stream.write_all(&Frame::new(ProtocolVersion::V2012, activate).encode()).await?;
    let mut decoder = StreamDecoder::new(MAX_ANSWER);
    loop {
        match next(&mut stream, &mut decoder).await? {
            Some(Message::RoutingActivationResponse { code, .. }) if code.is_active() => {
                let request = Request::ReadDataByIdentifier { dids: vec![Did::ECU_SOFTWARE_VERSION] };
                let data = request.encode().map_err(std::io::Error::other)?;
                let message = Message::Diagnostic { source, target: entity, data };
                stream.write_all(&Frame::new(ProtocolVersion::V2012, message).encode()).await?;
            }
            None | Some(Message::RoutingActivationResponse { .. }) => return Ok(None),
            Some(Message::Diagnostic { data, .. }) => {
                let answer = Response::decode(&data).map_err(std::io::Error::other)?;
                let value = answer.value_of(Did::ECU_SOFTWARE_VERSION).unwrap_or_default();
                return Ok(Some(value.to_vec()));
            }
            Some(_) => {}
        }
    }
}

async fn next(stream: &mut TcpStream, decoder: &mut StreamDecoder) -> std::io::Result<Option<Message>> {
    loop {
        match decoder.next_item() {
            Some(StreamItem::Frame(frame)) => return Ok(Some(frame.message)),
            Some(StreamItem::Rejected(_)) => return Err(std::io::Error::other("a header of our own is malformed")),
            None => {}
        }
        let mut bytes = [0; 256];
        match stream.read(&mut bytes).await {
            Ok(0) => return Ok(None),
            Ok(count) => decoder.push(bytes.get(..count).unwrap_or_default()),
            Err(error) => return Err(error),
        }
    }
}

impl Peers for BusPeers {
    type Reception = OwnedObjectPath;

    async fn receive(&self, length: u64) -> Result<(OwnedFd, OwnedObjectPath)> {
        let (sink, operation) = ValidatorProxy::new(&self.bus).await?.receive_local(length).await?;
        Ok((OwnedFd::from(sink), operation))
    }

    async fn received(&self, reception: OwnedObjectPath) -> Result<(String, String)> {
        let mut data = operation::wait(&self.bus, "Validator", &reception, |_| {}).await?;
        let mut text = |key| data.remove(key).and_then(|value| String::try_from(value).ok());
        let found = text("update").zip(text("version"));
        found.ok_or_else(|| OtaError::Internal("the validator does not say what it admitted".to_owned()))
    }

    async fn end(&self, update: &str, committed: bool) -> Result<()> {
        let validator = ValidatorProxy::new(&self.bus).await?;
        patiently(|| validator.end_local(update, committed)).await
    }

    async fn check(&self) -> Result<()> {
        self.workshop().await?.check().await
    }

    async fn view(&self) -> Result<SlotView> {
        let (update, phase, version) = self.workshop().await?.get_update().await?;
        Ok(SlotView { update, phase, version })
    }

    async fn stage(&self, update: &str, attempt: u32) -> Result<()> {
        let operation = self.workshop().await?.stage(update, attempt).await?;
        operation::wait(&self.bus, "SelfUpdate", &operation, |_| {}).await?;
        Ok(())
    }

    async fn activate(&self, update: &str) -> Result<()> {
        self.workshop().await?.activate(update).await
    }

    async fn reboot(&self, update: &str) -> Result<()> {
        self.workshop().await?.reboot(update).await
    }

    async fn mark_good(&self, update: &str) -> Result<()> {
        self.workshop().await?.mark_good(update).await
    }

    async fn commit(&self, update: &str) -> Result<()> {
        self.workshop().await?.commit(update).await
    }

    async fn roll_back(&self, update: &str) -> Result<bool> {
        self.workshop().await?.roll_back(update).await
    }

    async fn is_held(&self, update: &str) -> Result<bool> {
        let uncached = VehicleStateProxy::builder(&self.bus).cache_properties(CacheProperties::No);
        Ok(uncached.build().await?.inhibit_owners().await?.iter().any(|owner| owner == update))
    }

    async fn health(&self, version: &str) -> std::result::Result<(), String> {
        for service in &self.services {
            self.ping(service).await?;
        }
        self.runs(version).await?;
        self.answers(version).await
    }
}
