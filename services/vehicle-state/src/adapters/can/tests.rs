use pitstop_can::hub::HubMessage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::config::tests::shipped;

fn vehicle(buses: &str) -> Vehicle {
    Vehicle::read(&format!("vin = \"WP0ZZZ99ZTS392124\"\n[tcu]\nhardware = \"tcu-a1\"\n{buses}")).unwrap()
}

const CAN0: &str = "[[bus]]\nname = \"can0\"\nkind = \"can\"\nlink = \"hub:hub.sock#can0\"\nbitrate = 500000\n";

/// The hub's end of a bus.
struct Peer(UnixStream);

impl Peer {
    async fn accept(hub: &UnixListener) -> Self {
        let (mut stream, _) = hub.accept().await.unwrap();
        let mut greeting = [0; 19];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"pitstop-hub 1 can0\n");
        stream.write_all(b"ok classic\n").await.unwrap();
        Self(stream)
    }

    async fn broadcast(&mut self, id: u16, data: &[u8]) {
        let mut bytes = Vec::new();
        HubMessage::Received(CanFrame::classic(CanId::Standard(id), data).unwrap()).encode_into(&mut bytes);
        self.0.write_all(&bytes).await.unwrap();
    }
}

#[tokio::test]
async fn mapped_frames_come_in_and_a_sent_one_is_confirmed() {
    let root = tempfile::tempdir().unwrap();
    let hub = UnixListener::bind(root.path().join("hub.sock")).unwrap();
    let mut buses = CanBuses::open(&vehicle(CAN0), &shipped(), root.path()).unwrap();
    let mut peer = Peer::accept(&hub).await;
    // Subscribing follows the greeting without a sign on the wire, so the frame is repeated as ECUs do.
    let frame = loop {
        peer.broadcast(0x7E8, &[1; 8]).await;
        peer.broadcast(288, &[2; 8]).await;
        tokio::select! {
            biased;
            frame = buses.receive() => break frame,
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!((frame.id, frame.data.as_slice()), (FrameId::Standard(288), &[2; 8][..]), "others are left out");

    let order = Frame { bus: BusName::new("can0").unwrap(), id: FrameId::Standard(0x3C0), data: vec![1, 5] };
    let at_the_hub = async {
        let mut message = [0; 9];
        peer.0.read_exact(&mut message).await.unwrap();
        peer.0.write_all(&[3]).await.unwrap();
        message
    };
    let (sent, message) = tokio::join!(buses.send(order), at_the_hub);
    assert_eq!(sent, Ok(()));
    let wanted = HubMessage::Send(CanFrame::classic(CanId::Standard(0x3C0), &[1, 5]).unwrap());
    assert_eq!(HubMessage::decode_from(&mut &message[..]).unwrap(), Some(wanted));
}

#[tokio::test]
async fn a_bus_nobody_wants_is_closed_and_one_that_is_wanted_again_opened() {
    let root = tempfile::tempdir().unwrap();
    let hub = UnixListener::bind(root.path().join("hub.sock")).unwrap();
    let mut buses = CanBuses::open(&vehicle(CAN0), &shipped(), root.path()).unwrap();
    let mut peer = Peer::accept(&hub).await;
    buses.listen(false);
    assert_eq!(peer.0.read(&mut [0; 16]).await.unwrap(), 0, "closed");
    buses.listen(true);
    Peer::accept(&hub).await;
}

#[tokio::test]
async fn a_bus_that_is_away_is_no_error_until_something_is_sent() {
    let root = tempfile::tempdir().unwrap();
    let mut buses = CanBuses::open(&vehicle(CAN0), &shipped(), root.path()).unwrap();
    let order = Frame { bus: BusName::new("can0").unwrap(), id: FrameId::Standard(0x3C0), data: vec![1, 5] };
    assert!(buses.send(order).await.unwrap_err().to_string().contains("not open"));
}

#[tokio::test]
async fn a_bus_the_vehicle_does_not_have_is_an_error() {
    let error = CanBuses::open(&vehicle(""), &shipped(), Path::new("/")).err().unwrap();
    assert!(error.to_string().contains("can0"), "{error}");
}
