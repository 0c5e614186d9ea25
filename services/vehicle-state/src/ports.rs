use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_conditions::FrameId;
use pitstop_types::{BusName, UnixSeconds};

/// A CAN frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub bus: BusName,
    pub id: FrameId,
    pub data: Vec<u8>,
}

/// The vehicle's buses, all in one.
#[async_trait]
pub trait Buses: Send {
    /// The next frame that carries a mapped signal. Cancel safe. A bus that fails is opened again behind it.
    async fn receive(&mut self) -> Frame;

    /// Says whether anybody needs frames. While nobody does, the buses are closed. Begins with yes.
    fn listen(&mut self, on: bool);

    /// Puts a frame on its bus. An error means that it is not known to have gone out.
    async fn send(&mut self, frame: Frame) -> Result<(), SendError>;
}

/// The bus is away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sending on {bus}: {cause}")]
pub struct SendError {
    pub bus: BusName,
    pub cause: String,
}

/// The two clocks.
#[derive(Clone)]
pub struct Clocks {
    /// Time since any origin that goes on while the computer sleeps, so that signals age meanwhile.
    pub monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// `None` while the time is not known.
    pub wall: fn() -> Option<UnixSeconds>,
}
