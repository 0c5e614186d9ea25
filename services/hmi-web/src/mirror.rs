//! What a screen does on the bus: subscribe, list, show; and again whenever something changes.

use futures_util::stream::{Stream, StreamExt as _, select_all};
use pitstop_dbus::{NoticeProxy, OtaError, PromptProxy, PromptsProxy};
use serde::Serialize;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

use crate::failure::Failure;

/// After the HMI service went away it is looked for again at this period, in case nobody tells that it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What is on the screen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// Whether the HMI service answers. If not, the lists are empty, because old questions must not be answered.
    pub connected: bool,
    /// Why it does not: it is away, or the bus does not let this user ask it.
    pub failure: Option<Failure>,
    pub prompts: Vec<Prompt>,
    pub notices: Vec<Notice>,
}

/// An open prompt with the five facts that a driver is told (UN R156 7.2.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prompt {
    /// Path of its object, for the answer.
    pub path: String,
    pub update: String,
    pub purpose: String,
    pub changes: String,
    pub expected_secs: u32,
    pub unavailable: String,
    pub instructions: String,
    /// Goes back with the answer, which counts for this text only.
    pub text_digest: String,
}

/// How an update ended; shown until acknowledged (UN R156 7.2.2.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub path: String,
    pub update: String,
    pub end: String,
    pub text: String,
}

/// Keeps a copy of what is to be shown.
pub async fn start(bus: &Connection) -> zbus::Result<watch::Receiver<Screen>> {
    let prompts = PromptsProxy::new(bus).await?;
    // First subscribe, then list: what happens in between is told.
    let mut changes = changes(&prompts).await?;
    let (sender, receiver) = watch::channel(Screen::default());
    let bus = bus.clone();
    tokio::spawn(async move {
        while !sender.is_closed() {
            let now = look(&bus, &prompts)
                .await
                .unwrap_or_else(|error| Screen { failure: Some(Failure::from(&error)), ..Screen::default() });
            if sender.borrow().failure != now.failure {
                log_change(now.failure.as_ref());
            }
            let connected = now.connected;
            sender.send_if_modified(|old| std::mem::replace(old, now.clone()) != now);
            tokio::select! {
                Some(()) = changes.next() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if !connected => {}
                () = sender.closed() => {}
            }
        }
    });
    Ok(receiver)
}

/// One line on standard error when something begins to fail, fails otherwise, or works again: it is looked at every two seconds.
fn log_change(failure: Option<&Failure>) {
    match failure {
        Some(Failure { name, text, advice }) => eprintln!("pitstop-hmi-web: {text} ({name}). What to do: {advice}."),
        None => eprintln!("pitstop-hmi-web: the HMI service answers"),
    }
}

/// One item for everything that may change the screen.
async fn changes(prompts: &PromptsProxy<'static>) -> zbus::Result<impl Stream<Item = ()> + use<>> {
    let mut all: Vec<Pin<Box<dyn Stream<Item = ()> + Send>>> = vec![
        Box::pin(prompts.receive_prompt_added().await?.map(|_| ())),
        Box::pin(prompts.receive_prompt_removed().await?.map(|_| ())),
        Box::pin(prompts.receive_notice_added().await?.map(|_| ())),
        Box::pin(prompts.receive_notice_removed().await?.map(|_| ())),
    ];
    // The service went or came. Without a bus daemon between (tests) nobody tells.
    if let Ok(owner) = prompts.inner().receive_owner_changed().await {
        all.push(Box::pin(owner.map(|_| ())));
    }
    Ok(select_all(all))
}

async fn look(bus: &Connection, prompts: &PromptsProxy<'_>) -> Result<Screen, OtaError> {
    let mut screen = Screen { connected: true, ..Screen::default() };
    for path in prompts.list_prompts().await? {
        // One that is answered or forgotten meanwhile is left out; a signal follows.
        screen.prompts.extend(read_prompt(bus, path).await.ok());
    }
    for path in prompts.list_notices().await? {
        screen.notices.extend(read_notice(bus, path).await.ok());
    }
    Ok(screen)
}

async fn read_prompt(bus: &Connection, path: OwnedObjectPath) -> zbus::Result<Prompt> {
    let prompt = PromptProxy::builder(bus).path(path.clone()).build().await?;
    Ok(Prompt {
        path: path.to_string(),
        update: prompt.update().await?,
        purpose: prompt.purpose().await?,
        changes: prompt.changes().await?,
        expected_secs: prompt.expected_seconds().await?,
        unavailable: prompt.unavailable().await?,
        instructions: prompt.instructions().await?,
        text_digest: prompt.text_digest().await?,
    })
}

async fn read_notice(bus: &Connection, path: OwnedObjectPath) -> zbus::Result<Notice> {
    // Its text may be replaced, so it is read anew each time.
    let notice = NoticeProxy::builder(bus).path(path.clone()).cache_properties(CacheProperties::No).build().await?;
    Ok(Notice {
        path: path.to_string(),
        update: notice.update().await?,
        end: notice.end().await?,
        text: notice.text().await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The HMI service as the bus shows it to a user who is not in the group of screens.
    struct OutOfReach;

    #[zbus::interface(name = "io.pitstop.Ota1.Prompts")]
    impl OutOfReach {
        fn list_prompts(&self) -> zbus::fdo::Result<Vec<OwnedObjectPath>> {
            Err(zbus::fdo::Error::AccessDenied("a rule of the bus".to_owned()))
        }
    }

    #[tokio::test]
    async fn a_refusal_by_the_bus_is_shown_with_its_advice() {
        let (server, client) = pitstop_runtime::testing::pair().await;
        server.object_server().at(pitstop_dbus::object_path("Hmi"), OutOfReach).await.unwrap();
        let mut screen = start(&client).await.unwrap();
        let shown = screen.wait_for(|screen| screen.failure.is_some()).await.unwrap().clone();
        assert!(!shown.connected);
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["failure"]["name"], "AccessDenied");
        assert!(json["failure"]["text"].as_str().unwrap().contains("a rule of the bus"), "{json}");
        assert!(json["failure"]["advice"].as_str().unwrap().contains("pitstop-hmi-client"), "{json}");
    }
}
