use std::process::ExitCode;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use pitstop_dbus::BackendLinkProxy;
use pitstop_runtime::{Args, Context, Operations};
use tokio::sync::{mpsc, oneshot, watch};
use zbus::Connection;

use crate::adapters;
use crate::bus::{ManagerObject, announce};
use crate::config::{Input, Settings};
use crate::service::{Command, Service};

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

/// A hint carries no authority: it only says that asking may be worth it.
async fn hear_hints(bus: Connection, commands: mpsc::Sender<Command>) {
    let hints = async {
        let link = BackendLinkProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        link.receive_hint().await
    };
    match hints.await {
        Ok(mut hints) => {
            while hints.next().await.is_some() {
                let (reply, _) = oneshot::channel();
                if commands.send(Command::Check(reply)).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => log::error!("hints are not heard: {error}"),
    }
}
