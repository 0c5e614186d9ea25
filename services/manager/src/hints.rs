//! The backend's hints, as `backend-link` tells them.

use futures_util::StreamExt as _;
use pitstop_dbus::BackendLinkProxy;
use tokio::sync::{mpsc, oneshot};
use zbus::Connection;

use crate::service::Command;

/// A hint carries no authority: it only says that asking may be worth it.
pub async fn hear_hints(bus: Connection, commands: mpsc::Sender<Command>) {
    let hints = async {
        let link = BackendLinkProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        link.receive_hint().await
    };
    match hints.await {
        Ok(mut hints) => {
            while let Some(hint) = hints.next().await {
                log::info!("a hint: {}", hint.args().map(|args| args.kind).unwrap_or_default());
                let (reply, _) = oneshot::channel();
                if commands.send(Command::Check(reply)).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => log::error!("hints are not heard: {error}"),
    }
}
