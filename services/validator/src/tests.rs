//! The service with repositories and ECUs in memory, real bundles, and files in a temporary folder.

#[path = "../../domain/uptane/tests/world/mod.rs"]
mod world;

mod admission;
mod contract;
mod cuts;
mod local;
mod manifest;
mod stage;
mod verify;
