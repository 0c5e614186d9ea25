use std::collections::HashMap;

use pitstop_dbus::{OtaError, object_path};
use pitstop_types::{Digest, PromptFacts, UnixSeconds, UpdateEnd, UpdateId, UserChoice};
use tokio::sync::{mpsc, oneshot, watch};
use zbus::{Connection, OwnedObjectPath};

use crate::bus::{HmiObject, NoticeObject, PromptObject, PromptsObject};
use crate::{Change, Desk, DeskError, Notice, Origin, Prompt, PromptState, choice_words};

/// The wall clock; `None` while the time is not known.
pub type Clock = fn() -> Option<UnixSeconds>;

/// Calls that may wait; more than this many at once is a client gone wild, which then waits at the bus.
const QUEUE: usize = 64;

/// Owns the desk, and tells the objects on the bus what changed.
pub struct Service {
    bus: Connection,
    desk: Desk,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
    states: HashMap<OwnedObjectPath, watch::Sender<PromptState>>,
    notices: HashMap<OwnedObjectPath, watch::Sender<Notice>>,
}

/// What the objects on the bus hold: the way to the service.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Command>);

pub(crate) type Reply<T> = oneshot::Sender<Result<T, OtaError>>;

pub(crate) enum Command {
    Ask { update: UpdateId, facts: PromptFacts, reply: Reply<OwnedObjectPath> },
    GetAnswer { update: UpdateId, reply: Reply<pitstop_dbus::Answer> },
    AskAgain { update: UpdateId, reply: Reply<()> },
    Withdraw { update: UpdateId, reply: Reply<()> },
    Notify { update: UpdateId, end: UpdateEnd, text: String, reply: Reply<OwnedObjectPath> },
    ListPrompts { reply: Reply<Vec<OwnedObjectPath>> },
    ListNotices { reply: Reply<Vec<OwnedObjectPath>> },
    Answer { update: UpdateId, choice: UserChoice, origin: Origin, shown: Digest, reply: Reply<()> },
    Acknowledge { update: UpdateId, reply: Reply<()> },
}

