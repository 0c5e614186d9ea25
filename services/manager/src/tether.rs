//! What ties a task that carries out an effect to the service: progress one way, the order to stop the other.

use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_types::EcuId;
use tokio::sync::{mpsc, watch};

/// What a running effect tells. Not stored: after a restart it is told anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    Progress {
        ecu: EcuId,
        phase: String,
        done: u64,
        total: u64,
    },
    /// What keeps the update from going on, each a sentence; empty: nothing.
    Blocked(Vec<String>),
}

/// The task's end.
#[derive(Clone)]
pub struct Tether {
    ecu: Option<EcuId>,
    live: mpsc::UnboundedSender<Live>,
    stop: watch::Receiver<bool>,
}

impl Tether {
    /// `ecu`: whose progress is told, if any.
    pub fn new(ecu: Option<EcuId>, live: mpsc::UnboundedSender<Live>, stop: watch::Receiver<bool>) -> Self {
        Self { ecu, live, stop }
    }

    pub fn progress(&self, phase: &str, done: u64, total: u64) {
        if let Some(ecu) = &self.ecu {
            let _ = self.live.send(Live::Progress { ecu: ecu.clone(), phase: phase.to_owned(), done, total });
        }
    }

    pub fn blocked(&self, reasons: Vec<String>) {
        let _ = self.live.send(Live::Blocked(reasons));
    }

    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns when the effect is no longer wanted.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            // The service is gone; so is this task, in a moment.
            std::future::pending::<()>().await;
        }
    }

    /// Waits, but not for an effect that is no longer wanted: then `Cancelled`.
    pub async fn pause(&self, time: Duration) -> Result<(), OtaError> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stopped() => Err(OtaError::Cancelled("no longer wanted".to_owned())),
        }
    }
}
