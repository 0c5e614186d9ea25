use std::sync::Arc;

use anyhow::Context as _;
use pitstop_runtime::{Context, Operations};

use crate::bus::Downloader;
use crate::config::Config;
use crate::ports::BackendLinks;
use crate::service::Service;
use crate::store::Cache;

/// Loads settings, opens the cache, serves until told to end.
pub(crate) async fn start(context: Context) -> anyhow::Result<()> {
    let settings = context.config::<Config>()?.settings(|path| context.path(path)).context("settings")?;
    let storage = context.storage().context("opening the state folder")?;
    let cache = Cache::open(&context.state_dir().join("cache"), Arc::clone(&storage)).context("opening the cache")?;
    let bus = context.bus().await?;
    let operations = Operations::new(&bus, "Downloader", storage).await?;
    let links = Arc::new(BackendLinks::new(bus.clone()));
    let (service, handle) = Service::new(Arc::new(settings), cache, links)?;
    bus.object_server().at(pitstop_dbus::object_path("Downloader"), Downloader::new(handle, operations)).await?;
    context.ready(&bus, "Downloader").await?;
    tokio::select! {
        () = service.run() => anyhow::bail!("the service's task ended"),
        () = context.until_shutdown() => Ok(()),
    }
}
