//! How an ECU is flashed, without any I/O.
//!
//! Read it in the order of the work:
//! - [`vehicle`]: `vehicle.toml`, which ECUs there are and how each is reached;
//! - [`profile`]: what car makers vary about flashing, as data;
//! - [`EcuIdentity`]: what an ECU says of itself;
//! - [`TransferPlan`]: from bundle, profile and identity, what is erased and sent, and how long that takes; pure and printable;
//! - [`Installation`]: the machine that carries one job out on one ECU: which request next, and what each answer means.

mod blank;
mod hex;
mod identity;
pub mod install;
mod plan;
pub mod profile;
pub mod seed_key;
pub mod vehicle;

pub use blank::BlankFinder;
pub use hex::{HexBytes, HexError};
pub use identity::{EcuIdentity, Ident};
pub use install::{Act, Failure, Gate, Installation, Order, Outcome, Phase, Success};
pub use plan::{EraseRange, Group, Piece, PlanError, PlanInput, PlannedSegment, TransferPlan};
pub use profile::{Job, Profile, ProfileError};
pub use vehicle::{Banks, Vehicle, VehicleError};
