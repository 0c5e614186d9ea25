//! A vehicle's worth of simulated ECUs.

mod content;
mod ecu;
mod fault;
mod flash;
mod vehicle;
