mod object;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

use object::Operation;

/// Least time between two progress signals: four a second (the contract of the interface).
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Format of a stored result.
const FORMAT: u32 = 1;

/// What an operation is: equal keys are the same operation, and make the same object path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Verb in kebab case (`stage`).
    pub kind: String,
    /// Update it belongs to, or empty.
    pub update: String,
    /// ECU it works on, or empty; anything that tells two apart.
    pub ecu: String,
    pub attempt: u32,
}

/// Whether the end of an operation is remembered over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The result is stored; the same request later returns it without doing the work again.
    Durable,
    /// The result lasts until it is acknowledged or the service ends; the same request after the end starts anew.
    Transient,
}

/// Result data of an operation, as its call documents it. Text and numbers only.
pub type ResultData = BTreeMap<String, ResultValue>;

/// One value of an operation's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResultValue {
    Number(u64),
    Text(String),
}

impl From<u64> for ResultValue {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}
impl From<String> for ResultValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    key: Key,
    state: State,
    phase: String,
    done: u64,
    total: u64,
    error_name: String,
    error_text: String,
    result: ResultData,
}

/// The operation objects of one service.
#[derive(Clone)]
pub struct Operations {
    bus: Connection,
    service: &'static str,
    storage: Arc<dyn Storage>,
    entries: Arc<Mutex<BTreeMap<Key, Arc<Entry>>>>,
}

struct Entry {
    path: OwnedObjectPath,
    durability: Durability,
    progress: Mutex<Progress>,
    creator: Mutex<Option<OwnedUniqueName>>,
    cancel: watch::Sender<bool>,
    last_signal: Mutex<Option<Instant>>,
}

impl Operations {
    /// Operations of the service with the bus name's last word `service` (`Flasher`). Results of earlier lives are served again.
    pub async fn new(bus: &Connection, service: &'static str, storage: Arc<dyn Storage>) -> Result<Self, OtaError> {
        let operations = Self { bus: bus.clone(), service, storage, entries: Arc::default() };
        for name in operations.storage.list("operations/").map_err(|e| OtaError::Storage(e.to_string()))? {
            match Document::<Progress>::new(operations.storage.clone(), &name, FORMAT).load() {
                Ok(Some(progress)) => {
                    let key = progress.key.clone();
                    operations.serve(key, Durability::Durable, progress, None).await?;
                }
                Ok(None) => {}
                Err(error) => {
                    // A damaged result is no result: the work is idempotent and is done again when asked for.
                    log::warn!("dropping a stored result: {error}");
                    let _ = operations.storage.remove(&name);
                }
            }
        }
        Ok(operations)
    }

    /// Starts `work`, or finds what runs or ended under the same key, and returns the object's path.
    ///
    /// `creator` is who may cancel it: the sender of the request that came last.
    pub async fn start<F, Fut>(
        &self,
        key: Key,
        durability: Durability,
        creator: Option<OwnedUniqueName>,
        work: F,
    ) -> Result<OwnedObjectPath, OtaError>
    where
        F: FnOnce(OperationHandle) -> Fut,
        Fut: Future<Output = Result<ResultData, OtaError>> + Send + 'static,
    {
        let known = lock(&self.entries).get(&key).cloned();
        if let Some(entry) = known {
            let again = {
                let progress = lock(&entry.progress);
                let passing = OtaError::from_name(&progress.error_name, "").is_temporary();
                progress.state != State::Running && (entry.durability == Durability::Transient || passing)
            };
            if !again {
                *lock(&entry.creator) = creator;
                return Ok(entry.path.clone());
            }
            self.drop_entry(&key).await;
        }
        let progress = Progress {
            key: key.clone(),
            state: State::Running,
            phase: "queued".to_owned(),
            done: 0,
            total: 0,
            error_name: String::new(),
            error_text: String::new(),
            result: ResultData::new(),
        };
        let entry = self.serve(key, durability, progress, creator).await?;
        let handle = OperationHandle { operations: self.clone(), entry: entry.clone() };
        let future = work(handle.clone());
        tokio::spawn(async move {
            // A panic in the work must not leave an operation that runs for ever.
            let outcome = match tokio::spawn(future).await {
                Ok(outcome) => outcome,
                Err(error) => Err(OtaError::Internal(format!("the work ended by a defect: {error}"))),
            };
            handle.finish(outcome).await;
        });
        Ok(entry.path.clone())
    }

    /// Whether anything whose key satisfies `which` is running.
    pub fn is_running(&self, which: impl Fn(&Key) -> bool) -> bool {
        lock(&self.entries).iter().any(|(key, entry)| which(key) && lock(&entry.progress).state == State::Running)
    }

    /// Cancels what runs for an update and takes all its objects and results away.
    pub async fn release(&self, update: &str) {
        let keys: Vec<Key> = lock(&self.entries).keys().filter(|k| k.update == update).cloned().collect();
        for key in keys {
            self.drop_entry(&key).await;
        }
    }

    async fn serve(
        &self,
        key: Key,
        durability: Durability,
        progress: Progress,
        creator: Option<OwnedUniqueName>,
    ) -> Result<Arc<Entry>, OtaError> {
        let path = object_path(self.service, &key)?;
        let entry = Arc::new(Entry {
            path: path.clone(),
            durability,
            progress: Mutex::new(progress),
            creator: Mutex::new(creator),
            cancel: watch::Sender::new(false),
            last_signal: Mutex::new(None),
        });
        lock(&self.entries).insert(key, entry.clone());
        self.bus.object_server().at(path, Operation { entry: entry.clone(), operations: self.clone() }).await?;
        Ok(entry)
    }

