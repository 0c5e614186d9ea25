//! The objects on the bus. A method checks its arguments, sends one command to the service, converts the answer.
//!
//! While a method waits for the service, its object is locked for reading. So the service never asks for an object's write
//! lock: what changes in an object comes through a `watch` channel.

use pitstop_dbus::{Facts, OtaError};
use pitstop_types::{Digest, PromptFacts, UpdateEnd, UpdateId, UserChoice};
use tokio::sync::watch;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath, interface};

use crate::service::{Command, Handle};
use crate::{Notice, Origin, Prompt, PromptState};

/// `io.pitstop.Ota1.Hmi`: for the other services.
pub(crate) struct HmiObject {
    service: Handle,
}

/// `io.pitstop.Ota1.Prompts`: for screens.
pub(crate) struct PromptsObject {
    service: Handle,
}

/// `io.pitstop.Ota1.Prompt`: one thing asked.
pub(crate) struct PromptObject {
    service: Handle,
    prompt: Prompt,
    state: watch::Receiver<PromptState>,
}

/// `io.pitstop.Ota1.Notice`: one thing told.
pub(crate) struct NoticeObject {
    service: Handle,
    notice: watch::Receiver<Notice>,
}

impl HmiObject {
    pub(crate) fn new(service: Handle) -> Self {
        Self { service }
    }
}

#[interface(name = "io.pitstop.Ota1.Hmi")]
impl HmiObject {
    #[zbus(out_args("prompt"))]
    async fn ask(&self, update: String, facts: Facts) -> Result<OwnedObjectPath, OtaError> {
        let Facts { purpose, changes, expected_secs, unavailable, instructions } = facts;
        let facts = PromptFacts { purpose, changes, expected_secs, unavailable, instructions };
        let update = update_id(update)?;
        self.service.call(|reply| Command::Ask { update, facts, reply }).await
    }

    #[zbus(out_args("answer"))]
    async fn get_answer(&self, update: String) -> Result<pitstop_dbus::Answer, OtaError> {
        let update = update_id(update)?;
        self.service.call(|reply| Command::GetAnswer { update, reply }).await
    }

    async fn ask_again(&self, update: String) -> Result<(), OtaError> {
        let update = update_id(update)?;
        self.service.call(|reply| Command::AskAgain { update, reply }).await
    }

    async fn withdraw(&self, update: String) -> Result<(), OtaError> {
        let update = update_id(update)?;
        self.service.call(|reply| Command::Withdraw { update, reply }).await
    }

    #[zbus(out_args("notice"))]
    async fn notify(&self, update: String, end: String, text: String) -> Result<OwnedObjectPath, OtaError> {
        let update = update_id(update)?;
        let known = UpdateEnd::ALL.into_iter().find(|known| known.as_str() == end);
        let end = known.ok_or_else(|| OtaError::InvalidArgument(format!("{end:?} is not an end of an update")))?;
        self.service.call(|reply| Command::Notify { update, end, text, reply }).await
    }

    #[zbus(signal)]
    pub(crate) async fn answered(emitter: &SignalEmitter<'_>, update: String, choice: String) -> zbus::Result<()>;
}

impl PromptsObject {
    pub(crate) fn new(service: Handle) -> Self {
        Self { service }
    }
}

#[interface(name = "io.pitstop.Ota1.Prompts")]
impl PromptsObject {
    #[zbus(out_args("prompts"))]
    async fn list_prompts(&self) -> Result<Vec<OwnedObjectPath>, OtaError> {
        self.service.call(|reply| Command::ListPrompts { reply }).await
    }

    #[zbus(out_args("notices"))]
    async fn list_notices(&self) -> Result<Vec<OwnedObjectPath>, OtaError> {
        self.service.call(|reply| Command::ListNotices { reply }).await
    }

    #[zbus(signal)]
    pub(crate) async fn prompt_added(emitter: &SignalEmitter<'_>, prompt: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    pub(crate) async fn prompt_removed(emitter: &SignalEmitter<'_>, prompt: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    pub(crate) async fn notice_added(emitter: &SignalEmitter<'_>, notice: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    pub(crate) async fn notice_removed(emitter: &SignalEmitter<'_>, notice: OwnedObjectPath) -> zbus::Result<()>;
}

impl PromptObject {
    pub(crate) fn new(service: Handle, prompt: Prompt, state: watch::Receiver<PromptState>) -> Self {
        Self { service, prompt, state }
    }

