use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_can::{DiagnosticClient, DiagnosticError};
use pitstop_dbus::OtaError;
use pitstop_flashing::vehicle::{Bus, BusKind, Ecu};
use pitstop_flashing::{Outcome, Profile};
use pitstop_uds::{Addressing, ClientTiming, Request, StepLimits};

use crate::ports::{EcuLink, Links};

/// Waits beyond P2 for an answer: on CAN for a loaded bus, on DoIP as testers do (P6, 1 s).
const MARGIN_CAN: Duration = Duration::from_millis(500);
const MARGIN_DOIP: Duration = Duration::from_secs(1);

/// Links over `pitstop-can`: ISO-TP on a CAN bus, or DoIP.
pub struct CanLinks {
    root: PathBuf,
}

impl CanLinks {
    /// Relative socket paths lie below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

#[async_trait]
impl Links for CanLinks {
    async fn open(&self, bus: &Bus, ecu: &Ecu, profile: &Profile) -> Result<Box<dyn EcuLink>, OtaError> {
        let link = connect(&self.root, bus, ecu).await?;
        let timing = ClientTiming {
            p2: profile.timing.p2,
            p2_star: profile.timing.p2_star,
            margin: if matches!(bus.kind, BusKind::Doip { .. }) { MARGIN_DOIP } else { MARGIN_CAN },
            s3_client: profile.timing.keep_alive,
            busy_pause: profile.retry.busy_pause,
        };
        Ok(Box::new(ClientLink { client: DiagnosticClient::new(link, timing) }))
    }
}

async fn connect(
    _root: &std::path::Path,
    bus: &Bus,
    ecu: &Ecu,
) -> Result<Box<dyn pitstop_can::DiagnosticLink>, OtaError> {
    Err(OtaError::NotReady(format!("no way to {} of {}", ecu.id, bus.name)))
}

struct ClientLink {
    client: DiagnosticClient,
}

#[async_trait]
impl EcuLink for ClientLink {
    async fn ask(&mut self, request: &Request, addressing: Addressing, quiet: bool, limits: StepLimits) -> Outcome {
        let result = if quiet {
            self.client.notify(request, addressing, limits).await
        } else {
            self.client.request(request, limits).await.map(Some)
        };
        match result {
            Ok(Some(response)) => Outcome::Response(response),
            Ok(None) => Outcome::Silent,
            Err(DiagnosticError::Client(error)) => Outcome::NoAnswer(error),
            Err(error) => Outcome::LinkLost(error.to_string()),
        }
    }

    async fn idle(&mut self, time: Duration) {
        self.client.keep_alive(true);
        let end = tokio::time::Instant::now() + time;
        if self.client.idle(time).await.is_err() {
            // A link that broke while waiting is found broken by the next request; the wait itself stays as long as it is.
            tokio::time::sleep_until(end).await;
        }
        self.client.keep_alive(false);
    }

    async fn reopen(&mut self) -> Result<(), String> {
        self.client.reopen().await.map_err(|error| error.to_string())
    }
}
