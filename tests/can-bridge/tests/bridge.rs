//! The bridge between a hub that stands in for the simulated vehicle's and another that stands in for the guest's interface.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::path::Path;

use pitstop_can::hub::HubMessage;
use pitstop_can::{CanBus, CanFrame, CanId, LinkAddress};
use pitstop_can_bridge::{Joint, join_once, relay};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// One participant's end of a hub: what it sends can be read, and it can be sent frames.
async fn accept(listener: &UnixListener) -> (String, BufReader<UnixStream>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    stream.write_all(b"ok fd\n").await.unwrap();
    (line, stream)
}

async fn next(stream: &mut BufReader<UnixStream>) -> HubMessage {
    let mut bytes = Vec::new();
    loop {
        let mut rest = bytes.as_slice();
        if let Some(message) = HubMessage::decode_from(&mut rest).unwrap() {
            return message;
        }
        bytes.push(stream.read_u8().await.unwrap());
    }
}

async fn bring(stream: &mut BufReader<UnixStream>, frame: CanFrame) {
    let mut bytes = Vec::new();
    HubMessage::Received(frame).encode_into(&mut bytes);
    stream.write_all(&bytes).await.unwrap();
}

async fn interface(path: &Path) -> CanBus {
    CanBus::open(&LinkAddress::Hub { path: path.to_owned(), bus: "far".to_owned() }, true).await.unwrap()
}

#[tokio::test]
async fn frames_of_both_kinds_cross_in_both_directions_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (vehicle, guest) = (folder.path().join("vehicle"), folder.path().join("guest"));
    let (vehicle_hub, guest_hub) = (UnixListener::bind(&vehicle).unwrap(), UnixListener::bind(&guest).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { relay(listener, &vehicle).await });
    let (can, (_, mut near)) = tokio::join!(interface(&guest), accept(&guest_hub));
    tokio::spawn(async move { join_once(&server, "can1", can, || {}).await });
    let (asked, mut far) = accept(&vehicle_hub).await;
    assert_eq!(asked, "pitstop-hub 1 can1\n");

    let frames: Vec<CanFrame> = (0..200_u32)
        .map(|n| CanFrame::new(CanId::from_number(0x700 + n % 16).unwrap(), n % 2 == 1, &n.to_be_bytes()).unwrap())
        .collect();
    for frame in &frames {
        bring(&mut far, *frame).await;
        assert_eq!(next(&mut near).await, HubMessage::Send(*frame));
        bring(&mut near, *frame).await;
        assert_eq!(next(&mut far).await, HubMessage::Send(*frame));
    }
}

#[test]
fn joints_are_read() {
    let joint = |interface: &str, bus: &str, fd| Joint { interface: interface.into(), bus: bus.into(), fd };
    assert_eq!("far0=can0".parse::<Joint>().unwrap(), joint("far0", "can0", false));
    assert_eq!("vcan1=can1+fd".parse::<Joint>().unwrap(), joint("vcan1", "can1", true));
    for wrong in ["", "far0", "=can0", "far0=", "+fd"] {
        assert!(wrong.parse::<Joint>().is_err(), "{wrong}");
    }
}
