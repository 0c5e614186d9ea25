//! The one task that owns the update. It waits for what callers ask, what effects bring and what the clock says; it
//! stores the new record; then it lets begin what the record asks and stops what it no longer asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::{HistoryEntry, OtaError, RefusalEntry, StepStatus, UpdateStatus};
use pitstop_lifecycle::{Boot, Duty, Effect, Event, Phase, Record, Refused, effects, next_timer, timer_event};
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::{EcuId, UnixSeconds, UpdateEnd, UpdateId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bus::Shown;
use crate::check::Found;
use crate::config::Settings;
use crate::effects::{Outcome, Performer};
use crate::history::History;
use crate::ports::Ports;
use crate::report;
use crate::reporter::Reporter;
use crate::status::{Board, is_over};
use crate::tether::{Live, Tether};

mod checks;
mod waking;

pub use waking::stored_record;

use waking::load_record;

/// The envelope's format. The record has its own number inside, so that an older release can read a newer record.
const ENVELOPE: u32 = 1;
/// Longest sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Between two words of progress to the backend: enough for a bar, little enough for a mobile network.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Before an effect that came to nothing is tried once more.
const RESPITE: Duration = Duration::from_secs(1);

/// What callers ask of the service.
#[derive(Debug)]
pub enum Command {
    /// Answer: the update, `None`: nothing to do.
    Check(oneshot::Sender<Result<Option<UpdateId>, OtaError>>),
    Cancel {
        origin: String,
        reply: oneshot::Sender<Result<(), OtaError>>,
    },
    Status(oneshot::Sender<(UpdateStatus, Vec<StepStatus>)>),
    History {
        limit: usize,
        reply: oneshot::Sender<Result<Vec<HistoryEntry>, OtaError>>,
    },
    VerifyHistory(oneshot::Sender<Result<(bool, u64, String), OtaError>>),
    ExportHistory {
        first: usize,
        limit: usize,
        reply: oneshot::Sender<Result<Vec<String>, OtaError>>,
    },
    Refusals {
        limit: usize,
        reply: oneshot::Sender<Result<Vec<RefusalEntry>, OtaError>>,
    },
}

/// What listeners are told.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    Transition { update: String, phase: String, end: String },
    Step(StepStatus),
}

/// What a task of the service brings home.
enum Home {
    Effect(Effect, Outcome),
    Check(Result<Found, OtaError>),
    Boot(Boot),
    Buses(Vec<(String, String)>),
    /// Who holds the drive inhibit in a life that began without an update under way.
    Holders(Vec<UpdateId>),
}

/// See the module.
pub struct Service {
    ports: Ports,
    settings: Arc<Settings>,
    performer: Performer,
    reporter: Reporter,
    document: Document<Record>,
    history: History,
    record: Option<Record>,
    /// The record was compared with what runs.
    compared: bool,
    board: Board,
    tasks: JoinSet<Home>,
    running: BTreeMap<Effect, watch::Sender<bool>>,
    /// Asked for a check; empty while none is running.
    waiting: Vec<oneshot::Sender<Result<Option<UpdateId>, OtaError>>>,
    checking: bool,
    next_check: Instant,
    progress_told: Instant,
    live: (mpsc::UnboundedSender<Live>, mpsc::UnboundedReceiver<Live>),
    news: mpsc::UnboundedSender<News>,
    /// Stops checks when the service ends.
    alive: watch::Sender<bool>,
}

