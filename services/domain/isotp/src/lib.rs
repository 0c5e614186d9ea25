//! ISO-TP (ISO 15765-2:2016): messages of up to 4 GiB on CAN and CAN FD frames of 8 to 64 bytes, without I/O.
//!
//! - [`Pdu`]: one frame's transport fields (single, first, consecutive, flow control) with their codec;
//! - [`IsoTp`]: one pair of addresses, sending and receiving at the same time (full duplex);
//! - [`Settings`]: frame length, padding, address byte, flow control wishes, limits and timeouts.
//!
//! The machine deals in the *data fields* of frames; identifiers belong to who owns the bus. After each input drain
//! [`IsoTp::poll_transmit`] and [`IsoTp::poll_event`], then wait until [`IsoTp::poll_timeout`] or the next input. Report each
//! transmitted frame with [`IsoTp::handle_sent`], for timers start when a frame was on the bus, not when it was queued.

mod machine;
mod pdu;
mod receiver;
mod sender;

pub use machine::{Event, IsoTp, Settings, SettingsError};
pub use pdu::{FlowStatus, Pdu, PduError, fd_length};
pub use receiver::ReceiveError;
pub use sender::{SendError, SendRefused};

/// Monotonic time since any fixed origin.
pub type Monotonic = std::time::Duration;
