use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_can::{
    CanBus, CanId, DiagnosticClient, DiagnosticError, DiagnosticLink, DoipConnection, DoipSettings, IsoTpChannel,
    IsoTpSettings, LinkAddress,
};
use pitstop_dbus::OtaError;
use pitstop_doip::{LogicalAddress, TesterSettings};
use pitstop_flashing::vehicle::{Address, Bus, BusKind, Ecu};
use pitstop_flashing::{Outcome, Profile, Vehicle};
use pitstop_types::EcuId;
use pitstop_uds::{Addressing, ClientTiming, Request, StepLimits};

use crate::ports::{EcuLink, Links};

/// Waits beyond P2 for an answer: on CAN for a loaded bus, on DoIP as testers do (P6, 1 s).
const MARGIN_CAN: Duration = Duration::from_millis(500);
const MARGIN_DOIP: Duration = Duration::from_secs(1);
/// One try to connect; the installation machine tries again for as long as its profile lets an ECU boot.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// Links over `pitstop-can`: ISO-TP on a CAN bus, or DoIP.
pub struct CanLinks {
    root: PathBuf,
    /// A DoIP entity takes one connection per tester address, so each ECU gets a connection under an address of its own.
    testers: BTreeMap<EcuId, u16>,
}

impl CanLinks {
    /// Relative socket paths lie below `root`.
    pub fn new(root: PathBuf, vehicle: &Vehicle) -> Self {
        let mut testers = BTreeMap::new();
        for bus in vehicle.buses.values() {
            let BusKind::Doip { tester } = bus.kind else { continue };
            let ecus = vehicle.ecus.values().filter(|ecu| ecu.bus == bus.name);
            testers.extend((tester..=u16::MAX).zip(ecus).map(|(address, ecu)| (ecu.id.clone(), address)));
        }
        Self { root, testers }
    }
}

#[async_trait]
impl Links for CanLinks {
    async fn open(&self, bus: &Bus, ecu: &Ecu, profile: &Profile) -> Result<Box<dyn EcuLink>, OtaError> {
        let address = bus.link.parse::<LinkAddress>().map_err(|e| OtaError::InvalidArgument(e.to_string()))?;
        let tester = match (bus.kind, self.testers.get(&ecu.id)) {
            (_, Some(tester)) => *tester,
            (BusKind::Doip { .. }, None) => {
                let what = format!("bus {} has no tester address left for {}", bus.name, ecu.id);
                return Err(OtaError::InvalidArgument(what));
            }
            (_, None) => 0,
        };
        let way = Way {
            link: address.below(&self.root),
            kind: bus.kind,
            ecu: ecu.clone(),
            tester,
            timing: ClientTiming {
                p2: profile.timing.p2,
                p2_star: profile.timing.p2_star,
                margin: if matches!(bus.kind, BusKind::Doip { .. }) { MARGIN_DOIP } else { MARGIN_CAN },
                s3_client: profile.timing.keep_alive,
                busy_pause: profile.retry.busy_pause,
            },
        };
        // An ECU that cannot be reached now (its entity restarts) is for the installation machine to wait for.
        let client = way.connect().await.inspect_err(|error| log::debug!("{}: {error}", ecu.id)).ok();
        Ok(Box::new(ClientLink { way, client }))
    }
}

/// How an ECU is reached.
struct Way {
    link: LinkAddress,
    kind: BusKind,
    ecu: Ecu,
    tester: u16,
    timing: ClientTiming,
}

impl Way {
    async fn connect(&self) -> Result<DiagnosticClient, String> {
        let link: Box<dyn DiagnosticLink> = match (self.kind, self.ecu.address) {
            (BusKind::Doip { .. }, Address::Doip { logical }) => {
                let settings = DoipSettings::new(self.ecu.id.as_str(), &self.link, logical)
                    .ok_or("the link of a DoIP bus is tcp:")?;
                let tester = TesterSettings { source: LogicalAddress(self.tester), ..settings.tester };
                let settings = DoipSettings { tester, connect_time: CONNECT_TIME, ..settings };
                Box::new(DoipConnection::open(settings).await.map_err(|e| text(&e))?)
            }
            (kind, Address::Can { request, response, functional }) => {
                let fd = matches!(kind, BusKind::CanFd { .. });
                let id = |number| CanId::from_number(number).ok_or("a CAN identifier has 29 bits at most");
                let settings = IsoTpSettings {
                    functional_transmit: Some(id(functional)?),
                    ..IsoTpSettings::tester(self.ecu.id.as_str(), id(request)?, id(response)?, fd)
                };
                let bus = CanBus::open(&self.link, fd).await.map_err(|e| text(&e))?;
                Box::new(IsoTpChannel::open(&bus, settings).map_err(|e| text(&e))?)
            }
            _ => return Err("its address does not fit its bus".to_owned()),
        };
        Ok(DiagnosticClient::new(link, self.timing))
    }
}

struct ClientLink {
    way: Way,
    client: Option<DiagnosticClient>,
}

#[async_trait]
impl EcuLink for ClientLink {
    async fn ask(&mut self, request: &Request, addressing: Addressing, quiet: bool, limits: StepLimits) -> Outcome {
        let Some(client) = &mut self.client else { return Outcome::LinkLost(format!("no way to {}", self.way.ecu.id)) };
        let result = if quiet {
            client.notify(request, addressing, limits).await
        } else {
            client.request(request, limits).await.map(Some)
        };
        match result {
            Ok(Some(response)) => Outcome::Response(response),
            Ok(None) => Outcome::Silent,
            Err(DiagnosticError::Client(error)) => Outcome::NoAnswer(error),
            Err(error) => Outcome::LinkLost(text(&error)),
        }
    }

    async fn idle(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        if let Some(client) = &mut self.client {
            client.keep_alive(true);
            let _ = client.idle(time).await;
            client.keep_alive(false);
        }
        // A link that broke while waiting is found broken by the next request; the wait itself stays as long as it is.
        tokio::time::sleep_until(end).await;
    }

    async fn reopen(&mut self) -> Result<(), String> {
        if let Some(client) = &mut self.client
            && client.reopen().await.is_ok()
        {
            return Ok(());
        }
        // The bus itself is gone (a hub that was restarted), or there never was a connection.
        self.client = None;
        self.client = Some(self.way.connect().await?);
        Ok(())
    }
}

/// An error and its causes in one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
