//! A simulated vehicle in memory: ECUs with banks, slots with a boot decision, a driver, storage; and the smallest
//! possible driver of the machine. Power can be cut at any numbered point: before, within and after every effect,
//! before and after every durable write.

mod drive;
mod judge;
mod slots;
mod vehicle;
mod world;

pub use drive::{Outcome, live_on, run};
pub use slots::SimSlots;
pub use vehicle::{decision, facts, software};
pub use world::{Careless, Faults, Power, SimEcu, Stop, World};
