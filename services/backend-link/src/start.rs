use std::sync::Arc;

use anyhow::Context as _;
use pitstop_runtime::{Context, Operations};
use tokio::sync::mpsc;

use crate::bus::{self, BackendLink};
use crate::config::Config;
use crate::device::Network;
use crate::outbox::Outbox;
use crate::provision::ValidatorIdentity;
use crate::service::Service;

/// Runs the service, with an event loop of its own for the network.
pub(crate) async fn start(context: Context) -> anyhow::Result<()> {
    let network = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()
        .context("starting the network's event loop")?;
    let result = serve(&context, Network::new(network.handle().clone())).await;
    // Requests under way have nothing to finish: what must not be lost is in the outbox.
    network.shutdown_background();
    result
}

/// Loads settings, builds the parts, serves until told to end.
async fn serve(context: &Context, network: Network) -> anyhow::Result<()> {
    let settings = Arc::new(context.config::<Config>()?.settings(|path| context.path(path)).context("settings")?);
    let storage = context.storage().context("opening the state folder")?;
    let outbox = Outbox::open(Arc::clone(&storage)).context("opening the outbox")?;
    let bus = context.bus().await?;
    let operations = Operations::new(&bus, "BackendLink", Arc::clone(&storage)).await?;
    let (announcements, announced) = mpsc::unbounded_channel();
    let (service, handle) = Service::new(settings, storage, outbox, network, announcements);
    let identity = Arc::new(ValidatorIdentity::new(bus.clone()));
    let object = BackendLink::new(handle, operations, identity);
    bus.object_server().at(pitstop_dbus::object_path("BackendLink"), object).await?;
    context.ready(&bus, "BackendLink").await?;
    tokio::select! {
        () = service.run() => anyhow::bail!("the service's task ended"),
        () = bus::announce(bus.clone(), announced) => anyhow::bail!("the bus is gone"),
        () = context.until_shutdown() => Ok(()),
    }
}
