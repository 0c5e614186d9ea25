use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use pitstop_can::{CanBus, CanError, CanFrame, CanId, LinkAddress};
use pitstop_conditions::FrameId;
use pitstop_flashing::Vehicle;
use pitstop_flashing::vehicle::BusKind;
use pitstop_types::BusName;
use tokio::sync::{mpsc, watch};

use crate::{Buses, Frame, SendError, Settings};

/// A bus that is away is tried again after this: nobody needs it sooner, and its signals are stale by then anyway.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// How long a frame may take to its bus. At 500 kbit/s a frame needs 0.25 ms; ours has a low identifier, so a busy bus delays it by few.
const SEND_LIMIT: Duration = Duration::from_millis(100);
/// Frames between the buses' tasks and the service.
const QUEUE: usize = 256;

/// All buses that carry a mapped signal or the inhibit frame, each kept open by a task of its own.
pub(crate) struct CanBuses {
    received: mpsc::Receiver<Frame>,
    open: BTreeMap<BusName, watch::Receiver<Option<CanBus>>>,
    wanted: watch::Sender<bool>,
}

impl CanBuses {
    /// Starts the buses' tasks. A bus that `vehicle.toml` does not have, or that is no CAN bus, is an error; one that is away is not.
    pub(crate) fn open(vehicle: &Vehicle, settings: &Settings, root: &Path) -> anyhow::Result<Self> {
        let mut names: BTreeSet<BusName> = settings.map.iter().map(|spec| spec.bus.clone()).collect();
        names.insert(settings.inhibit.bus.clone());
        let (sender, received) = mpsc::channel(QUEUE);
        let (wanted, want) = watch::channel(true);
        let mut open = BTreeMap::new();
        for name in names {
            let bus = vehicle.buses.get(&name).with_context(|| format!("vehicle.toml has no bus {name}"))?;
            let link: LinkAddress = bus.link.parse().with_context(|| format!("link of bus {name}"))?;
            let fd = matches!(bus.kind, BusKind::CanFd { .. });
            let ids = settings.map.frames(&name).into_iter().map(can_id).collect();
            let (opened, watched) = watch::channel(None);
            let (frames, wanted) = (sender.clone(), want.clone());
            let task = BusTask { name: name.clone(), link: link.below(root), fd, ids, frames, opened, wanted };
            tokio::spawn(task.run());
            open.insert(name, watched);
        }
        Ok(Self { received, open, wanted })
    }
}

#[async_trait]
impl Buses for CanBuses {
    async fn receive(&mut self) -> Frame {
        match self.received.recv().await {
            Some(frame) => frame,
            // Every bus's task runs as long as this one reads.
            None => std::future::pending().await,
        }
    }

    fn listen(&mut self, on: bool) {
        self.wanted.send_replace(on);
    }

    async fn send(&mut self, frame: Frame) -> Result<(), SendError> {
        let failed = |cause: String| SendError { bus: frame.bus.clone(), cause };
        let bus = self.open.get(&frame.bus).and_then(|open| open.borrow().clone());
        let bus = bus.ok_or_else(|| failed("the bus is not open".to_owned()))?;
        let data = CanFrame::classic(can_id(frame.id), &frame.data).map_err(|cause| failed(cause.to_string()))?;
        let sent = async { bus.send(data).await?.await };
        match tokio::time::timeout(SEND_LIMIT, sent).await {
            Ok(result) => result.map_err(|cause| failed(cause.to_string())),
            Err(_) => Err(failed(format!("not on the bus within {} ms", SEND_LIMIT.as_millis()))),
        }
    }
}

/// Keeps one bus open and passes on what it receives.
struct BusTask {
    name: BusName,
    link: LinkAddress,
    fd: bool,
    ids: Vec<CanId>,
    frames: mpsc::Sender<Frame>,
    opened: watch::Sender<Option<CanBus>>,
    wanted: watch::Receiver<bool>,
}

impl BusTask {
    /// Ends when the service has ended.
    async fn run(mut self) {
        let mut told = false;
        while self.wanted.wait_for(|on| *on).await.is_ok() {
            match CanBus::open(&self.link, self.fd).await {
                Ok(bus) => {
                    log::debug!(bus = self.name.as_str(); "listening");
                    told = false;
                    self.listen(bus).await;
                    self.opened.send_replace(None);
                    if !*self.wanted.borrow() {
                        continue;
                    }
                }
                Err(cause) if !told => {
                    log::warn!(bus = self.name.as_str(); "{cause}; trying again every {} s", OPEN_AGAIN.as_secs());
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(OPEN_AGAIN).await;
        }
    }

    /// Until the bus is lost or nobody wants it.
    async fn listen(&mut self, bus: CanBus) {
        let mut receiver = bus.subscribe(Some(self.ids.clone()));
        self.opened.send_replace(Some(bus));
        loop {
            let received = tokio::select! {
                received = receiver.next() => received,
                _ = self.wanted.wait_for(|on| !on) => return,
            };
            let frame = match received {
                Ok(frame) => frame,
                // What was lost is sent again within its cycle.
                Err(CanError::Lagged { .. }) => continue,
                Err(cause) => {
                    log::warn!(bus = self.name.as_str(); "{cause}");
                    return;
                }
            };
            let id = match frame.id() {
                CanId::Standard(id) => FrameId::Standard(id),
                CanId::Extended(id) => FrameId::Extended(id),
            };
            let frame = Frame { bus: self.name.clone(), id, data: frame.data().to_vec() };
            if self.frames.send(frame).await.is_err() {
                return;
            }
        }
    }
}

fn can_id(id: FrameId) -> CanId {
    match id {
        FrameId::Standard(id) => CanId::Standard(id),
        FrameId::Extended(id) => CanId::Extended(id),
    }
}

#[cfg(test)]
mod tests;
