//! One task owns the outbox, the session and the deadlines; everything reaches it as a message.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::{LinkStatus, OtaError};
use pitstop_runtime::{Backoff, spread};
use pitstop_store::{Document, Storage};
use pitstop_types::UpdateId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::api::{ApiError, Next};
use crate::config::Settings;
use crate::device::{DeviceRecord, Network, RECORD_FORMAT, RECORD_NAME, Session, SessionError, open_session};
use crate::mqtt::{LinkEvent, Mqtt};
use crate::outbox::{Outbox, OutboxError};
use crate::pauses::{Hints, poll_after_connect};

/// Commands waiting; more callers wait for room.
const COMMANDS: usize = 64;
/// Bounds for the interval that the backend asks for.
const POLL_BOUNDS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(86_400));

/// What the bus object asks of the service.
pub enum Command {
    Report {
        report: String,
        reply: oneshot::Sender<Result<u64, OtaError>>,
    },
    Progress {
        update: UpdateId,
        payload: String,
    },
    Status {
        reply: oneshot::Sender<LinkStatus>,
    },
    /// Provisioning has stored a new record.
    Provisioned(Box<Session>),
}

/// What the service wants said on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    Hint(String),
    ConnectedChanged,
    ProvisionedChanged,
}

/// What properties answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    pub connected: bool,
    pub provisioned: bool,
}

/// The bus object's side of the service.
#[derive(Clone)]
pub struct Handle {
    pub commands: mpsc::Sender<Command>,
    /// The session, once there is one. It never changes; a new one takes its place.
    pub session: watch::Receiver<Option<Arc<Session>>>,
    pub flags: watch::Receiver<Flags>,
    pub settings: Arc<Settings>,
    pub storage: Arc<dyn Storage>,
    pub network: Network,
}

enum Outcome {
    Session(Result<Box<Session>, SessionError>),
    Sent(Result<u64, ApiError>, usize),
    Polled(Result<Next, ApiError>),
    Told(Result<(), ApiError>),
}

/// Why reports go on waiting.
#[derive(Debug, thiserror::Error)]
enum Waiting {
    #[error(transparent)]
    Backend(#[from] ApiError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("the backend acknowledges {0}, and nothing of what was sent")]
    NoProgress(u64),
}

impl Waiting {
    /// The network fails every day, the disk and the backend's memory do not.
    fn level(&self) -> log::Level {
        match self {
            Self::Backend(_) => log::Level::Info,
            Self::Outbox(_) | Self::NoProgress(_) => log::Level::Error,
        }
    }
}

/// The service's state and its task.
pub struct Service {
    settings: Arc<Settings>,
    storage: Arc<dyn Storage>,
    network: Network,
    outbox: Outbox,
    commands: mpsc::Receiver<Command>,
    announcements: mpsc::UnboundedSender<Announcement>,
    session: watch::Sender<Option<Arc<Session>>>,
    flags: watch::Sender<Flags>,
    mqtt: Option<Mqtt>,
    link: (mpsc::UnboundedSender<LinkEvent>, mpsc::UnboundedReceiver<LinkEvent>),
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    boot: String,
    sending: bool,
    /// After a refusal one report at a time, to find the one that is refused.
    one_by_one: bool,
    polling: bool,
    /// Progress is on its way by HTTPS.
    telling: bool,
    send_at: Option<Instant>,
    poll_at: Option<Instant>,
    open_at: Option<Instant>,
    /// When the last poll began.
    last_poll: Option<Instant>,
    /// A poll that the begin of a session demands; one that was on its way already does not count.
    owed_poll: Option<Instant>,
    hints: Hints,
    last_rev: Option<u64>,
    poll_interval: Duration,
    send_backoff: Backoff,
    poll_backoff: Backoff,
    open_backoff: Backoff,
}

impl Service {
    /// The service and the handle to it. A stored record is opened when [`Service::run`] begins.
    pub fn new(
        settings: Arc<Settings>,
        storage: Arc<dyn Storage>,
        outbox: Outbox,
        network: Network,
        announcements: mpsc::UnboundedSender<Announcement>,
    ) -> (Self, Handle) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (session, session_seen) = watch::channel(None);
        let (flags, flags_seen) = watch::channel(Flags::default());
        let handle = Handle {
            commands,
            session: session_seen,
            flags: flags_seen,
            settings: Arc::clone(&settings),
            storage: Arc::clone(&storage),
            network: network.clone(),
        };
        let backoff = Backoff::new(settings.back_off_first, settings.back_off_cap);
        let service = Self {
            poll_interval: settings.poll_interval,
            settings,
            storage,
            network,
            outbox,
            commands: receiver,
            announcements,
            session,
            flags,
            mqtt: None,
            link: mpsc::unbounded_channel(),
            outcomes: mpsc::unbounded_channel(),
            boot: format!("{:016x}", rand::random::<u64>()),
            sending: false,
            one_by_one: false,
            polling: false,
            telling: false,
            send_at: None,
            poll_at: None,
            open_at: None,
            last_poll: None,
            owed_poll: None,
            hints: Hints::default(),
            last_rev: None,
            send_backoff: backoff.clone(),
            poll_backoff: backoff.clone(),
            open_backoff: backoff,
        };
        (service, handle)
    }