    /// Tells property watchers of the object at `path` about its state.
    pub(crate) async fn state_changed_on(bus: &Connection, path: &ObjectPath<'_>) {
        if let Ok(object) = bus.object_server().interface::<_, Self>(path.to_owned()).await {
            let told = object.get().await.state_changed(object.signal_emitter()).await;
            log_failure(told);
        }
    }
}

#[interface(name = "io.pitstop.Ota1.Prompt")]
impl PromptObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn update(&self) -> &str {
        self.prompt.update.as_str()
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn purpose(&self) -> &str {
        &self.prompt.facts.purpose
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn changes(&self) -> &str {
        &self.prompt.facts.changes
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn expected_seconds(&self) -> u32 {
        self.prompt.facts.expected_secs
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn unavailable(&self) -> &str {
        &self.prompt.facts.unavailable
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn instructions(&self) -> &str {
        &self.prompt.facts.instructions
    }
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.state.borrow().as_str()
    }
    #[zbus(property(emits_changed_signal = "const"))]
    fn text_digest(&self) -> String {
        self.prompt.digest.to_string()
    }

    async fn answer(&self, choice: String, at: i64, origin: String, text_digest: String) -> Result<(), OtaError> {
        let choice = user_choice(&choice, at)?;
        let origin = Origin::parse(&origin).ok_or_else(|| {
            OtaError::InvalidArgument(format!("origin {origin:?} is not \"hmi\" or \"command-line\""))
        })?;
        let shown = Digest::parse(&text_digest).map_err(|cause| OtaError::InvalidArgument(cause.to_string()))?;
        let update = self.prompt.update.clone();
        self.service.call(|reply| Command::Answer { update, choice, origin, shown, reply }).await
    }
}

impl NoticeObject {
    pub(crate) fn new(service: Handle, notice: watch::Receiver<Notice>) -> Self {
        Self { service, notice }
    }

    /// Tells property watchers of the object at `path` about its text.
    pub(crate) async fn changed(bus: &Connection, path: &ObjectPath<'_>) {
        if let Ok(object) = bus.object_server().interface::<_, Self>(path.to_owned()).await {
            let notice = object.get().await;
            log_failure(notice.end_changed(object.signal_emitter()).await);
            log_failure(notice.text_changed(object.signal_emitter()).await);
        }
    }
}

#[interface(name = "io.pitstop.Ota1.Notice")]
impl NoticeObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn update(&self) -> String {
        self.notice.borrow().update.to_string()
    }
    #[zbus(property)]
    fn end(&self) -> &'static str {
        self.notice.borrow().end.as_str()
    }
    #[zbus(property)]
    fn text(&self) -> String {
        self.notice.borrow().text.clone()
    }

    async fn acknowledge(&self) -> Result<(), OtaError> {
        let update = self.notice.borrow().update.clone();
        self.service.call(|reply| Command::Acknowledge { update, reply }).await
    }
}

fn update_id(text: String) -> Result<UpdateId, OtaError> {
    UpdateId::new(text).map_err(|cause| OtaError::InvalidArgument(cause.to_string()))
}

fn user_choice(choice: &str, at: i64) -> Result<UserChoice, OtaError> {
    match (choice, at) {
        ("at", unix_secs) => Ok(UserChoice::At { unix_secs }),
        ("now", 0) => Ok(UserChoice::Now),
        ("later", 0) => Ok(UserChoice::Later),
        ("no", 0) => Ok(UserChoice::No),
        ("now" | "later" | "no", _) => {
            Err(OtaError::InvalidArgument(format!("choice {choice:?} takes no time; write 0")))
        }
        _ => Err(OtaError::InvalidArgument(format!("choice {choice:?} is none of \"now\", \"at\", \"later\", \"no\""))),
    }
}

fn log_failure(told: zbus::Result<()>) {
    if let Err(cause) = told {
        log::warn!("telling a changed property failed: {cause}");
    }
}
