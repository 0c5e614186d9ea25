//! Where links come from.

use async_trait::async_trait;
use pitstop_dbus::{BackendLinkProxy, OtaError};
use pitstop_types::Digest;

/// Makes short-lived links.
#[async_trait]
pub trait LinkSource: Send + Sync {
    /// A link to the bundle with this hash, and when it ends (Unix seconds).
    async fn link(&self, sha256: &Digest) -> Result<(String, i64), OtaError>;
}

/// Asks backend-link.
pub struct BackendLinks(zbus::Connection);

impl BackendLinks {
    /// Asks over `bus`.
    pub fn new(bus: zbus::Connection) -> Self {
        Self(bus)
    }
}

#[async_trait]
impl LinkSource for BackendLinks {
    async fn link(&self, sha256: &Digest) -> Result<(String, i64), OtaError> {
        BackendLinkProxy::new(&self.0).await?.get_link(&sha256.to_string()).await
    }
}
