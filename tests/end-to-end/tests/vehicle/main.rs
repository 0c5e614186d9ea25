//! Stories on the whole vehicle: every test has a vehicle, a bus, a backend and control units of its own.
//!
//! What they share is in [`drive`]. Run them by `cargo xtask test`, which builds the programs they start.

mod bad_calls;
mod drive;
mod ecus_that_fail;
mod looking_on;
mod network;
mod prompts;
mod tester;
mod workshop;
