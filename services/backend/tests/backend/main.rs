//! The backend over its real listeners, with devices that hold real keys.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a panic is the report")]

mod campaigns;
mod content;
mod devices;
mod ecus;
mod operators;
mod recalls;
#[path = "../support/mod.rs"]
mod support;
mod update;
mod workshops;

use serde_json::json;
use support::{Device, VIN, World};

const OTHER: &str = "WP0ZZZ99ZTS392125";

fn many() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs on a runtime of its own, as the program does.
fn with_world<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    many().block_on(async { test(World::new().await).await });
}

async fn offered(world: &World) -> (Device, String, String) {
    let release = world.release().await;
    let mut device = world.device(VIN).await;
    device.report(world).await;
    let campaign = world.campaign(json!({ "name": "c", "release": release, "conditions": ["parked"] })).await;
    let update = device.report(world).await.unwrap();
    (device, campaign, update)
}
