use std::sync::Arc;
use std::time::Duration;

use pitstop_conditions::{Expr, Fault, Kind, Reading, SignalSpec, Signals, Value, Verdict};
use pitstop_dbus::{ConditionResult, OtaError, SignalStatus, object_path};
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::UpdateId;
use tokio::sync::{mpsc, oneshot, watch};
use zbus::Connection;

use crate::attention::{Attention, SETTLE};
use crate::bus::VehicleStateObject;
use crate::{Buses, Clocks, Frame, Inhibit, Record, STANDSTILL, Settings, Shown, State};

const FORMAT: u32 = 1;
/// Calls that may wait; more than this many at once is a client gone wild, which then waits at the bus.
const QUEUE: usize = 64;

/// Owns signals and drive inhibit.
pub struct Service<B> {
    bus: Connection,
    settings: Settings,
    signals: Signals,
    standstill: Expr,
    attention: Attention,
    inhibit: Inhibit,
    record: Document<Record>,
    buses: B,
    clocks: Clocks,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
    /// The state of which the bus was told last.
    announced: State,
    /// Whether the last frame could not be sent, so that it is logged once.
    mute: bool,
    /// The same for the end of a release that could not be stored.
    unstored: bool,
}

/// What the object on the bus holds: the way to the service.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Command>);

pub(crate) type Reply<T> = oneshot::Sender<Result<T, OtaError>>;

pub(crate) enum Command {
    GetSignals { reply: Reply<Vec<SignalStatus>> },
    Evaluate { conditions: Vec<(String, Expr)>, reply: Reply<Vec<ConditionResult>> },
    Request { owner: UpdateId, reply: Reply<()> },
    Release { owner: UpdateId, reply: Reply<()> },
    CheckSafe { reply: Reply<(bool, bool, String)> },
    Owners { reply: Reply<Vec<String>> },
}

