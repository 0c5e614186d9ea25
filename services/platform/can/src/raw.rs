//! SocketCAN: raw sockets of the Linux kernel, classic and FD.

use std::future::Future;
use std::io;
use std::time::Duration;

use socketcan::tokio::CanFdSocket;
use socketcan::{CanAnyFrame, CanDataFrame, CanFdFrame, EmbeddedFrame, ExtendedId, Frame, Id, StandardId, id::FdFlags};
use tokio::time::Instant;

use crate::bus::{Outgoing, Wire};
use crate::{CanBus, CanError, CanFrame, CanId};

/// How long a frame may wait for room in the driver's queue. N_As of ISO 15765-2, 1000 ms: nobody on the bus acknowledges then.
/// What that queue has taken (ten frames, usually) cannot be taken back.
const HAND_OVER_LIMIT: Duration = Duration::from_millis(1000);

/// Opens an interface. Frames of both kinds are read; FD frames are sent only when `fd`.
pub(crate) fn open(interface: &str, fd: bool) -> Result<CanBus, CanError> {
    let socket = CanFdSocket::open(interface).map_err(|source| CanError::Open { bus: interface.into(), source })?;
    let (bus, wire) = CanBus::new(interface, fd);
    let name = interface.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run(&socket, wire).await {
            log::warn!("CAN interface {name} is lost: {error}");
        }
    });
    Ok(bus)
}

/// What is asked of the kernel's socket. Both are cancel safe.
trait Interface: Sync {
    fn write(&self, frame: &CanAnyFrame) -> impl Future<Output = io::Result<()>> + Send;
    fn read(&self) -> impl Future<Output = io::Result<CanAnyFrame>> + Send;
}

impl Interface for CanFdSocket {
    async fn write(&self, frame: &CanAnyFrame) -> io::Result<()> {
        match frame {
            CanAnyFrame::Fd(frame) => self.write_frame(frame).await,
            CanAnyFrame::Normal(frame) => self.write_frame(frame).await,
            CanAnyFrame::Remote(_) | CanAnyFrame::Error(_) => Ok(()),
        }
    }

    async fn read(&self) -> io::Result<CanAnyFrame> {
        self.read_frame().await
    }
}

/// The frame whose turn it is.
struct Turn {
    outgoing: Outgoing,
    frame: CanAnyFrame,
    until: Instant,
}

enum HandedOver {
    Sent,
    Withdrawn,
    /// Not within [`HAND_OVER_LIMIT`].
    Late,
}

