//! Joins CAN interfaces of an emulated TCU to the simulated vehicle's hub on the host, over TCP.
//!
//! In the guest, [`join`] carries frames between an interface (the far end of the TCU's own bus) and a bus of the hub; on the host,
//! [`relay`] hands each TCP connection to the hub's Unix socket. What goes over TCP is the hub's own protocol, CAN FD included.
//! A lost connection is made anew for ever: the host outlives the guest, and the guest may come first.

pub mod kernel;

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use pitstop_can::hub::{HubMessage, MAX_LINE};
use pitstop_can::{CanBus, CanError, CanId, DiagnosticLink, IsoTpChannel, IsoTpSettings, LinkAddress};
use pitstop_uds::Addressing;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Between two attempts to connect: short against a vehicle's boot, long against a busy loop.
const PAUSE: Duration = Duration::from_millis(500);

/// What is joined to what: `INTERFACE=BUS`, with `+fd` behind it for CAN FD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joint {
    pub interface: String,
    pub bus: String,
    pub fd: bool,
}

impl FromStr for Joint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (names, fd) = text.strip_suffix("+fd").map_or((text, false), |names| (names, true));
        match names.split_once('=') {
            Some((interface, bus)) if !interface.is_empty() && !bus.is_empty() => {
                Ok(Self { interface: interface.to_owned(), bus: bus.to_owned(), fd })
            }
            _ => bail!("{text:?} is not of the form INTERFACE=BUS or INTERFACE=BUS+fd"),
        }
    }
}

/// Keeps a joint for ever; says when it is made and when it is lost.
pub async fn join(server: &str, joint: &Joint) {
    let Joint { interface, bus, fd } = joint;
    let mut said = String::new();
    loop {
        let link = LinkAddress::SocketCan { interface: interface.clone() };
        let ended = match CanBus::open(&link, *fd).await {
            Ok(can) => join_once(server, bus, can, || eprintln!("{interface} is joined to {bus} of {server}")).await,
            Err(error) => Err(error.into()),
        };
        // The same trouble again and again is told once.
        if let Err(error) = ended {
            let text = format!("{interface} is not joined to {bus}: {error:#}");
            if text != said {
                eprintln!("{text}");
                said = text;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Joins `can` to a bus of the hub behind `server` until either ends.
pub async fn join_once(server: &str, bus: &str, can: CanBus, joined: impl FnOnce()) -> anyhow::Result<()> {
    let stream = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    write.write_all(format!("pitstop-hub 1 {bus}\n").as_bytes()).await?;
    let mut read = BufReader::new(read);
    let mut line = String::new();
    (&mut read).take(MAX_LINE).read_line(&mut line).await?;
    match line.trim_end() {
        "ok fd" => {}
        "ok classic" if !can.is_fd() => {}
        other => bail!("the hub answered {other:?}"),
    }
    joined();
    tokio::select! {
        ended = to_hub(&can, write) => ended,
        ended = from_hub(read, &can) => ended,
    }
}

async fn to_hub(can: &CanBus, mut write: OwnedWriteHalf) -> anyhow::Result<()> {
    let mut frames = can.subscribe(None);
    let mut message = Vec::with_capacity(80);
    loop {
        match frames.next().await {
            Ok(frame) => {
                message.clear();
                HubMessage::Send(frame).encode_into(&mut message);
                write.write_all(&message).await?;
            }
            Err(error @ CanError::Lagged { .. }) => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn from_hub(mut read: BufReader<OwnedReadHalf>, can: &CanBus) -> anyhow::Result<()> {
    let mut received = Vec::with_capacity(4096);
    loop {
        if read.read_buf(&mut received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut rest = received.as_slice();
        while let Some(message) = HubMessage::decode_from(&mut rest)? {
            if let HubMessage::Received(frame) = message {
                // Not waited for: the interface's queue keeps the order, and the next frame need not wait for this one's time.
                drop(can.send(frame).await?);
            }
        }
        let used = received.len() - rest.len();
        received.drain(..used);
    }
}

/// Sends back every ISO-TP message that comes to 6A0 (flow control from 6A8), from 6B0 (flow control to 6B8): two channels, so that
/// each of the other side's programs has one of its own.
pub async fn echo(interface: &str, fd: bool) -> anyhow::Result<()> {
    let link = LinkAddress::SocketCan { interface: interface.to_owned() };
    let bus = CanBus::open(&link, fd).await?;
    let channel = |transmit, receive| {
        let settings = IsoTpSettings::tester("peer", CanId::Standard(transmit), CanId::Standard(receive), fd);
        IsoTpChannel::open(&bus, settings)
    };
    let (mut from, mut to) = (channel(0x6A8, 0x6A0)?, channel(0x6B0, 0x6B8)?);
    loop {
        let message = from.receive().await?;
        if let Err(error) = to.send(Addressing::Physical, &message).await {
            eprintln!("{} bytes are not sent back: {error}", message.len());
        }
    }
}

/// Hands every connection to the hub's socket. The hub may be restarted meanwhile; its peers connect again.
pub async fn relay(listener: TcpListener, hub: &Path) -> io::Result<()> {
    loop {
        let (peer, _) = listener.accept().await?;
        peer.set_nodelay(true)?;
        tokio::spawn(relay_one(peer, hub.to_owned()));
    }
}

async fn relay_one(mut peer: TcpStream, hub: PathBuf) {
    let ended = async {
        let mut hub = UnixStream::connect(&hub).await?;
        tokio::io::copy_bidirectional(&mut peer, &mut hub).await
    };
    if let Err(error) = ended.await {
        eprintln!("a connection to {} ended: {error}", hub.display());
    }
}
