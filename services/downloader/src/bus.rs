//! The D-Bus object: arguments in, one command, answer out.

use std::os::fd::OwnedFd as StdFd;

use pitstop_dbus::{CacheUsage, OtaError};
use pitstop_runtime::{Durability, Key, OperationHandle, Operations, ResultData};
use pitstop_types::{Digest, UpdateId};
use zbus::message::Header;
use zbus::{OwnedFd, OwnedObjectPath, interface};

use crate::fetch::is_true;
use crate::service::{Command, Handle};

/// `io.pitstop.Ota1.Downloader`.
pub struct Downloader {
    handle: Handle,
    operations: Operations,
}

impl Downloader {
    /// The object over a running service.
    pub fn new(handle: Handle, operations: Operations) -> Self {
        Self { handle, operations }
    }
}

#[interface(name = "io.pitstop.Ota1.Downloader")]
impl Downloader {
    #[zbus(out_args("operation"))]
    async fn fetch(
        &self,
        update: String,
        sha256: String,
        length: u64,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, OtaError> {
        let update = update_id(update)?;
        let digest = digest(&sha256)?;
        if length == 0 {
            return Err(OtaError::InvalidArgument("a bundle has at least one byte".into()));
        }
        self.handle.ask(|reply| Command::Reserve { update: update.clone(), digest, length, reply }).await?;
        let key = Key { kind: "fetch".into(), update: update.to_string(), ecu: sha256, attempt: 1 };
        let creator = header.sender().map(|name| name.to_owned().into());
        let handle = self.handle.clone();
        let work = move |operation| async move { fetch(handle, digest, operation).await };
        // Not remembered over a restart: what is in the cache is, and a new operation finds it there.
        self.operations.start(key, Durability::Transient, creator, work).await
    }

    #[zbus(out_args("bundle"))]
    async fn open(&self, sha256: String) -> Result<OwnedFd, OtaError> {
        let digest = digest(&sha256)?;
        let file = self.handle.ask(|reply| Command::Open { digest, reply }).await?;
        Ok(OwnedFd::from(StdFd::from(file)))
    }

    async fn release(&self, update: String) -> Result<(), OtaError> {
        let update = update_id(update)?;
        self.operations.release(update.as_str()).await;
        self.handle.ask(|reply| Command::Release { update, reply }).await
    }

    #[zbus(out_args("usage"))]
    async fn get_usage(&self) -> Result<CacheUsage, OtaError> {
        self.handle.ask(|reply| Command::Usage { reply }).await
    }
}

async fn fetch(handle: Handle, digest: Digest, operation: OperationHandle) -> Result<ResultData, OtaError> {
    let turn = handle.ask(|reply| Command::Begin { digest, reply }).await?;
    let length = turn.fetch.length;
    let _alone = tokio::select! {
        guard = turn.wait() => guard,
        () = operation.cancelled() => return Err(OtaError::Cancelled("the fetch was cancelled".into())),
    };
    operation.phase("fetching").await;
    let (seen, mut steps) = tokio::sync::watch::channel(0);
    let mut fetch = turn.fetch;
    // Whoever started the operation may stop it too, not only a release.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut released = std::mem::replace(&mut fetch.cancel, stopped);
    let work = fetch.run(move |step| {
        seen.send_replace(step.have);
    });
    tokio::pin!(work);
    let mut stopping = false;
    loop {
        tokio::select! {
            outcome = &mut work => {
                let fetched = outcome?;
                operation.progress(length, length).await;
                return Ok(ResultData::from([("fetched".to_owned(), fetched.into())]));
            }
            Ok(()) = steps.changed() => {
                let have = *steps.borrow_and_update();
                operation.progress(have, length).await;
            }
            () = operation.cancelled(), if !stopping => { stop.send_replace(true); stopping = true; }
            () = is_true(&mut released), if !stopping => { stop.send_replace(true); stopping = true; }
        }
    }
}

fn update_id(text: String) -> Result<UpdateId, OtaError> {
    UpdateId::new(text).map_err(|e| OtaError::InvalidArgument(e.to_string()))
}

fn digest(text: &str) -> Result<Digest, OtaError> {
    Digest::parse(text).map_err(|e| OtaError::InvalidArgument(e.to_string()))
}