    async fn drop_entry(&self, key: &Key) {
        let Some(entry) = lock(&self.entries).remove(key) else { return };
        entry.cancel.send_replace(true);
        if let Err(error) = self.storage.remove(&stored_name(key)) {
            log::warn!("a stored result stays behind: {error}");
        }
        let _ = self.bus.object_server().remove::<Operation, _>(entry.path.clone()).await;
    }
}

/// What the work holds of its operation.
#[derive(Clone)]
pub struct OperationHandle {
    operations: Operations,
    entry: Arc<Entry>,
}

impl OperationHandle {
    /// Tells what is being done now; always signalled.
    pub async fn phase(&self, phase: &str) {
        lock(&self.entry.progress).phase = phase.to_owned();
        self.announce(true).await;
    }

    /// Tells how far it is; signalled at most four times a second.
    pub async fn progress(&self, done: u64, total: u64) {
        {
            let mut progress = lock(&self.entry.progress);
            (progress.done, progress.total) = (done, total);
        }
        self.announce(false).await;
    }

    pub fn is_cancelled(&self) -> bool {
        *self.entry.cancel.borrow()
    }

    /// Returns when somebody asks the work to stop.
    pub async fn cancelled(&self) {
        let mut cancel = self.entry.cancel.subscribe();
        let _ = cancel.wait_for(|&c| c).await;
    }

    async fn finish(&self, outcome: Result<ResultData, OtaError>) {
        // What fails for a reason that passes has not ended: it is not remembered, and the same request starts it again.
        let passing = outcome.as_ref().is_err_and(OtaError::is_temporary);
        let stored = {
            let mut progress = lock(&self.entry.progress);
            match outcome {
                Ok(result) => {
                    progress.state = State::Succeeded;
                    progress.result = result;
                }
                Err(OtaError::Cancelled(text)) => {
                    progress.state = State::Cancelled;
                    progress.error_text = text;
                }
                Err(error) => {
                    let error = match error {
                        OtaError::Bus(cause) if passing => OtaError::NotReady(cause.to_string()),
                        OtaError::Bus(cause) => OtaError::Internal(cause.to_string()),
                        named => named,
                    };
                    progress.state = State::Failed;
                    progress.error_name = error.full_name();
                    progress.error_text = error.text();
                }
            }
            progress.clone()
        };
        let still_known = lock(&self.operations.entries).contains_key(&stored.key);
        if self.entry.durability == Durability::Durable && still_known && !passing {
            let document = Document::new(self.operations.storage.clone(), stored_name(&stored.key), FORMAT);
            if let Err(error) = document.store(&stored) {
                // Not remembered: after a restart the work, being idempotent, is done again.
                log::error!("storing the result of {}: {error}", self.entry.path);
            }
        }
        self.announce(true).await;
    }

    async fn announce(&self, always: bool) {
        {
            let mut last = lock(&self.entry.last_signal);
            let now = Instant::now();
            if !always && last.is_some_and(|l| now.duration_since(l) < PROGRESS_INTERVAL) {
                return;
            }
            *last = Some(now);
        }
        let server = self.operations.bus.object_server();
        let Ok(object) = server.interface::<_, Operation>(self.entry.path.clone()).await else { return };
        let progress = lock(&self.entry.progress).clone();
        let mut changed: HashMap<&str, zbus::Variant<'_>> = HashMap::from([
            ("Phase", progress.phase.into()),
            ("Done", progress.done.into()),
            ("Total", progress.total.into()),
            ("State", state_text(progress.state).into()),
        ]);
        if progress.state != State::Running {
            changed.insert("ErrorName", progress.error_name.into());
            changed.insert("ErrorText", progress.error_text.into());
            // A client that keeps properties would go on reading the empty result it knows.
            changed.insert("Result", on_wire(&progress.result).into());
        }
        // Nobody listening is no error.
        let Ok(interface) = zbus::names::InterfaceName::try_from(pitstop_dbus::interface_name("Operation")) else {
            return;
        };
        let _ =
            zbus::fdo::Properties::properties_changed(object.signal_emitter(), interface, changed, Vec::new().into())
                .await;
    }
}

/// The property `Result`, `a{sv}`.
fn on_wire(result: &ResultData) -> HashMap<String, OwnedVariant> {
    let variant = |value: &ResultValue| match value {
        ResultValue::Number(number) => OwnedVariant::from(*number),
        ResultValue::Text(text) => OwnedVariant::from(zbus::Str::from(text.clone())),
    };
    result.iter().map(|(name, value)| (name.clone(), variant(value))).collect()
}

fn state_text(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

/// `/io/pitstop/Ota1/Flasher/operations/stage_UPDATE_ECU_1`; what a path may not hold is written as `_` and two hexadecimal digits.
fn object_path(service: &str, key: &Key) -> Result<OwnedObjectPath, OtaError> {
    let name = [&key.kind, &key.update, &key.ecu].map(|part| escape(part, "_")).join("_");
    OwnedObjectPath::try_from(format!("{}/operations/{name}_{}", pitstop_dbus::object_path(service), key.attempt))
        .map_err(|error| OtaError::InvalidArgument(error.to_string()))
}

fn stored_name(key: &Key) -> String {
    let name = [&key.kind, &key.update, &key.ecu].map(|part| escape(part, "-")).join("_");
    format!("operations/{name}_{}", key.attempt)
}

fn escape(text: &str, mark: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'0'..=b'9' => char::from(b).to_string(),
            _ => format!("{mark}{b:02x}"),
        })
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves plain data behind, which stays usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