    /// Runs until nobody holds the handle.
    pub async fn run(mut self) {
        self.open_at = Some(Instant::now());
        loop {
            let (send_at, poll_at, open_at) = (self.send_at, self.poll_at, self.open_at);
            let hint_at = self.hints.due();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(event) = self.link.1.recv() => self.link_event(event),
                Some(outcome) = self.outcomes.1.recv() => self.outcome(outcome),
                () = at(send_at) => self.send(),
                () = at(poll_at) => self.poll(),
                () = at(open_at) => self.open(),
                () = at(hint_at) => self.say_hint(),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Report { report, reply } => {
                let result = self.outbox.put(&report).map_err(outbox_error);
                if result.is_ok() && self.send_at.is_none() {
                    self.send_at = Some(Instant::now());
                }
                let _ = reply.send(result);
            }
            Command::Progress { update, payload } => self.progress(&update, payload),
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Provisioned(session) => self.take_session(*session),
        }
    }

    /// By MQTT where it stands, else by its HTTPS twin, one at a time; what finds both taken is old by the time they are free.
    fn progress(&mut self, update: &UpdateId, payload: String) {
        if self.mqtt.as_ref().is_some_and(|mqtt| mqtt.progress(update.as_str(), payload.clone())) || self.telling {
            return;
        }
        let Some(session) = self.session.borrow().clone() else { return };
        self.telling = true;
        let (outcomes, update) = (self.outcomes.0.clone(), update.clone());
        tokio::spawn(async move {
            let _ = outcomes.send(Outcome::Told(session.api.progress(&update, payload).await));
        });
    }

    fn status(&self) -> LinkStatus {
        let session = self.session.borrow();
        LinkStatus {
            provisioned: session.is_some(),
            device: session.as_ref().map(|s| s.record.device.to_string()).unwrap_or_default(),
            connected: self.flags.borrow().connected,
            outbox: self.outbox.len() as u64,
            last_contact: self.network.contact.last(),
            key_store: session.as_ref().map_or(pitstop_tpm::NO_KEY, |s| s.key_store).to_owned(),
        }
    }

    /// Opens the stored record, if this device has one, in a thread: the TPM blocks.
    fn open(&mut self) {
        self.open_at = None;
        let document = Document::<DeviceRecord>::new(Arc::clone(&self.storage), RECORD_NAME, RECORD_FORMAT);
        let record = match document.load() {
            Ok(Some(record)) => record,
            Ok(None) => {
                log::info!("this device is not provisioned");
                return;
            }
            Err(error) => {
                log::error!("the record of provisioning cannot be read; provision again: {error}");
                return;
            }
        };
        let (settings, network, outcomes) = (Arc::clone(&self.settings), self.network.clone(), self.outcomes.0.clone());
        tokio::task::spawn_blocking(move || {
            let opened = open_session(record, &settings, &network).map(Box::new);
            let _ = outcomes.send(Outcome::Session(opened));
        });
    }