impl Handle {
    pub(crate) async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, OtaError> {
        let ending = || OtaError::NotReady("the HMI service is ending".to_owned());
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

impl Service {
    /// Puts the objects on the bus, those of stored prompts and notices too. Calls are served once [`Service::run`] runs.
    pub async fn serve(bus: &Connection, desk: Desk, clock: Clock) -> Result<Self, OtaError> {
        let (sender, commands) = mpsc::channel(QUEUE);
        let handle = Handle(sender);
        let root = object_path("Hmi");
        bus.object_server().at(root.as_str(), HmiObject::new(handle.clone())).await?;
        bus.object_server().at(root.as_str(), PromptsObject::new(handle.clone())).await?;
        let mut service =
            Self { bus: bus.clone(), desk, clock, commands, handle, states: HashMap::new(), notices: HashMap::new() };
        for prompt in service.desk.prompts().into_iter().cloned().collect::<Vec<_>>() {
            service.add_prompt(&prompt).await?;
        }
        for notice in service.desk.notices().into_iter().cloned().collect::<Vec<_>>() {
            service.add_notice(&notice).await?;
        }
        Ok(service)
    }

    /// Serves calls, one after the other, for ever.
    pub async fn run(mut self) {
        while let Some(command) = self.commands.recv().await {
            self.handle(command).await;
        }
    }

    async fn handle(&mut self, command: Command) {
        let now = (self.clock)();
        match command {
            Command::Ask { update, facts, reply } => {
                let changes = self.desk.ask(&update, facts, now);
                self.finish(changes, reply, |service| prompt_path(service.desk.prompt(&update).map_err(error)?)).await;
            }
            Command::GetAnswer { update, reply } => {
                let _ = reply.send(self.desk.prompt(&update).map(wire_answer).map_err(error));
            }
            Command::AskAgain { update, reply } => {
                let changes = self.desk.ask_again(&update);
                self.finish(changes, reply, |_| Ok(())).await;
            }
            Command::Withdraw { update, reply } => {
                let changes = self.desk.withdraw(&update);
                self.finish(changes, reply, |_| Ok(())).await;
            }
            Command::Notify { update, end, text, reply } => {
                let changes = self.desk.notify(&update, end, &text, now);
                self.finish(changes, reply, |_| notice_path(&update)).await;
            }
            Command::ListPrompts { reply } => {
                let open = self.desk.prompts().into_iter().filter(|prompt| prompt.state == PromptState::Open);
                let _ = reply.send(open.map(prompt_path).collect());
            }
            Command::ListNotices { reply } => {
                let _ = reply.send(self.desk.notices().into_iter().map(|notice| notice_path(&notice.update)).collect());
            }
            Command::Answer { update, choice, origin, shown, reply } => {
                let changes = self.desk.answer(&update, choice, origin, shown, now);
                self.finish(changes, reply, |_| Ok(())).await;
            }
            Command::Acknowledge { update, reply } => {
                let changes = self.desk.acknowledge(&update);
                self.finish(changes, reply, |_| Ok(())).await;
            }
        }
    }

    /// Objects that a reply names are there before it; objects go after it, so that the call's own
    /// object is there to the end. Everything is on disk by now.
    async fn finish<T>(
        &mut self,
        changes: Result<Vec<Change>, DeskError>,
        reply: Reply<T>,
        value: impl FnOnce(&Self) -> Result<T, OtaError>,
    ) {
        let changes = match changes {
            Ok(changes) => changes,
            Err(cause) => {
                let _ = reply.send(Err(error(cause)));
                return;
            }
        };
        for change in &changes {
            if let Err(cause) = self.appear(change).await {
                log::error!("the bus did not take {change:?}: {cause}");
            }
        }
        let _ = reply.send(value(self));
        for change in &changes {
            if let Err(cause) = self.disappear(change).await {
                log::error!("the bus did not take {change:?}: {cause}");
            }
        }
    }

    async fn appear(&mut self, change: &Change) -> Result<(), OtaError> {
        match change {
            Change::PromptAdded(prompt) => {
                log::info!(update = prompt.update.as_str(), digest:% = prompt.digest; "asking the driver");
                self.add_prompt(prompt).await?;
                PromptsObject::prompt_added(&self.emitter()?, prompt_path(prompt)?).await?;
            }
            Change::NoticeAdded(notice) => {
                log::info!(update = notice.update.as_str(), end:% = notice.end; "telling the driver");
                self.add_notice(notice).await?;
                PromptsObject::notice_added(&self.emitter()?, notice_path(&notice.update)?).await?;
            }
            Change::PromptRemoved(prompt) => {
                if let Some(state) = self.states.get(&prompt_path(prompt)?) {
                    state.send_replace(prompt.state);
                }
            }
            Change::PromptForgotten(_) | Change::NoticeRemoved(_) => {}
        }
        Ok(())
    }

    async fn disappear(&mut self, change: &Change) -> Result<(), OtaError> {
        match change {
            Change::PromptRemoved(prompt) => {
                let path = prompt_path(prompt)?;
                PromptObject::state_changed_on(&self.bus, &path).await;
                PromptsObject::prompt_removed(&self.emitter()?, path).await?;
                if let Some(answer) = prompt.answer.as_ref().filter(|_| prompt.state == PromptState::Answered) {
                    let choice = choice_words(answer.choice).0;
                    log::info!(update = prompt.update.as_str(), choice, origin = answer.origin.as_str(); "the driver answered");
                    HmiObject::answered(&self.emitter()?, prompt.update.to_string(), choice.to_owned()).await?;
                }
            }
            Change::PromptForgotten(prompt) => {
                let path = prompt_path(prompt)?;
                self.states.remove(&path);
                PromptsObject::prompt_removed(&self.emitter()?, path.clone()).await?;
                self.bus.object_server().remove::<PromptObject, _>(path).await?;
            }
            Change::NoticeRemoved(notice) => {
                // One that a new text replaced stays: its object serves the new one.
                if self.desk.notices().iter().any(|open| open.update == notice.update) {
                    return Ok(());
                }
                let path = notice_path(&notice.update)?;
                self.notices.remove(&path);
                PromptsObject::notice_removed(&self.emitter()?, path.clone()).await?;
                self.bus.object_server().remove::<NoticeObject, _>(path).await?;
            }
            Change::PromptAdded(_) | Change::NoticeAdded(_) => {}
        }
        Ok(())
    }

    /// The prompt's object, or its state if the object is there.
    async fn add_prompt(&mut self, prompt: &Prompt) -> Result<(), OtaError> {
        let path = prompt_path(prompt)?;
        if let Some(state) = self.states.get(&path) {
            state.send_replace(prompt.state);
            PromptObject::state_changed_on(&self.bus, &path).await;
            return Ok(());
        }
        let (sender, state) = watch::channel(prompt.state);
        let object = PromptObject::new(self.handle.clone(), prompt.clone(), state);
        self.bus.object_server().at(path.clone(), object).await?;
        self.states.insert(path, sender);
        Ok(())
    }

    /// The notice's object, or its new text if the object is there.
    async fn add_notice(&mut self, notice: &Notice) -> Result<(), OtaError> {
        let path = notice_path(&notice.update)?;
        if let Some(shown) = self.notices.get(&path) {
            shown.send_replace(notice.clone());
            NoticeObject::changed(&self.bus, &path).await;
            return Ok(());
        }
        let (sender, shown) = watch::channel(notice.clone());
        self.bus.object_server().at(path.clone(), NoticeObject::new(self.handle.clone(), shown)).await?;
        self.notices.insert(path, sender);
        Ok(())
    }

    fn emitter(&self) -> Result<zbus::object_server::SignalEmitter<'static>, OtaError> {
        Ok(zbus::object_server::SignalEmitter::new(&self.bus, object_path("Hmi"))?.into_owned())
    }
}

fn wire_answer(prompt: &Prompt) -> pitstop_dbus::Answer {
    let Some(answer) = &prompt.answer else { return pitstop_dbus::Answer::default() };
    let (choice, at) = choice_words(answer.choice);
    pitstop_dbus::Answer {
        choice: choice.to_owned(),
        at,
        origin: answer.origin.as_str().to_owned(),
        answered_at: answer.answered_at,
        text_digest: answer.text_digest.to_string(),
    }
}

/// One path for one update and text. `-` is the one character of an update id that a path cannot hold, and `_` is in none.
fn prompt_path(prompt: &Prompt) -> Result<OwnedObjectPath, OtaError> {
    let digest: String = prompt.digest.to_string().chars().take(16).collect();
    path(format!("{}/prompts/{}_{digest}", object_path("Hmi"), segment(&prompt.update)))
}

fn notice_path(update: &UpdateId) -> Result<OwnedObjectPath, OtaError> {
    path(format!("{}/notices/{}", object_path("Hmi"), segment(update)))
}

fn segment(update: &UpdateId) -> String {
    update.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn path(text: String) -> Result<OwnedObjectPath, OtaError> {
    OwnedObjectPath::try_from(text).map_err(|cause| OtaError::Internal(cause.to_string()))
}

fn error(cause: DeskError) -> OtaError {
    let text = cause.to_string();
    match cause {
        DeskError::UnknownUpdate(_) => OtaError::UnknownUpdate(text),
        DeskError::NotOpen(_) | DeskError::Declined(_) => OtaError::WrongPhase(text),
        DeskError::AlreadyAnswered { .. } => OtaError::AlreadyAnswered(text),
        DeskError::TextChanged(_) => OtaError::TextChanged(text),
        DeskError::Facts(_) | DeskError::NoticeText | DeskError::Time { .. } => OtaError::InvalidArgument(text),
        DeskError::TimeUnknown => OtaError::TimeUnknown(text),
        DeskError::Full => OtaError::OutOfSpace(text),
        DeskError::Store(source) => OtaError::Storage(format!("{text}: {source}")),
    }
}

#[cfg(test)]
mod tests;
