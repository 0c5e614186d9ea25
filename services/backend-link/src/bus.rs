//! The D-Bus object: arguments in, one command or call, answer out.

use std::sync::Arc;

use pitstop_dbus::{LinkStatus, OtaError, object_path};
use pitstop_runtime::{Durability, Key, Operations, ResultData};
use pitstop_types::{Digest, UpdateId};
use tokio::sync::{mpsc, oneshot};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, interface};

use crate::api::MAX_METADATA;
use crate::device::Session;
use crate::provision::{IdentitySource, MAX_TOKEN, Provisioner};
use crate::service::{Announcement, Command, Handle};

/// Longest manifest, in bytes: one of 64 ECUs has some 60 kB.
const MAX_MANIFEST: usize = 512 * 1024;
/// Longest progress message, in bytes.
const MAX_PROGRESS: usize = 4096;

/// `io.pitstop.Ota1.BackendLink`.
pub struct BackendLink {
    handle: Handle,
    operations: Operations,
    identity: Arc<dyn IdentitySource>,
}

impl BackendLink {
    /// The object; `identity` tells the manifest key that provisioning registers.
    pub fn new(handle: Handle, operations: Operations, identity: Arc<dyn IdentitySource>) -> Self {
        Self { handle, operations, identity }
    }

    fn session(&self) -> Result<Arc<Session>, OtaError> {
        let session = self.handle.session.borrow().clone();
        session.ok_or_else(|| {
            OtaError::NotProvisioned("this device has no certificate, or its key is not there yet".into())
        })
    }

    async fn command(&self, command: Command) -> Result<(), OtaError> {
        self.handle.commands.send(command).await.map_err(|_| OtaError::NotReady("the service is ending".into()))
    }
}

#[interface(name = "io.pitstop.Ota1.BackendLink")]
impl BackendLink {
    #[zbus(out_args("operation"))]
    async fn provision(&self, token: String, #[zbus(header)] header: Header<'_>) -> Result<OwnedObjectPath, OtaError> {
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(OtaError::InvalidArgument(format!("a token is 1 to {MAX_TOKEN} printable characters")));
        }
        let key = Key { kind: "provision".into(), update: String::new(), ecu: String::new(), attempt: 1 };
        let creator = header.sender().map(|name| name.to_owned().into());
        let handle = self.handle.clone();
        let provisioner = Provisioner {
            settings: Arc::clone(&handle.settings),
            storage: Arc::clone(&handle.storage),
            network: handle.network.clone(),
            identity: Arc::clone(&self.identity),
        };
        let start = |operation| async move { provision(provisioner, token, operation, handle).await };
        self.operations.start(key, Durability::Transient, creator, start).await
    }

    #[zbus(out_args("bytes"))]
    async fn fetch_metadata(&self, repository: String, file: String, limit: u64) -> Result<Vec<u8>, OtaError> {
        if repository != "director" && repository != "image" {
            return Err(OtaError::InvalidArgument(format!("repository {repository:?} is neither director nor image")));
        }
        if !is_metadata_name(&file) {
            return Err(OtaError::InvalidArgument("that is no name of a metadata file".into()));
        }
        if limit == 0 || limit > MAX_METADATA {
            return Err(OtaError::InvalidArgument(format!("limit is {limit}, allowed are 1 to {MAX_METADATA}")));
        }
        Ok(self.session()?.api.metadata(&repository, &file, limit).await?)
    }

    #[zbus(out_args("url", "expires"))]
    async fn get_link(&self, sha256: String) -> Result<(String, i64), OtaError> {
        let digest = Digest::parse(&sha256).map_err(|e| OtaError::InvalidArgument(e.to_string()))?;
        let link = self.session()?.api.link(&digest).await?;
        crate::config::check_url(&link.url)
            .map_err(|e| OtaError::Network(format!("the backend's link is of no use: {e}")))?;
        Ok((link.url, link.expires))
    }

    async fn send_manifest(&self, manifest: Vec<u8>) -> Result<(), OtaError> {
        if manifest.is_empty() || manifest.len() > MAX_MANIFEST {
            return Err(OtaError::InvalidArgument(format!("a manifest has 1 to {MAX_MANIFEST} bytes")));
        }
        Ok(self.session()?.api.manifest(manifest).await?)
    }

    #[zbus(out_args("sequence"))]
    async fn report(&self, report: String) -> Result<u64, OtaError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Report { report, reply }).await?;
        answer.await.map_err(|_| OtaError::NotReady("the service is ending".into()))?
    }

    async fn report_progress(&self, update: String, progress: String) -> Result<(), OtaError> {
        let update = UpdateId::new(update).map_err(|e| OtaError::InvalidArgument(e.to_string()))?;
        if progress.len() > MAX_PROGRESS {
            return Err(OtaError::TooLarge(format!(
                "progress has {} bytes, at most {MAX_PROGRESS} are sent",
                progress.len()
            )));
        }
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&progress)
            .map_err(|_| OtaError::InvalidArgument("progress is a JSON object".into()))?;
        self.command(Command::Progress { update, payload: progress }).await
    }

    #[zbus(out_args("status"))]
    async fn get_status(&self) -> Result<LinkStatus, OtaError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Status { reply }).await?;
        answer.await.map_err(|_| OtaError::NotReady("the service is ending".into()))
    }

    #[zbus(property)]
    fn connected(&self) -> bool {
        self.handle.flags.borrow().connected
    }

    #[zbus(property)]
    fn provisioned(&self) -> bool {
        self.handle.flags.borrow().provisioned
    }

    #[zbus(signal)]
    async fn hint(emitter: &SignalEmitter<'_>, kind: &str) -> zbus::Result<()>;
}

async fn provision(
    provisioner: Provisioner,
    token: String,
    operation: pitstop_runtime::OperationHandle,
    handle: Handle,
) -> Result<ResultData, OtaError> {
    let session = provisioner.run(token, &operation).await?;
    let device = session.record.device.to_string();
    let command = Command::Provisioned(Box::new(session));
    handle.commands.send(command).await.map_err(|_| OtaError::NotReady("the service is ending".into()))?;
    Ok(ResultData::from([("device".to_owned(), device.into())]))
}

/// A plain file name: it becomes a part of a URL.
fn is_metadata_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && !name.contains("..") && name.bytes().all(plain)
}

/// Says on the bus what the service wants said.
pub async fn announce(bus: Connection, mut announcements: mpsc::UnboundedReceiver<Announcement>) {
    while let Some(announcement) = announcements.recv().await {
        if let Err(error) = say(&bus, &announcement).await {
            log::warn!("saying {announcement:?} on the bus: {error}");
        }
    }
}

async fn say(bus: &Connection, announcement: &Announcement) -> zbus::Result<()> {
    let object = bus.object_server().interface::<_, BackendLink>(object_path("BackendLink")).await?;
    let emitter = object.signal_emitter();
    match announcement {
        Announcement::Hint(kind) => BackendLink::hint(emitter, kind).await,
        Announcement::ConnectedChanged => object.get().await.connected_changed(emitter).await,
        Announcement::ProvisionedChanged => object.get().await.provisioned_changed(emitter).await,
    }
}

#[cfg(test)]
mod tests {
    use super::is_metadata_name;

    #[test]
    fn a_metadata_name_is_no_path() {
        for good in ["root.json", "12.root.json", "targets.json", "a-b_c.json"] {
            assert!(is_metadata_name(good), "{good}");
        }
        for bad in ["", "../x", "a/b", ".x", "a..b", "a?b", "a%2Fb", "a b", "é"] {
            assert!(!is_metadata_name(bad), "{bad}");
        }
    }
}
