//! What every service does alike: start, configuration, journal, bus, watchdog, and operation objects.
//!
//! A service's entry is [`run`]; what it is given is a [`Context`]. Long work goes through [`Operations`] on the serving side and
//! [`operation::wait`] on the asking side.

mod args;
mod backoff;
mod clock;
mod config;
mod context;
mod journal;
pub mod operation;
mod server;
pub mod testing;

pub use args::{Args, ArgsError};
pub use backoff::{Backoff, spread};
pub use clock::wall_clock;
pub use config::{ConfigError, load as load_config};
pub use context::{BusClosed, Context, run};
pub use server::{Durability, Key, OperationHandle, Operations, ResultData};
