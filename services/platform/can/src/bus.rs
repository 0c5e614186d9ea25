use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use crate::{CanFrame, CanId, FrameError, LinkAddress, hub, raw, socketcand};

/// Frames between us and a backend that wait to be sent.
const OUTGOING: usize = 64;

/// Received frames that wait for their receiver. More than any ISO-TP window; a receiver that lets them pile up loses frames and
/// is told so.
const INCOMING: usize = 1024;

/// Why a bus did not carry a frame.
#[derive(Debug, thiserror::Error)]
pub enum CanError {
    #[error("opening {bus} failed")]
    Open {
        bus: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{bus} is gone")]
    Closed { bus: String },
    #[error("the peer of {bus} does not keep to the protocol: {what}")]
    Protocol { bus: String, what: String },
    #[error("{link:?} is not a CAN bus")]
    NotCan { link: LinkAddress },
    #[error("{bus} carries no CAN FD frames")]
    NoFd { bus: String },
    #[error("{bus} did not take a frame in time")]
    NotSent { bus: String },
    #[error("{bus}: a receiver was too slow and lost frames")]
    Lagged { bus: String },
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One CAN bus, shared by clones. When the backend loses it, every clone and receiver ends with [`CanError::Closed`]; open it anew.
#[derive(Clone)]
pub struct CanBus {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
}

struct Shared {
    name: String,
    fd: bool,
    subscribers: Mutex<Vec<Subscriber>>,
}

struct Subscriber {
    ids: Option<Vec<CanId>>,
    frames: mpsc::Sender<CanFrame>,
    lagged: Arc<std::sync::atomic::AtomicBool>,
}

/// A frame for a backend to send and then to confirm.
pub(crate) struct Outgoing {
    pub(crate) frame: CanFrame,
    sent: oneshot::Sender<Result<(), CanError>>,
    withdrawable: bool,
}

impl Outgoing {
    /// Who sent it has given up: it must not reach the bus any more.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawable && self.sent.is_closed()
    }

    /// Completes when [`Outgoing::is_withdrawn`]. Cancel safe.
    pub(crate) async fn withdrawn(&mut self) {
        match self.withdrawable {
            true => self.sent.closed().await,
            false => std::future::pending().await,
        }
    }

    pub(crate) fn settle(self, outcome: Result<(), CanError>) {
        // Who sent it need not wait for it.
        let _ = self.sent.send(outcome);
    }
}

/// A backend's end of a bus.
pub(crate) struct Wire {
    outgoing: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
}

impl CanBus {
    /// Opens the bus a link names. `fd`: CAN FD frames too.
    pub async fn open(link: &LinkAddress, fd: bool) -> Result<Self, CanError> {
        match link {
            LinkAddress::Hub { path, bus } => hub::open(path, bus, fd).await,
            LinkAddress::SocketCan { interface } => raw::open(interface, fd),
            LinkAddress::Socketcand { host, port, bus } if !fd => socketcand::open(host, *port, bus).await,
            LinkAddress::Socketcand { bus, .. } => Err(CanError::NoFd { bus: bus.clone() }),
            LinkAddress::Tcp { .. } => Err(CanError::NotCan { link: link.clone() }),
        }
    }

    pub(crate) fn new(name: &str, fd: bool) -> (Self, Wire) {
        let shared = Arc::new(Shared { name: name.into(), fd, subscribers: Mutex::default() });
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        (Self { shared: shared.clone(), outgoing: sender }, Wire { outgoing, shared })
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether CAN FD frames may be sent.
    pub fn is_fd(&self) -> bool {
        self.shared.fd
    }

    /// Queues a frame, waiting for room; the answer completes when the frame was on the bus (on backends that cannot tell: when
    /// it was handed over). Frames of one caller keep their order; a frame whose answer is dropped is sent all the same.
    pub async fn send(&self, frame: CanFrame) -> Result<Sent, CanError> {
        if frame.is_fd() && !self.shared.fd {
            return Err(CanError::NoFd { bus: self.shared.name.clone() });
        }
        let (outgoing, sent) = self.outgoing(frame, false);
        self.outgoing.send(outgoing).await.map_err(|_| self.shared.closed())?;
        Ok(sent)
    }

    /// Room for one frame, once there is some. Cancel safe.
    pub(crate) async fn room(&self) -> Result<Room<'_>, CanError> {
        let place = self.outgoing.reserve().await.map_err(|_| self.shared.closed())?;
        Ok(Room { bus: self, place })
    }

