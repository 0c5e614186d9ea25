/// Why a bus did not carry a frame.
#[derive(Debug, thiserror::Error)]
pub enum CanError {
    #[error("opening {bus} failed")]
    Open {
        bus: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{bus} failed")]
    Io {
        bus: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{bus} is gone")]
    Closed { bus: String },
    #[error("the peer of {bus} does not keep to the protocol: {what}")]
    Protocol { bus: String, what: String },
    #[error("{bus} carries no CAN FD frames")]
    NoFd { bus: String },
    #[error("{bus}: a receiver was too slow and lost {frames} frames")]
    Lagged { bus: String, frames: u64 },
}
