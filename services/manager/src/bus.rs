//! The D-Bus object. A method checks its arguments, sends one command to the service and converts the answer.

use pitstop_dbus::{HistoryEntry, OtaError, RefusalEntry, StepStatus, UpdateStatus};
use pitstop_runtime::{Durability, Key, Operations, ResultData};
use tokio::sync::{mpsc, oneshot, watch};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, interface};

use crate::service::{Command, News};

/// Most entries that one call returns.
const MAX_ENTRIES: u32 = 1000;

/// What properties show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub update: String,
    pub phase: String,
}

impl Shown {
    pub fn idle() -> Self {
        Self { update: String::new(), phase: "idle".to_owned() }
    }
}

/// `io.pitstop.Ota1.Manager`.
pub struct ManagerObject {
    commands: mpsc::Sender<Command>,
    operations: Operations,
    shown: watch::Receiver<Shown>,
}

impl ManagerObject {
    pub fn new(commands: mpsc::Sender<Command>, operations: Operations, shown: watch::Receiver<Shown>) -> Self {
        Self { commands, operations, shown }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, OtaError> {
        ask(&self.commands, command).await
    }
}

/// Sends one command and waits for its answer.
pub async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, OtaError> {
    let (reply, answer) = oneshot::channel();
    let ends = |_| OtaError::NotReady("the manager is ending".to_owned());
    commands.send(command(reply)).await.map_err(|_| ends(()))?;
    answer.await.map_err(|_| ends(()))
}

#[interface(name = "io.pitstop.Ota1.Manager")]
impl ManagerObject {
    #[zbus(out_args("operation"))]
    async fn check(&self, #[zbus(header)] header: Header<'_>) -> Result<OwnedObjectPath, OtaError> {
        let key = Key { kind: "check".to_owned(), update: String::new(), ecu: String::new(), attempt: 1 };
        let commands = self.commands.clone();
        let creator = header.sender().map(|sender| sender.to_owned().into());
        self.operations
            .start(key, Durability::Transient, creator, move |operation| async move {
                operation.phase("checking").await;
                let update = ask(&commands, Command::Check).await??;
                let update = update.map(|update| update.to_string()).unwrap_or_default();
                Ok(ResultData::from([("update".to_owned(), update.into())]))
            })
            .await
    }

    async fn cancel(&self) -> Result<(), OtaError> {
        self.ask(|reply| Command::Cancel { origin: "a local caller".to_owned(), reply }).await?
    }

    #[zbus(out_args("status", "steps"))]
    async fn get_status(&self) -> Result<(UpdateStatus, Vec<StepStatus>), OtaError> {
        self.ask(Command::Status).await
    }

    #[zbus(out_args("entries"))]
    async fn get_history(&self, limit: u32) -> Result<Vec<HistoryEntry>, OtaError> {
        let limit = checked(limit)?;
        self.ask(|reply| Command::History { limit, reply }).await?
    }

    #[zbus(out_args("whole", "entries", "head"))]
    async fn verify_history(&self) -> Result<(bool, u64, String), OtaError> {
        self.ask(Command::VerifyHistory).await?
    }

    #[zbus(out_args("lines"))]
    async fn export_history(&self, first: u64, limit: u32) -> Result<Vec<String>, OtaError> {
        let limit = checked(limit)?;
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        self.ask(|reply| Command::ExportHistory { first, limit, reply }).await?
    }

    #[zbus(out_args("entries"))]
    async fn get_refusals(&self, limit: u32) -> Result<Vec<RefusalEntry>, OtaError> {
        let limit = checked(limit)?;
        self.ask(|reply| Command::Refusals { limit, reply }).await?
    }

    #[zbus(property)]
    fn phase(&self) -> String {
        self.shown.borrow().phase.clone()
    }

    #[zbus(property)]
    fn update(&self) -> String {
        self.shown.borrow().update.clone()
    }

    #[zbus(signal)]
    async fn transition(emitter: &SignalEmitter<'_>, update: String, phase: String, end: String) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn step_changed(emitter: &SignalEmitter<'_>, step: StepStatus) -> zbus::Result<()>;
}

fn checked(limit: u32) -> Result<usize, OtaError> {
    if !(1..=MAX_ENTRIES).contains(&limit) {
        return Err(OtaError::InvalidArgument(format!("limit is {limit}; 1 to {MAX_ENTRIES} are possible")));
    }
    usize::try_from(limit).map_err(|_| OtaError::InvalidArgument("limit".to_owned()))
}

/// Tells the bus what the service tells. `status` is called with each new phase, for the unit's status line.
pub async fn announce(
    bus: Connection,
    mut news: mpsc::UnboundedReceiver<News>,
    shown: watch::Sender<Shown>,
    status: impl Fn(&str),
) {
    let mut pace = crate::pace::Pace::default();
    while let Some(news) = news.recv().await {
        let path = pitstop_dbus::object_path("Manager");
        let Ok(object) = bus.object_server().interface::<_, ManagerObject>(path).await else { continue };
        let emitter = object.signal_emitter();
        // Nobody listening is no error.
        match news {
            News::Transition { update, phase, end } => {
                status(&phase);
                let over = phase == pitstop_lifecycle::Phase::Ended.as_str();
                let next = if over { Shown::idle() } else { Shown { update: update.clone(), phase: phase.clone() } };
                shown.send_replace(next);
                let _ = ManagerObject::transition(emitter, update, phase, end).await;
                let manager = object.get().await;
                let _ = manager.phase_changed(emitter).await;
                let _ = manager.update_changed(emitter).await;
            }
            News::Step(step) => {
                if pace.admits(&step) {
                    let _ = ManagerObject::step_changed(emitter, step).await;
                }
            }
        }
    }
}
