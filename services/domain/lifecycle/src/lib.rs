//! One update of one vehicle, from the decision to its end, without any I/O.
//!
//! Read in this order: [`Phase`] (where an update can be), [`Event`] (what can happen), [`table`] (what is allowed),
//! [`Record`] (all that is remembered), [`Effect`] (what is to be done now). [`plan`] makes the record's steps from
//! a decision and the vehicle as it is.
//!
//! A driver of this machine does nothing but this: read the record; tell it [`Event::Started`]; write the record that
//! comes back; do what [`effects`] names; tell the outcome as an event; write; and so on. The record is written
//! *before* what it announces is done, and what is to be done follows from the record alone. So a power cut at any
//! point costs at most a repetition, and every effect must bear repetition.

mod draw;
mod effect;
mod event;
mod machine;
mod phase;
pub mod plan;
mod record;
#[cfg(any(test, feature = "sim"))]
#[allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "for tests: a panic there is the report"
)]
pub mod sim;
pub mod table;

pub use draw::{drawing, full_table};
pub use effect::{Effect, effects, next_timer, timer_event};
pub use event::{Answer, Boot, Duty, Event, EventKind, Failure, Role};
pub use machine::Refused;
pub use phase::{Direction, Phase};
pub use plan::{Plan, PlanRefusal, VehicleFacts};
pub use record::{Consent, FORMAT, READABLE_FROM, Record, SlotPair, Step, StepKind, StepState};

#[cfg(test)]
mod tests;
