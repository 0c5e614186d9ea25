//! An ECU's place on a CAN bus: requests by ISO-TP, broadcast messages, and the drive inhibit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use pitstop_can::{CanBus, CanFrame, CanId, DiagnosticLink, IsoTpChannel, IsoTpSettings};
use pitstop_conditions::{Database, FrameId, Layout, Message};
use pitstop_types::BusName;
use pitstop_uds::server::ClientId;
use tokio::sync::{mpsc, watch};

use crate::actor::{Answer, EcuHandle, Status};
use crate::vehicle::{Broadcast, EcuSpec};

/// Answers that wait for the bus.
const ANSWERS: usize = 8;

/// Serves requests with these identifiers until the bus ends.
pub fn serve(bus: &CanBus, spec: &EcuSpec, request: u32, response: u32, ecu: EcuHandle) -> anyhow::Result<()> {
    let id = |number| CanId::from_number(number).context("a CAN identifier has at most 29 bits");
    let mut settings = IsoTpSettings::ecu(spec.id.as_str(), id(request)?, id(response)?, bus.is_fd());
    settings.isotp.block_size = spec.frames_per_block;
    let channel = IsoTpChannel::open(bus, settings)?;
    let name = spec.id.clone();
    tokio::spawn(async move {
        if let Err(error) = run(channel, ecu).await {
            log::warn!("{name} is off its bus: {error}");
        }
    });
    Ok(())
}

async fn run(mut channel: IsoTpChannel, ecu: EcuHandle) -> anyhow::Result<()> {
    let (answers, mut ready) = mpsc::channel(ANSWERS);
    loop {
        tokio::select! {
            request = channel.receive_addressed() => {
                let (addressing, pdu) = request?;
                ecu.request(ClientId(0), addressing, pdu, answers.clone()).await?;
            }
            answer = ready.recv() => {
                // Closing means nothing on a bus: the tester gets no answer.
                let Some(Answer::Pdu(pdu)) = answer else { continue };
                if let Err(error) = channel.send(pitstop_uds::Addressing::Physical, &pdu).await {
                    log::debug!("an answer was lost: {error}");
                }
            }
        }
    }
}

/// Signal values of the vehicle, by name; changed at run time by the control socket.
#[derive(Debug, Clone, Default)]
pub struct SignalValues(Arc<Mutex<BTreeMap<String, Option<f64>>>>);

impl SignalValues {
    /// `None`: sent as "not available". False: no broadcast has such a signal.
    pub fn set(&self, name: &str, value: Option<f64>) -> bool {
        match self.lock().get_mut(name) {
            Some(known) => {
                *known = value;
                true
            }
            None => false,
        }
    }

    pub fn all(&self) -> BTreeMap<String, Option<f64>> {
        self.lock().clone()
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.lock().get(name).copied().flatten()
    }

    fn define(&self, name: &str, value: Option<f64>) {
        self.lock().insert(name.into(), value);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<f64>>> {
        // A panic elsewhere leaves the map whole: each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends an ECU's messages of one bus, each in its cycle, while its software runs.
pub fn broadcast(
    bus: &CanBus,
    messages: &[Broadcast],
    database: &Database,
    values: &SignalValues,
    status: &watch::Receiver<Status>,
) -> anyhow::Result<()> {
    for message in messages {
        let sender = Sender::new(message, database, values)?;
        tokio::spawn(sender.run(bus.clone(), Duration::from_millis(message.cycle_ms), status.clone()));
    }
    Ok(())
}

/// A message ready to be filled.
struct Sender {
    id: CanId,
    length: usize,
    signals: Vec<(String, Layout)>,
    values: SignalValues,
}

impl Sender {
    fn new(broadcast: &Broadcast, database: &Database, values: &SignalValues) -> anyhow::Result<Self> {
        let message = database.message(&broadcast.message)?;
        let mut signals = Vec::new();
        for (name, value) in &broadcast.signals {
            let layout = message.layout(name)?;
            layout.encode(*value, &mut vec![0; message.length]).with_context(|| format!("{name} cannot be {value}"))?;
            values.define(name, Some(*value));
            signals.push((name.clone(), layout));
        }
        Ok(Self { id: frame_id(message), length: message.length, signals, values: values.clone() })
    }

    fn frame(&self) -> Option<CanFrame> {
        let mut data = vec![0; self.length];
        for (name, layout) in &self.signals {
            let known = self.values.get(name).and_then(|value| layout.encode(value, &mut data).ok());
            if known.is_none() {
                layout.encode_unavailable(&mut data);
            }
        }
        CanFrame::classic(self.id, &data).ok()
    }

    async fn run(self, bus: CanBus, cycle: Duration, status: watch::Receiver<Status>) {
        let mut ticks = tokio::time::interval(cycle);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let Some(frame) = self.frame().filter(|_| status.borrow().broadcasts) else { continue };
            if bus.send(frame).await.is_err() {
                return;
            }
        }
    }
}

fn frame_id(message: &Message) -> CanId {
    match message.id {
        FrameId::Standard(id) => CanId::Standard(id),
        FrameId::Extended(id) => CanId::Extended(id),
    }
}

/// Message and signal by which the TCU asks for the drive inhibit, the counter that proves it is alive, and the answer.
const REQUEST: &str = "DriveInhibitRequest";
const REQUEST_SIGNAL: &str = "InhibitRequest";
const COUNTER_SIGNAL: &str = "InhibitRequestCounter";
const STATUS_SIGNAL: &str = "DriveInhibitState";
const SPEED_SIGNAL: &str = "VehicleSpeed";

/// 0 driving allowed, 1 inhibited, 2 request refused because the vehicle moves.
const ALLOWED: f64 = 0.0;
const INHIBITED: f64 = 1.0;
const REFUSED: f64 = 2.0;

/// Keeps the vehicle from driving when it is asked to and stands; what was told last holds, whatever happens to who told it.
pub fn drive_inhibit(
    bus: &CanBus,
    database: &Database,
    values: &SignalValues,
    status: watch::Receiver<Status>,
) -> anyhow::Result<()> {
    let message = database.message(REQUEST)?;
    let (request, counter) = (message.layout(REQUEST_SIGNAL)?, message.layout(COUNTER_SIGNAL)?);
    let mut frames = bus.subscribe(Some(vec![frame_id(message)]));
    let values = values.clone();
    tokio::spawn(async move {
        let mut last = None;
        while let Ok(frame) = frames.next().await {
            let (Ok(wanted), Ok(count)) = (request.decode(frame.data()), counter.decode(frame.data())) else {
                continue;
            };
            if last.replace(count) == Some(count) || !status.borrow().broadcasts {
                continue;
            }
            let moves = values.get(SPEED_SIGNAL).is_none_or(|speed| speed > 0.0);
            let state = match wanted > 0.5 {
                false => ALLOWED,
                true if moves => REFUSED,
                true => INHIBITED,
            };
            values.set(STATUS_SIGNAL, Some(state));
        }
    });
    Ok(())
}

/// Buses an ECU sends on.
pub fn buses_of(spec: &EcuSpec) -> Vec<&BusName> {
    let mut buses: Vec<_> = spec.broadcasts.iter().map(|broadcast| &broadcast.bus).collect();
    buses.sort();
    buses.dedup();
    buses
}
