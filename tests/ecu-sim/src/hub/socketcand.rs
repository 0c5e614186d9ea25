//! Participants by the socketcand protocol, raw mode: `hi`, `open BUS`, `rawmode`, then frames.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pitstop_can::hub::HubMessage;
use pitstop_can::socketcand::{Elements, frame_element, read_element};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Hub;
use super::bus::Participant;

/// Frames wait so long after the last `< ok >`: python-can takes a frame that arrives together with it for a wrong answer.
const FIRST_FRAME_AFTER: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, hub: Hub) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let hub = hub.clone();
                tokio::spawn(async move {
                    if let Err(error) = participant(stream, &hub).await {
                        log::debug!("socketcand peer {peer} left: {error}");
                    }
                });
            }
            Err(error) => {
                log::error!("the socketcand port: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn participant(stream: TcpStream, hub: &Hub) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    let mut elements = Elements::default();
    write.write_all(b"< hi >").await?;
    let open = next(&mut read, &mut elements).await?;
    let bus = open.strip_prefix("open ").and_then(|name| hub.bus(name.trim()));
    let Some((bus, mut participant)) = (match bus {
        Some(bus) => bus.join().await.map(|participant| (bus, participant)),
        None => None,
    }) else {
        return write.write_all(b"< error could not open bus >").await;
    };
    write.write_all(b"< ok >").await?;
    if next(&mut read, &mut elements).await? != "rawmode" {
        return write.write_all(b"< error only raw mode is served >").await;
    }
    write.write_all(b"< ok >").await?;
    log::debug!("a socketcand peer joined {}", if bus.fd { "an FD bus" } else { "a classic bus" });
    let messages = participant.take_messages().ok_or(io::ErrorKind::Other)?;
    tokio::select! {
        result = from_peer(read, elements, &participant) => result,
        result = to_peer(write, messages) => result,
    }
}

async fn next(read: &mut OwnedReadHalf, elements: &mut Elements) -> io::Result<String> {
    loop {
        if let Some(element) = elements.next_element()? {
            return Ok(element);
        }
        more(read, elements).await?;
    }
}

async fn more(read: &mut OwnedReadHalf, elements: &mut Elements) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let count = read.read(&mut buffer).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    elements.push(buffer.get(..count).unwrap_or_default());
    Ok(())
}

async fn from_peer(mut read: OwnedReadHalf, mut elements: Elements, participant: &Participant) -> io::Result<()> {
    loop {
        let element = next(&mut read, &mut elements).await?;
        // What is no frame (echo, statistics) needs no answer in raw mode.
        if let Some(frame) = read_element(&element).filter(|_| element.starts_with("send")) {
            participant.send(frame);
        }
    }
}

async fn to_peer(mut write: OwnedWriteHalf, mut messages: mpsc::Receiver<HubMessage>) -> io::Result<()> {
    tokio::time::sleep(FIRST_FRAME_AFTER).await;
    while let Some(message) = messages.recv().await {
        // The protocol has no FD frames and no confirmations.
        if let HubMessage::Received(frame) = message
            && !frame.is_fd()
        {
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            write.write_all(frame_element(&frame, seconds).as_bytes()).await?;
        }
    }
    Ok(())
}
