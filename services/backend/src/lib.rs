//! The backend of Pitstop: update, device and campaign management, the Uptane Director and Image repositories, downloads.
//!
//! Read in this order: [`model`] (what is known), [`rules`] (pure decisions: who is eligible, when a campaign stops),
//! [`assignments`] (how one vehicle's part moves), then the services on [`Backend`]: [`vehicles`], [`ecus`] and [`bundles`], [`releases`],
//! [`campaigns`] and [`controller`], [`director`] and [`image`], [`offline`] (workshops), [`status`]. [`store`] keeps it, [`http`] and [`mqtt`] let the
//! world in, [`init`] makes a new backend's keys and files.
//!
//! One rule above all: a vehicle's update has succeeded when a signed manifest, later than the offer, equals what was assigned.
//! Nothing unsigned says so.

pub mod assignments;
pub mod backend;
pub mod bundles;
pub mod campaigns;
pub mod clock;
pub mod controller;
pub mod director;
pub mod ecus;
pub mod error;
pub mod http;
pub mod image;
pub mod init;
pub mod links;
pub mod metrics;
pub mod model;
pub mod mqtt;
pub mod offline;
pub mod progress;
pub mod releases;
pub mod rules;
pub mod serve;
pub mod settings;
pub mod status;
pub mod store;
pub mod vehicles;
pub mod verify;

mod audit;
#[cfg(test)]
mod testing;

pub use backend::Backend;
