use std::process::ExitCode;

use anyhow::Context as _;
use pitstop_runtime::{Args, Context, Operations};
use tokio::sync::{mpsc, watch};

use crate::adapters;
use crate::bus::{ManagerObject, announce};
use crate::config::{Input, Settings};
use crate::hints::hear_hints;
use crate::service::Service;

/// Runs the service to its end.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("manager", args, start)
}

async fn start(context: Context) -> anyhow::Result<()> {
    let settings: Settings = context.config::<Input>()?.validate()?;
    let storage = context.storage()?;
    let bus = context.bus().await?;
    let ports = adapters::ports(&bus, &context, &settings);
    let (news, heard) = mpsc::unbounded_channel();
    let service = Service::load(ports, settings, storage.clone(), news).context("reading the stored update")?;
    let (commands, received) = mpsc::channel(32);
    let (shown, properties) = watch::channel(service.shown());
    let operations = Operations::new(&bus, "Manager", storage).await?;
    bus.object_server()
        .at(pitstop_dbus::object_path("Manager"), ManagerObject::new(commands.clone(), operations, properties))
        .await?;
    let status = context.clone();
    tokio::spawn(announce(bus.clone(), heard, shown, move |phase| status.status(phase)));
    tokio::spawn(hear_hints(bus.clone(), commands));
    context.ready(&bus, "Manager").await?;
    tokio::select! {
        ended = service.run(received) => Ok(ended.context("the update's record cannot be stored")?),
        () = context.until_shutdown() => Ok(()),
    }
}