    fn take_session(&mut self, session: Session) {
        let session = Arc::new(session);
        // The old session must be gone first: the broker would throw one of two with the same name out.
        self.mqtt = None;
        if self.settings.mqtt.enabled {
            self.mqtt = Some(Mqtt::start(&session, &self.settings, &self.boot, self.link.0.clone(), &self.network));
        }
        self.session.send_replace(Some(session));
        self.set_flags(|flags| flags.provisioned = true);
        self.last_rev = None;
        self.poll_at = Some(Instant::now());
        self.send_at = Some(Instant::now());
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                log::info!("connected to the broker");
                self.set_flags(|flags| flags.connected = true);
                // Ask on connect: nothing has to be retained or queued anywhere for us.
                self.owed_poll = Some(poll_after_connect(Instant::now(), self.last_poll, rand::random()));
                self.plan_poll();
                self.send_at = Some(Instant::now());
            }
            LinkEvent::Disconnected => self.set_flags(|flags| flags.connected = false),
            LinkEvent::Hint(kind) => self.hints.came(Instant::now(), kind),
        }
    }

    fn say_hint(&mut self) {
        if let Some(kind) = self.hints.say(Instant::now()) {
            let _ = self.announcements.send(Announcement::Hint(kind.to_owned()));
        }
    }

    fn send(&mut self) {
        self.send_at = None;
        let Some(session) = self.session.borrow().clone() else { return };
        if self.sending || self.outbox.is_empty() {
            return;
        }
        let batch = self.outbox.batch(if self.one_by_one { 1 } else { usize::MAX });
        self.sending = true;
        let outcomes = self.outcomes.0.clone();
        tokio::spawn(async move {
            let result = session.api.status(&batch).await;
            let _ = outcomes.send(Outcome::Sent(result, batch.len()));
        });
    }

    fn poll(&mut self) {
        self.poll_at = None;
        let Some(session) = self.session.borrow().clone() else { return };
        if self.polling {
            return;
        }
        (self.polling, self.last_poll, self.owed_poll) = (true, Some(Instant::now()), None);
        let outcomes = self.outcomes.0.clone();
        tokio::spawn(async move {
            let _ = outcomes.send(Outcome::Polled(session.api.next().await));
        });
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Session(Ok(session)) => self.take_session(*session),
            Outcome::Session(Err(error)) => {
                let pause = self.open_backoff.next(rand::random());
                log::error!("{error}; next try in {:.1} s", pause.as_secs_f64());
                self.open_at = Some(Instant::now() + pause);
            }
            Outcome::Sent(result, count) => self.sent(result, count),
            Outcome::Polled(result) => self.polled(result),
            Outcome::Told(result) => {
                self.telling = false;
                if let Err(error) = result {
                    log::debug!("progress dropped: {error}");
                }
            }
        }
    }

    fn sent(&mut self, result: Result<u64, ApiError>, count: usize) {
        self.sending = false;
        match self.take_answer(result, count) {
            Ok(()) if self.outbox.is_empty() => {}
            Ok(()) => self.send_at = Some(Instant::now()),
            Err(reason) => {
                let pause = self.send_backoff.next(rand::random());
                log::log!(reason.level(), "reports wait: {reason}; next try in {:.1} s", pause.as_secs_f64());
                self.send_at = Some(Instant::now() + pause);
            }
        }
    }

    /// Takes from the outbox what is done with.
    fn take_answer(&mut self, result: Result<u64, ApiError>, count: usize) -> Result<(), Waiting> {
        match result {
            Ok(ack) if self.outbox.acknowledge(ack)? => {
                self.send_backoff.reset();
                self.one_by_one = false;
                Ok(())
            }
            Ok(ack) => Err(Waiting::NoProgress(ack)),
            // The backend will not take this content, today or tomorrow. The report must not hold up the others.
            Err(ApiError::Refused { status: status @ (400 | 413 | 422), text, .. }) => {
                log::error!("the backend refuses {count} reports ({status}): {text}");
                if count == 1 {
                    self.outbox.drop_first()?;
                } else {
                    self.one_by_one = true;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn polled(&mut self, result: Result<Next, ApiError>) {
        self.polling = false;
        match result {
            Ok(next) => {
                self.poll_backoff.reset();
                if let Some(secs) = next.poll_secs {
                    self.poll_interval = Duration::from_secs(secs).clamp(POLL_BOUNDS.0, POLL_BOUNDS.1);
                }
                self.poll_at = Some(Instant::now() + spread(self.poll_interval, rand::random()));
                self.plan_poll();
                if self.last_rev != Some(next.rev) {
                    let first = self.last_rev.is_none();
                    self.last_rev = Some(next.rev);
                    match next.update {
                        Some(_) => self.hints.came(Instant::now(), "offer"),
                        None if !first => self.hints.came(Instant::now(), "none"),
                        None => {}
                    }
                }
            }
            Err(error) => {
                let pause = self.poll_backoff.next(rand::random());
                log::info!("poll: {error}; next try in {:.1} s", pause.as_secs_f64());
                self.poll_at = Some(Instant::now() + pause);
            }
        }
    }

    /// The next poll is not later than the one that a session demands.
    fn plan_poll(&mut self) {
        self.poll_at = self.poll_at.into_iter().chain(self.owed_poll).min();
    }

    fn set_flags(&mut self, change: impl FnOnce(&mut Flags)) {
        let before = *self.flags.borrow();
        self.flags.send_modify(change);
        let after = *self.flags.borrow();
        if before.connected != after.connected {
            let _ = self.announcements.send(Announcement::ConnectedChanged);
        }
        if before.provisioned != after.provisioned {
            let _ = self.announcements.send(Announcement::ProvisionedChanged);
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn outbox_error(error: OutboxError) -> OtaError {
    match error {
        OutboxError::Form => OtaError::InvalidArgument(error.to_string()),
        OutboxError::TooLarge(_) => OtaError::TooLarge(error.to_string()),
        OutboxError::Store(cause) => OtaError::Storage(cause.to_string()),
    }
}