impl Handle {
    pub(crate) async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, OtaError> {
        let ending = || OtaError::NotReady("the vehicle-state service is ending".to_owned());
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

impl<B: Buses> Service<B> {
    /// Puts the object on the bus and takes up a drive inhibit that was not released. Calls are served once [`Service::run`] runs.
    ///
    /// Errors: the disk cannot be read, or the bus does not take the object. What is stored being damaged or lost is none.
    pub async fn serve(
        bus: &Connection,
        settings: Settings,
        buses: B,
        storage: Arc<dyn Storage>,
        clocks: Clocks,
    ) -> anyhow::Result<Self> {
        let record = Document::new(storage, "inhibit", FORMAT);
        let stored = stored(&record)?;
        if !stored.owners.is_empty() {
            log::info!("the drive inhibit is still held by {:?}", stored.owners);
        }
        let now = (clocks.monotonic)();
        let (attention, inhibit) = (Attention::new(now), Inhibit::new(stored, now));
        let announced = inhibit.state(None);
        let (state, watched) = watch::channel(announced);
        let (sender, commands) = mpsc::channel(QUEUE);
        let object = VehicleStateObject::new(Handle(sender), watched);
        bus.object_server().at(object_path("VehicleState"), object).await?;
        let signals = Signals::new(settings.map.clone());
        let standstill = STANDSTILL.parse()?;
        let bus = bus.clone();
        Ok(Self {
            bus,
            settings,
            signals,
            standstill,
            attention,
            inhibit,
            record,
            buses,
            clocks,
            commands,
            state,
            announced,
            mute: false,
            unstored: false,
        })
    }

    /// Takes frames in, sends the inhibit frame when it is due, and serves calls, for ever.
    pub async fn run(mut self) {
        loop {
            self.transmit().await;
            self.settle();
            self.announce().await;
            self.rest();
            let due = [self.inhibit.poll_timeout(), self.attention.poll_timeout()].into_iter().flatten().min();
            let wait = due.map(|due| due.saturating_sub(self.now()));
            tokio::select! {
                // Frames first: what was received before a call counts in its answer.
                biased;
                frame = self.buses.receive() => self.on_frame(&frame),
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                () = after(wait) => {}
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame) {
        let now = self.now();
        self.signals.on_frame(&frame.bus, frame.id, &frame.data, now);
    }

    async fn handle(&mut self, command: Command) {
        // What is stored needs no frames.
        if !matches!(command, Command::Owners { .. }) {
            self.wake().await;
        }
        match command {
            Command::GetSignals { reply } => {
                let _ = reply.send(Ok(self.signals.map().iter().map(|spec| self.status(spec)).collect()));
            }
            Command::Evaluate { conditions, reply } => {
                let judge = |(condition, expr)| {
                    let verdict = self.judge(&expr);
                    ConditionResult { condition, holds: verdict.holds, reason: reason(&verdict) }
                };
                let _ = reply.send(Ok(conditions.into_iter().map(judge).collect()));
            }
            Command::Request { owner, reply } => {
                let _ = reply.send(self.request(&owner));
            }
            Command::Release { owner, reply } => {
                let _ = reply.send(self.release(&owner));
            }
            Command::CheckSafe { reply } => {
                let _ = reply.send(Ok(self.check_safe()));
            }
            Command::Owners { reply } => {
                let _ = reply.send(Ok(self.inhibit.record().owners.iter().map(ToString::to_string).collect()));
            }
        }
    }

    /// Leaves the buses alone when nobody needs them.
    fn rest(&mut self) {
        let held = self.inhibit.poll_timeout().is_some();
        if self.attention.rest(held, &self.signals, self.now()) {
            self.buses.listen(false);
        }
    }

    /// Listens again, and waits until what was fresh before the rest is fresh again.
    async fn wake(&mut self) {
        let Some(expected) = self.attention.call(self.now()) else { return };
        self.buses.listen(true);
        let since = self.now();
        let settled = async {
            let missing = |signals: &Signals, name| signals.received_at(name).is_none_or(|at| at < since);
            while expected.iter().any(|name| missing(&self.signals, name)) {
                let frame = self.buses.receive().await;
                self.on_frame(&frame);
            }
        };
        // What does not come in time is stale, and the answer says so.
        let _ = tokio::time::timeout(SETTLE, settled).await;
    }

    fn request(&mut self, owner: &UpdateId) -> Result<(), OtaError> {
        let record = self.inhibit.requested_by(owner).map_err(|cause| OtaError::Busy(cause.to_string()))?;
        let Some(record) = record else { return Ok(()) };
        self.keep(record).map_err(storage)?;
        log::info!(update = owner.as_str(); "drive inhibit requested");
        Ok(())
    }

    fn release(&mut self, owner: &UpdateId) -> Result<(), OtaError> {
        let Some(record) = self.inhibit.released_by(owner) else { return Ok(()) };
        self.keep(record).map_err(storage)?;
        log::info!(update = owner.as_str(); "drive inhibit released");
        Ok(())
    }

    /// On disk first: what is asked of the vehicle must be known after a power cut.
    fn keep(&mut self, record: Record) -> Result<(), StoreError> {
        self.record.store(&record)?;
        self.inhibit.adopt(record, self.now());
        // Before the call is answered, so that its caller does not read the state of before.
        self.state.send_replace(self.inhibit.state(self.shown()));
        Ok(())
    }

    fn check_safe(&self) -> (bool, bool, String) {
        let verdict = self.judge(&self.standstill);
        let state = self.inhibit.state(self.shown());
        let mut reasons = Vec::new();
        if !verdict.holds {
            reasons.push(reason(&verdict));
        }
        match state {
            State::Acknowledged => {}
            State::Requested => {
                reasons.push("the drive inhibit is requested, the gateway has not acknowledged it".to_owned())
            }
            State::Released => reasons.push("the drive inhibit is not requested".to_owned()),
        }
        (verdict.holds, state == State::Acknowledged, reasons.join("; "))
    }

    /// Sends the frame that is due, one only: on a bus that takes none a try is as long as a cycle, and calls wait meanwhile.
    async fn transmit(&mut self) {
        let Some(order) = self.inhibit.poll_transmit(self.now()) else { return };
        let frame = &self.settings.inhibit;
        let frame = Frame { bus: frame.bus.clone(), id: frame.id, data: frame.encode(order) };
        match self.buses.send(frame).await {
            Ok(()) => {
                self.inhibit.sent(self.now());
                self.mute = false;
            }
            Err(cause) => {
                self.inhibit.failed(self.now());
                if !std::mem::replace(&mut self.mute, true) {
                    log::warn!("the drive inhibit frame: {cause}; trying again");
                }
            }
        }
    }

    /// Ends a release that the gateway shows. If that cannot be stored, it is tried again.
    fn settle(&mut self) {
        let Some(record) = self.inhibit.settled(self.shown()) else { return };
        match self.keep(record) {
            Ok(()) => self.unstored = false,
            Err(cause) => {
                if !std::mem::replace(&mut self.unstored, true) {
                    log::error!("storing the end of the drive inhibit: {cause}; trying again");
                }
            }
        }
    }

    async fn announce(&mut self) {
        let state = self.inhibit.state(self.shown());
        self.state.send_replace(state);
        if std::mem::replace(&mut self.announced, state) != state {
            log::info!("drive inhibit {}", state.as_str());
            VehicleStateObject::inhibit_changed_on(&self.bus).await;
        }
    }

    /// What the gateway shows, if that is fresh.
    fn shown(&self) -> Option<Shown> {
        let name = &self.settings.acknowledge;
        match self.signals.read(name, self.now()) {
            Reading::Fresh { value: Value::Bool(inhibited), .. } => {
                Some(Shown { inhibited, at: self.signals.received_at(name)? })
            }
            _ => None,
        }
    }

    fn judge(&self, expr: &Expr) -> Verdict {
        self.settings.conditions.evaluate(expr, &self.signals, self.now(), (self.clocks.wall)())
    }

    fn status(&self, spec: &SignalSpec) -> SignalStatus {
        let (value, age, fresh) = match self.signals.read(&spec.name, self.now()) {
            Reading::Fresh { value, age } => (Some(value), Some(age), true),
            Reading::Unusable(Fault::Stale { value, age, .. }) => (value, Some(age), false),
            Reading::Unusable(Fault::Invalid { age }) => (None, Some(age), false),
            Reading::Unusable(Fault::NeverReceived | Fault::Unmapped) => (None, None, false),
        };
        let none = match spec.kind {
            Kind::Number => Value::Number(0.0),
            Kind::Bool { .. } => Value::Bool(false),
        };
        let value = match value.unwrap_or(none) {
            Value::Number(number) => zbus::OwnedVariant::from(number),
            Value::Bool(truth) => zbus::OwnedVariant::from(truth),
        };
        let age_ms = age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        SignalStatus { name: spec.name.to_string(), value, age_ms, fresh }
    }

    fn now(&self) -> Duration {
        (self.clocks.monotonic)()
    }
}

/// What the gateway was told last. Without this service nothing unsafe begins and a vehicle that is held stays held, so a file that
/// is of no use does not keep it from starting. The file is replaced when the gateway shows the release, or by the next request; until
/// then every start releases.
fn stored(document: &Document<Record>) -> Result<Record, StoreError> {
    match document.load() {
        Ok(Some(record)) => Ok(record),
        // A release that no gateway answers would keep the buses open, and the computer awake, from the first start on.
        Ok(None) => Ok(Record::default()),
        // The checksum does not cover the format number, so damage may look like another format.
        Err(error @ (StoreError::Damaged { .. } | StoreError::Format { .. })) => {
            log::error!(
                "{error}; kept as inhibit.damaged; who held the drive inhibit is lost, the gateway is told a release"
            );
            // The copy is for who looks for the reason: a disk that is full must not keep the vehicle held.
            if let Err(cause) = document.keep_damaged() {
                log::warn!("keeping inhibit.damaged: {cause}");
            }
            Ok(Record::lost())
        }
        Err(error) => Err(error),
    }
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn reason(verdict: &Verdict) -> String {
    verdict.reasons.iter().map(|reason| reason.text.as_str()).collect::<Vec<_>>().join("; ")
}

fn storage(cause: StoreError) -> OtaError {
    OtaError::Storage(format!("storing the drive inhibit: {cause}"))
}

#[cfg(test)]
mod tests;
