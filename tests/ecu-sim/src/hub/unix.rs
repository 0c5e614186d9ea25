//! Participants over the Unix socket.

use std::io;

use pitstop_can::hub::{HubMessage, MAX_LINE};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::Hub;
use super::bus::Participant;

pub(super) async fn serve(listener: UnixListener, hub: Hub) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = hub.clone();
                tokio::spawn(async move {
                    if let Err(error) = participant(stream, &hub).await {
                        log::debug!("a participant left the hub: {error}");
                    }
                });
            }
            Err(error) => {
                log::error!("the hub's socket: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn participant(stream: UnixStream, hub: &Hub) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    (&mut read).take(MAX_LINE).read_line(&mut line).await?;
    let bus = line.strip_prefix("pitstop-hub 1 ").and_then(|name| hub.bus(name.trim_end()));
    let Some(bus) = bus else {
        return write.write_all(b"error no such bus\n").await;
    };
    let Some(mut participant) = bus.join().await else {
        return write.write_all(b"error the bus has ended\n").await;
    };
    let answer = if bus.fd { "ok fd\n" } else { "ok classic\n" };
    write.write_all(answer.as_bytes()).await?;
    let messages = participant.take_messages().ok_or(io::ErrorKind::Other)?;
    // Either end of the connection ends both.
    tokio::select! {
        result = from_participant(read, &participant, bus.fd) => result,
        result = to_participant(write, messages) => result,
    }
}

async fn from_participant(mut read: BufReader<OwnedReadHalf>, participant: &Participant, fd: bool) -> io::Result<()> {
    let mut received = Vec::with_capacity(4096);
    loop {
        if read.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let mut rest = received.as_slice();
        while let Some(message) = HubMessage::decode_from(&mut rest)? {
            match message {
                HubMessage::Send(frame) if fd || !frame.is_fd() => participant.send(frame),
                _ => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "participants send frames their bus takes"));
                }
            }
        }
        let used = received.len() - rest.len();
        received.drain(..used);
    }
}

async fn to_participant(mut write: OwnedWriteHalf, mut messages: mpsc::Receiver<HubMessage>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(4096);
    while let Some(message) = messages.recv().await {
        batch.clear();
        message.encode_into(&mut batch);
        while let Ok(more) = messages.try_recv() {
            more.encode_into(&mut batch);
        }
        write.write_all(&batch).await?;
    }
    Ok(())
}
