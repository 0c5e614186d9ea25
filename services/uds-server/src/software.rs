//! What runs on the TCU, asked of `self-update`, which reads it out of the running slot's own file system.

use std::time::Duration;

use futures_util::StreamExt;
use pitstop_dbus::{OtaError, SelfUpdateProxy, SlotRelease};
use tokio::sync::watch;
use zbus::Connection;

/// How long one question may take; reading a slot's file system takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions while there is no answer.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps `software` true as long as the connection lives: asks when `self-update` appears, and knows nothing when it goes.
/// The running slot never changes under a running service, so one answer lasts.
pub async fn follow(bus: Connection, software: watch::Sender<Option<SlotRelease>>) {
    if let Err(error) = follow_owner(&bus, &software).await {
        log::error!("what runs on this TCU cannot be asked: {error}");
    }
    software.send_replace(None);
}

async fn follow_owner(bus: &Connection, software: &watch::Sender<Option<SlotRelease>>) -> Result<(), OtaError> {
    let proxy = SelfUpdateProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    let mut owners = proxy.inner().receive_owner_changed().await?;
    loop {
        match tokio::time::timeout(PATIENCE, ask(&proxy)).await {
            Ok(Ok(release)) => software.send_replace(Some(release)),
            Ok(Err(error)) => {
                log::debug!("self-update does not say what runs: {error}");
                software.send_replace(None)
            }
            Err(_) => software.send_replace(None),
        };
        let unknown = software.borrow().is_none();
        tokio::select! {
            owner = owners.next() => match owner {
                Some(_) => { software.send_replace(None); }
                None => return Ok(()),
            },
            () = tokio::time::sleep(RETRY), if unknown => {}
        }
    }
}

async fn ask(proxy: &SelfUpdateProxy<'_>) -> Result<SlotRelease, OtaError> {
    let slots = proxy.get_slots().await?;
    let booted = slots.iter().find(|slot| slot.booted).ok_or_else(|| OtaError::NotFound("no slot runs".to_owned()))?;
    proxy.get_release(&booted.name).await
}