async fn run(socket: &impl Interface, mut wire: Wire) -> io::Result<()> {
    let mut turn: Option<Turn> = None;
    loop {
        let is_free = turn.is_none();
        let handed_over = async {
            match &mut turn {
                Some(turn) => hand_over(socket, turn).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = handed_over => match (result?, turn.take()) {
                (HandedOver::Sent, Some(Turn { outgoing, .. })) => outgoing.settle(Ok(())),
                (HandedOver::Late, Some(Turn { outgoing, .. })) => wire.refuse(outgoing),
                _ => {}
            },
            outgoing = wire.next(), if is_free => {
                let Some(outgoing) = outgoing else { return Ok(()) };
                let until = Instant::now() + HAND_OVER_LIMIT;
                turn = to_kernel(&outgoing.frame).map(|frame| Turn { outgoing, frame, until });
            }
            frame = socket.read() => {
                if let Some(frame) = from_kernel(&frame?) {
                    wire.deliver(frame);
                }
            }
        }
    }
}

/// Cancel safe: begun again, it goes on.
async fn hand_over(socket: &impl Interface, turn: &mut Turn) -> io::Result<HandedOver> {
    tokio::select! {
        biased;
        () = turn.outgoing.withdrawn() => Ok(HandedOver::Withdrawn),
        written = write(socket, &turn.frame) => written.map(|()| HandedOver::Sent),
        () = tokio::time::sleep_until(turn.until) => Ok(HandedOver::Late),
    }
}

async fn write(socket: &impl Interface, frame: &CanAnyFrame) -> io::Result<()> {
    loop {
        match socket.write(frame).await {
            // The driver's queue is full and poll does not tell when it has room (net/can/raw.c): ask again a frame later.
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => tokio::time::sleep(Duration::from_millis(1)).await,
            other => return other,
        }
    }
}

const ENOBUFS: i32 = 105;

fn to_kernel(frame: &CanFrame) -> Option<CanAnyFrame> {
    let id = match frame.id() {
        CanId::Standard(id) => Id::Standard(StandardId::new(id)?),
        CanId::Extended(id) => Id::Extended(ExtendedId::new(id)?),
    };
    if frame.is_fd() {
        CanFdFrame::with_flags(id, frame.data(), FdFlags::BRS).map(CanAnyFrame::Fd)
    } else {
        CanDataFrame::new(id, frame.data()).map(CanAnyFrame::Normal)
    }
}

fn from_kernel(frame: &CanAnyFrame) -> Option<CanFrame> {
    let (fd, data) = match frame {
        CanAnyFrame::Normal(frame) => (false, frame.data()),
        CanAnyFrame::Fd(frame) => (true, frame.data()),
        CanAnyFrame::Remote(_) | CanAnyFrame::Error(_) => return None,
    };
    let id = match (frame.is_extended(), frame.raw_id()) {
        (true, id) => CanId::Extended(id),
        (false, id) => CanId::Standard(u16::try_from(id).ok()?),
    };
    CanFrame::new(id, fd, data).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{DiagnosticLink, IsoTpChannel, IsoTpSettings};

    /// An interface whose driver has no room while `dead`, and that receives one frame a millisecond all the same.
    #[derive(Clone, Default)]
    struct Fake {
        dead: Arc<AtomicBool>,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Interface for Fake {
        async fn write(&self, frame: &CanAnyFrame) -> io::Result<()> {
            if self.dead.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(ENOBUFS));
            }
            self.sent.lock().unwrap().push(from_kernel(frame).unwrap().data().to_vec());
            Ok(())
        }

        async fn read(&self) -> io::Result<CanAnyFrame> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(to_kernel(&frame(0x123, 0xEE)).unwrap())
        }
    }

    fn frame(id: u32, byte: u8) -> CanFrame {
        CanFrame::classic(CanId::from_number(id).unwrap(), &[byte]).unwrap()
    }

    fn start(dead: bool) -> (CanBus, Fake) {
        let (bus, wire) = CanBus::new("can0", false);
        let fake = Fake::default();
        fake.dead.store(dead, Ordering::Relaxed);
        let interface = fake.clone();
        tokio::spawn(async move { run(&interface, wire).await });
        (bus, fake)
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_nobody_acknowledges_still_receives_and_drops_what_it_could_not_send() {
        let (bus, fake) = start(true);
        let mut received = bus.subscribe(None);
        let mut sent = Vec::new();
        for byte in 0..3 {
            sent.push(bus.send(frame(0x7E0, byte)).await.unwrap());
        }
        let started = Instant::now();
        for sent in sent {
            assert!(matches!(sent.await, Err(CanError::NotSent { .. })));
        }
        assert_eq!(started.elapsed().as_millis() / 100, 10, "{:?}", started.elapsed());
        assert_eq!(received.next().await.unwrap(), frame(0x123, 0xEE));
        fake.dead.store(false, Ordering::Relaxed);
        bus.send(frame(0x7E0, 9)).await.unwrap().await.unwrap();
        assert_eq!(*fake.sent.lock().unwrap(), [[9]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_failed_on_a_dead_bus_is_not_sent_when_the_bus_heals() {
        let (bus, fake) = start(true);
        let (request, response) = (CanId::Standard(0x7E0), CanId::Standard(0x7E8));
        let mut channel = IsoTpChannel::open(&bus, IsoTpSettings::tester("bcm", request, response, false)).unwrap();
        for addressing in [pitstop_uds::Addressing::Physical, pitstop_uds::Addressing::Functional] {
            channel.send(addressing, &[0x10, 0x02]).await.unwrap_err();
        }
        fake.dead.store(false, Ordering::Relaxed);
        channel.send(pitstop_uds::Addressing::Physical, &[0x3E, 0x00]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let sent = fake.sent.lock().unwrap().clone();
        assert_eq!(sent, [[0x02, 0x3E, 0x00, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_is_full_for_a_while_gets_every_frame_in_order() {
        let (bus, fake) = start(true);
        let sent = [bus.send(frame(0x7E0, 1)).await.unwrap(), bus.send(frame(0x7E0, 2)).await.unwrap()];
        tokio::time::sleep(Duration::from_millis(900)).await;
        fake.dead.store(false, Ordering::Relaxed);
        for sent in sent {
            sent.await.unwrap();
        }
        assert_eq!(*fake.sent.lock().unwrap(), [[1], [2]]);
    }

    #[test]
    fn frames_reach_the_kernels_form_and_come_back() {
        for (id, fd, length) in [(0x7E0, false, 3), (0x18DA_10F1, false, 8), (0x7E1, true, 64), (0x123, true, 8)] {
            let frame = CanFrame::new(CanId::from_number(id).unwrap(), fd, &vec![0x5A; length]).unwrap();
            assert_eq!(from_kernel(&to_kernel(&frame).unwrap()), Some(frame));
        }
    }
}