    /// Room for one frame, if there is some now.
    pub(crate) fn try_room(&self) -> Result<Option<Room<'_>>, CanError> {
        match self.outgoing.try_reserve() {
            Ok(place) => Ok(Some(Room { bus: self, place })),
            Err(mpsc::error::TrySendError::Full(())) => Ok(None),
            Err(mpsc::error::TrySendError::Closed(())) => Err(self.shared.closed()),
        }
    }

    fn outgoing(&self, frame: CanFrame, withdrawable: bool) -> (Outgoing, Sent) {
        let (sent, confirmed) = oneshot::channel();
        (Outgoing { frame, sent, withdrawable }, Sent { confirmed, bus: self.shared.name.clone() })
    }

    /// Receives frames with these identifiers from now on; `None`: all. Own frames do not come back.
    pub fn subscribe(&self, ids: Option<Vec<CanId>>) -> FrameReceiver {
        let (sender, frames) = mpsc::channel(INCOMING);
        let lagged = Arc::default();
        let subscriber = Subscriber { ids, frames: sender, lagged: Arc::clone(&lagged) };
        // After the backend has ended nobody would ever drop the sender, so an ended bus keeps no subscriber.
        if !self.outgoing.is_closed() {
            self.shared.subscribers().push(subscriber);
        }
        FrameReceiver { bus: self.shared.name.clone(), frames, lagged }
    }
}

/// A place in the queue of frames to send.
pub(crate) struct Room<'a> {
    bus: &'a CanBus,
    place: mpsc::Permit<'a, Outgoing>,
}

impl Room<'_> {
    /// Queues a frame that the bus can carry. Dropping the answer takes the frame back, as long as it has not left for the bus.
    pub(crate) fn send(self, frame: CanFrame) -> Sent {
        let (outgoing, sent) = self.bus.outgoing(frame, true);
        self.place.send(outgoing);
        sent
    }
}

impl Shared {
    fn subscribers(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        // A panic elsewhere leaves the list whole: pushes and removals are single steps.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> CanError {
        CanError::Closed { bus: self.name.clone() }
    }
}

impl Wire {
    /// The next frame to send. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Outgoing> {
        loop {
            let outgoing = self.outgoing.recv().await?;
            if !outgoing.is_withdrawn() {
                return Some(outgoing);
            }
        }
    }

    /// The next frame to send, if one waits.
    pub(crate) fn try_next(&mut self) -> Option<Outgoing> {
        std::iter::from_fn(|| self.outgoing.try_recv().ok()).find(|outgoing| !outgoing.is_withdrawn())
    }

    /// The bus takes nothing: this frame and all that wait behind it are old when it does again, and are dropped.
    pub(crate) fn refuse(&mut self, first: Outgoing) {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            outgoing.settle(Err(CanError::NotSent { bus: self.shared.name.clone() }));
            next = self.try_next();
        }
    }

    /// Hands a received frame to whoever asked for its identifier.
    pub(crate) fn deliver(&self, frame: CanFrame) {
        self.shared.subscribers().retain(|subscriber| {
            if subscriber.ids.as_ref().is_some_and(|ids| !ids.contains(&frame.id())) {
                return !subscriber.frames.is_closed();
            }
            match subscriber.frames.try_send(frame) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.lagged.store(true, std::sync::atomic::Ordering::Relaxed);
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

impl Drop for Wire {
    /// The backend has ended: receivers see the end of their channel.
    fn drop(&mut self) {
        self.outgoing.close();
        self.shared.subscribers().clear();
    }
}

/// Completes when the frame was on the bus.
pub struct Sent {
    confirmed: oneshot::Receiver<Result<(), CanError>>,
    bus: String,
}

impl Future for Sent {
    type Output = Result<(), CanError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let confirmed = Pin::new(&mut self.confirmed).poll(context);
        confirmed.map(|result| result.unwrap_or_else(|_| Err(CanError::Closed { bus: self.bus.clone() })))
    }
}

/// Frames of one bus, by identifier.
pub struct FrameReceiver {
    bus: String,
    frames: mpsc::Receiver<CanFrame>,
    lagged: Arc<std::sync::atomic::AtomicBool>,
}

impl FrameReceiver {
    /// The next frame. Cancel safe. [`CanError::Lagged`] is reported once, before the next frame; [`CanError::Closed`] is final.
    pub async fn next(&mut self) -> Result<CanFrame, CanError> {
        if self.lagged.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Err(CanError::Lagged { bus: self.bus.clone() });
        }
        self.frames.recv().await.ok_or_else(|| CanError::Closed { bus: self.bus.clone() })
    }
}
