//! The status on D-Bus.

use pitstop_dbus::{OtaError, UdsServerStatus};
use tokio::sync::watch;
use zbus::interface;

/// `io.pitstop.Ota1.UdsServer`.
pub struct UdsServer {
    pub port: u16,
    pub address: u16,
    pub status: watch::Receiver<UdsServerStatus>,
}

#[interface(name = "io.pitstop.Ota1.UdsServer")]
impl UdsServer {
    #[zbus(out_args("status"))]
    fn get_status(&self) -> Result<UdsServerStatus, OtaError> {
        Ok(self.status.borrow().clone())
    }

    #[zbus(property)]
    fn port(&self) -> u16 {
        self.port
    }

    #[zbus(property)]
    fn logical_address(&self) -> u16 {
        self.address
    }
}
