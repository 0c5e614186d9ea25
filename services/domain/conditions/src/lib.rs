//! What the vehicle's signals say, and whether a condition holds.
//!
//! Read in this order: [`Layout`] takes one signal out of a frame's bytes; [`Database`] knows the messages of a DBC
//! file; [`SignalMap`] gives some of their signals COVESA VSS names; [`Signals`] keeps each one's last value with its
//! age; [`Expr`] is a parsed condition; [`ConditionSet::evaluate`] judges it.
//!
//! Evaluation is total and fails closed: a signal that is missing, stale, invalid or of the wrong kind makes a
//! comparison *unknown*; unknown never becomes true by `not`, and only true lets anything start (UN R156 7.2.2.1.3).
//! Nothing here reads a clock or a file. Monotonic time is a [`core::time::Duration`] since any fixed origin.

mod database;
mod eval;
mod expr;
mod layout;
mod lexer;
mod mapping;
mod parser;
mod set;
mod signals;
mod window;

pub use database::{Database, DatabaseError, FrameId, MAX_DBC_BYTES, Message};
pub use eval::{Reason, Truth, Verdict, WallClock};
pub use expr::{Comparison, Expr, Literal, MAX_DEPTH, MAX_EXPRESSION_BYTES, MAX_TERMS, Operator};
pub use layout::{ByteOrder, Layout, LayoutError, OutOfRange};
pub use mapping::{Kind, MAX_MAP_BYTES, MAX_SIGNALS, MapError, SignalMap, SignalName, SignalNameError, SignalSpec};
pub use parser::ParseError;
pub use set::{ConditionSet, MAX_EXPANDED_TERMS, SetError};
pub use signals::{Fault, Reading, Signals, Value};
pub use window::{Window, WindowError};

#[cfg(test)]
mod tests;