impl Service {
    /// Reads what is stored. Told to `news`: every transition, steps and their progress.
    pub fn load(
        ports: Ports,
        settings: Settings,
        storage: Arc<dyn Storage>,
        news: mpsc::UnboundedSender<News>,
    ) -> Result<Self, StoreError> {
        let document = waking::record_document(&storage);
        let record = load_record(&storage)?;
        let settings = Arc::new(settings);
        let (reporter, reporting) = Reporter::new(ports.backend.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            reporting.await;
            std::future::pending().await
        });
        let performer = Performer { ports: ports.clone(), settings: settings.clone(), reporter: reporter.clone() };
        let next_check = Instant::now() + settings.first_check;
        Ok(Self {
            ports,
            settings,
            performer,
            reporter,
            document,
            history: History::new(storage),
            record,
            compared: false,
            board: Board::default(),
            tasks,
            running: BTreeMap::new(),
            waiting: Vec::new(),
            checking: false,
            next_check,
            progress_told: Instant::now(),
            live: mpsc::unbounded_channel(),
            news,
            alive: watch::Sender::new(false),
        })
    }

    /// What properties show before anything happens.
    pub fn shown(&self) -> Shown {
        let running = self.record.as_ref().filter(|record| !is_over(record));
        running.map_or_else(Shown::idle, |record| Shown {
            update: record.decision.update.to_string(),
            phase: record.phase.to_string(),
        })
    }

    /// Runs until `commands` ends, or a record cannot be stored: then nothing more may be done in this life.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        self.learn_buses();
        match &self.record {
            Some(record) if !is_over(record) => self.look_what_runs(),
            _ => {
                self.compared = true;
                self.look_who_holds();
            }
        }
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command)?,
                    None => return Ok(()),
                },
                Some(live) = self.live.1.recv() => self.on_live(live),
                Some(home) = self.tasks.join_next() => match home {
                    Ok(home) => self.on_home(home)?,
                    Err(error) => log::error!("a task of the manager failed: {error}"),
                },
                () = tokio::time::sleep_until(wake) => self.on_time()?,
            }
        }
    }

    fn now(&self) -> UnixSeconds {
        // Without a clock the record's own last time: late rather than early, and never backwards.
        let newest = self.record.as_ref().map_or(0, |record| record.since);
        self.ports.clock.now().unwrap_or(newest).max(newest)
    }

    fn on_command(&mut self, command: Command) -> Result<(), StoreError> {
        // A caller who went away needs no answer.
        match command {
            Command::Check(reply) => self.begin_check(Some(reply)),
            Command::Cancel { origin, reply } => {
                let _ = reply.send(self.cancel(origin)?);
            }
            Command::Status(reply) => {
                let _ = reply.send(self.board.status(self.record.as_ref()));
            }
            Command::History { limit, reply } => {
                let _ = reply.send(self.history.newest(limit).map_err(storage_error));
            }
            Command::VerifyHistory(reply) => {
                let state = self.history.verify().map_err(storage_error);
                let _ = reply.send(state.map(|state| (state.whole, state.entries, state.head.to_string())));
            }
            Command::ExportHistory { first, limit, reply } => {
                let _ = reply.send(self.history.export(first, limit).map_err(storage_error));
            }
            Command::Refusals { limit, reply } => {
                let _ = reply.send(self.history.newest_refusals(limit).map_err(storage_error));
            }
        }
        Ok(())
    }

    fn cancel(&mut self, origin: String) -> Result<Result<(), OtaError>, StoreError> {
        match self.record.as_ref().filter(|record| !is_over(record)) {
            None => Ok(Err(OtaError::NoUpdate("no update is running".to_owned()))),
            Some(_) => Ok(self
                .tell(&Event::Cancelled { origin })?
                .map_err(|refused| OtaError::WrongPhase(refused.to_string()))),
        }
    }

    fn on_live(&mut self, live: Live) {
        let Some(ecu) = self.board.take(live) else { return };
        if let Some((record, step)) = self.record.as_ref().and_then(|record| Some((record, record.step(&ecu)?))) {
            let _ = self.news.send(News::Step(self.board.step(record.phase, step)));
        }
        if self.progress_told.elapsed() >= PROGRESS_INTERVAL {
            self.progress_told = Instant::now();
            self.tell_progress();
        }
    }

    /// Progress for the backend: may be lost.
    fn tell_progress(&self) {
        let Some(record) = &self.record else { return };
        let (update, backend) = (record.decision.update.clone(), self.ports.backend.clone());
        let progress = report::progress(record.phase, &self.board.status(Some(record)).1);
        tokio::spawn(async move {
            if let Err(error) = backend.report_progress(&update, &progress).await {
                log::debug!("progress is not told: {}", error.text());
            }
        });
    }

    fn on_home(&mut self, home: Home) -> Result<(), StoreError> {
        match home {
            Home::Effect(effect, outcome) => {
                self.running.remove(&effect);
                let moved = match &outcome.event {
                    Some(event) => self.tell(event)?.is_ok(),
                    None => false,
                };
                if let Some(receipt) = outcome.receipt {
                    // The result is in the record now, so the object has served its purpose.
                    let backend = self.ports.backend.clone();
                    tokio::spawn(async move { backend.acknowledge(receipt).await });
                }
                if !moved {
                    self.align(RESPITE)?;
                }
            }
            Home::Check(found) => self.end_check(found)?,
            Home::Boot(boot) => {
                self.compared = true;
                if let Err(refused) = self.tell(&Event::Started(boot))? {
                    log::error!("the record cannot be gone on with: {refused}");
                }
            }
            Home::Buses(buses) => self.board.know_buses(buses),
            Home::Holders(holders) => self.let_go(holders),
        }
        Ok(())
    }

    fn on_time(&mut self) -> Result<(), StoreError> {
        if self.compared
            && let (Some(record), Some(now)) = (&self.record, self.ports.clock.now())
            && let Some(event) = timer_event(record, now)
            && let Err(refused) = self.tell(&event)?
        {
            log::warn!("{refused}");
        }
        if Instant::now() >= self.next_check {
            self.begin_check(None);
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let timer = match (self.record.as_ref().filter(|_| self.compared).and_then(next_timer), self.ports.clock.now())
        {
            (Some(at), Some(wall)) => Duration::from_secs(u64::try_from(at.saturating_sub(wall)).unwrap_or(0)),
            _ => LONGEST_SLEEP,
        };
        (now + timer.min(LONGEST_SLEEP)).min(self.next_check.max(now))
    }

    /// Takes an event in: the next record is stored before anything else happens.
    fn tell(&mut self, event: &Event) -> Result<Result<(), Refused>, StoreError> {
        let now = self.now();
        let Some(record) = &self.record else { return Ok(Ok(())) };
        let next = match record.apply(event, now) {
            Ok(next) => next,
            Err(refused) => {
                log::debug!("{refused}");
                return Ok(Err(refused));
            }
        };
        self.document.store(&next)?;
        let from = record.phase;
        self.record = Some(next);
        self.after_transition(from, now);
        self.align(Duration::ZERO)?;
        Ok(Ok(()))
    }

    /// Tells everybody. The one place that logs transitions.
    fn after_transition(&mut self, from: Phase, now: UnixSeconds) {
        let Some(record) = &self.record else { return };
        for step in &record.steps {
            let _ = self.news.send(News::Step(self.board.step(record.phase, step)));
        }
        if from == record.phase {
            return;
        }
        let update = record.decision.update.as_str();
        let reason = record.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        let end = record.end.map(UpdateEnd::as_str).unwrap_or_default();
        log::info!(update, campaign = record.decision.campaign.as_str(), phase = record.phase.as_str(), from = from.as_str(), end, reason = reason.as_str();
            "update {update}: {from} -> {}{}{}", record.phase, if end.is_empty() { "" } else { ", " }, end);
        let _ = self.news.send(News::Transition {
            update: update.to_owned(),
            phase: record.phase.to_string(),
            end: end.to_owned(),
        });
        if !matches!(record.phase, Phase::Reported | Phase::Ended) {
            self.reporter.tell(report::transition(record, now));
        }
        if is_over(record) {
            // Perhaps something newer waits; the one that superseded this one does.
            let superseded = record.end == Some(UpdateEnd::Superseded);
            self.next_check = if superseded { Instant::now() } else { Instant::now() + self.settings.poll_interval };
        }
        self.board.clear();
    }

    /// Begins what the record asks and is not running; stops what runs and is not asked any more.
    fn align(&mut self, pause: Duration) -> Result<(), StoreError> {
        let Some(record) = self.record.as_ref().filter(|_| self.compared) else { return Ok(()) };
        let wanted = effects(record);
        for (effect, stop) in &self.running {
            if !wanted.contains(effect) {
                stop.send_replace(true);
            }
        }
        // What was stopped may still be about to request the inhibit: letting the vehicle go waits until it is home.
        let holds = self.running.keys().any(may_hold);
        let waits = |effect: &Effect| holds && *effect == Effect::Do(Duty::Inhibit);
        let missing: Vec<Effect> =
            wanted.into_iter().filter(|effect| !self.running.contains_key(effect) && !waits(effect)).collect();
        for effect in missing {
            if effect == Effect::Do(Duty::History) {
                self.history.add(record, self.ports.clock.now().unwrap_or(record.since))?;
            }
            let (stop, stopped) = watch::channel(false);
            let tether = Tether::new(ecu_of(&effect), self.live.0.clone(), stopped);
            let (performer, record) = (self.performer.clone(), record.clone());
            self.running.insert(effect.clone(), stop);
            self.tasks.spawn(async move {
                let outcome = match tether.pause(pause).await {
                    Ok(()) => performer.perform(&record, &effect, &tether).await,
                    Err(_) => Outcome::default(),
                };
                Home::Effect(effect, outcome)
            });
        }
        Ok(())
    }
}

/// Whether the effect requests the drive inhibit on its way.
fn may_hold(effect: &Effect) -> bool {
    matches!(effect, Effect::MakeSafe { .. } | Effect::Activate { .. } | Effect::RollBack { .. } | Effect::Reboot)
}

fn ecu_of(effect: &Effect) -> Option<EcuId> {
    match effect {
        Effect::Admit { ecu, .. }
        | Effect::Stage { ecu, .. }
        | Effect::Activate { ecu, .. }
        | Effect::Commit { ecu, .. }
        | Effect::RollBack { ecu, .. } => Some(ecu.clone()),
        _ => None,
    }
}

fn storage_error(error: StoreError) -> OtaError {
    OtaError::Storage(error.to_string())
}
