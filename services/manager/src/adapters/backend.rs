use async_trait::async_trait;
use pitstop_dbus::OtaError;
use pitstop_runtime::operation;
use pitstop_types::UpdateId;
use zbus::Connection;

use super::proxy;
use crate::ports::{Backend, Receipt};

pub struct BusBackend {
    bus: Connection,
}

impl BusBackend {
    pub fn new(bus: &Connection) -> Self {
        Self { bus: bus.clone() }
    }
}

#[async_trait]
impl Backend for BusBackend {
    async fn send_manifest(&self, manifest: &[u8]) -> Result<(), OtaError> {
        proxy!(BackendLinkProxy, &self.bus).send_manifest(manifest).await
    }

    async fn report(&self, report: &str) -> Result<(), OtaError> {
        proxy!(BackendLinkProxy, &self.bus).report(report).await.map(|_sequence| ())
    }

    async fn report_progress(&self, update: &UpdateId, progress: &str) -> Result<(), OtaError> {
        proxy!(BackendLinkProxy, &self.bus).report_progress(update.as_str(), progress).await
    }

    async fn acknowledge(&self, receipt: Receipt) {
        if let Err(error) = operation::acknowledge(&self.bus, receipt.service, &receipt.path).await {
            log::debug!("acknowledging {}: {}", receipt.path, error.text());
        }
    }
}
