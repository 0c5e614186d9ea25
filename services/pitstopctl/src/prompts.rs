//! Prompts and notices: finding them, answering them.

use pitstop_dbus::{NoticeProxy, PromptProxy, PromptsProxy};
use zbus::{Connection, OwnedObjectPath};

use crate::error::CtlError;
use crate::view;

const SERVICE: &str = "Hmi";
/// An answer's origin, as the consent log names it.
const ORIGIN: &str = "command-line";

/// The open prompts.
pub async fn open(bus: &Connection) -> Result<Vec<view::Prompt>, CtlError> {
    Ok(find_prompts(bus).await?.into_iter().map(|(_, prompt)| prompt).collect())
}

/// How many prompts are open.
pub async fn count(bus: &Connection) -> Result<usize, CtlError> {
    Ok(prompts(bus).await?.list_prompts().await.map_err(CtlError::of_call(SERVICE))?.len())
}

async fn find_prompts(bus: &Connection) -> Result<Vec<(PromptProxy<'static>, view::Prompt)>, CtlError> {
    let list = prompts(bus).await?.list_prompts().await.map_err(CtlError::of_call(SERVICE))?;
    let mut found = Vec::new();
    for path in list {
        let proxy = PromptProxy::builder(bus).path(path).build().await.map_err(CtlError::of_read(SERVICE))?;
        let prompt = read_prompt(&proxy).await.map_err(CtlError::of_read(SERVICE))?;
        found.push((proxy, prompt));
    }
    Ok(found)
}

async fn read_prompt(proxy: &PromptProxy<'_>) -> zbus::Result<view::Prompt> {
    Ok(view::Prompt {
        update: proxy.update().await?,
        purpose: proxy.purpose().await?,
        changes: proxy.changes().await?,
        expected_secs: proxy.expected_seconds().await?,
        unavailable: proxy.unavailable().await?,
        instructions: proxy.instructions().await?,
        text_digest: proxy.text_digest().await?,
    })
}

/// Answers the open prompt of `update`, or the only one. `at` is 0 for every choice but "at". Returns the update.
pub async fn answer(bus: &Connection, update: Option<&str>, choice: &str, at: i64) -> Result<String, CtlError> {
    let found = find_prompts(bus).await?;
    let updates = found.iter().map(|(_, prompt)| prompt.update.clone()).collect();
    let chosen = choose(update, updates, "No prompt is open")?;
    let Some((proxy, prompt)) = found.into_iter().find(|(_, prompt)| prompt.update == chosen) else {
        return Err(CtlError::Nothing(format!("No prompt of update {chosen} is open.")));
    };
    proxy.answer(choice, at, ORIGIN, &prompt.text_digest).await.map_err(CtlError::of_call(SERVICE))?;
    Ok(chosen)
}

/// Notices that nobody acknowledged.
pub async fn notices(bus: &Connection) -> Result<Vec<view::Notice>, CtlError> {
    Ok(find_notices(bus).await?.into_iter().map(|(_, notice)| notice).collect())
}

async fn find_notices(bus: &Connection) -> Result<Vec<(NoticeProxy<'static>, view::Notice)>, CtlError> {
    let list: Vec<OwnedObjectPath> = prompts(bus).await?.list_notices().await.map_err(CtlError::of_call(SERVICE))?;
    let mut found = Vec::new();
    for path in list {
        let proxy = NoticeProxy::builder(bus).path(path).build().await.map_err(CtlError::of_read(SERVICE))?;
        let read = async {
            Ok(view::Notice { update: proxy.update().await?, end: proxy.end().await?, text: proxy.text().await? })
        };
        let notice = read.await.map_err(CtlError::of_read(SERVICE))?;
        found.push((proxy, notice));
    }
    Ok(found)
}

/// Acknowledges the notice of `update`, or the only one. Returns the update.
pub async fn acknowledge(bus: &Connection, update: Option<&str>) -> Result<String, CtlError> {
    let found = find_notices(bus).await?;
    let updates = found.iter().map(|(_, notice)| notice.update.clone()).collect();
    let chosen = choose(update, updates, "No notice waits")?;
    let Some((proxy, _)) = found.into_iter().find(|(_, notice)| notice.update == chosen) else {
        return Err(CtlError::Nothing(format!("No notice of update {chosen} waits.")));
    };
    proxy.acknowledge().await.map_err(CtlError::of_call(SERVICE))?;
    Ok(chosen)
}

/// The update that is meant: the one named, or the only one there is.
fn choose(named: Option<&str>, mut there: Vec<String>, none: &str) -> Result<String, CtlError> {
    match (named, there.len()) {
        (Some(named), _) if there.iter().any(|update| update == named) => Ok(named.to_owned()),
        (Some(named), _) => Err(CtlError::Nothing(format!("{none} for update {named}."))),
        (None, 0) => Err(CtlError::Nothing(format!("{none}."))),
        (None, 1) => Ok(there.remove(0)),
        (None, _) => Err(CtlError::Several(there)),
    }
}

async fn prompts(bus: &Connection) -> Result<PromptsProxy<'static>, CtlError> {
    PromptsProxy::new(bus).await.map_err(CtlError::of_read(SERVICE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pitstop_dbus::{Facts, HmiProxy};
    use pitstop_hmi::{Desk, Service};
    use pitstop_store::cut::Disk;

    use super::*;

    /// The real HMI service on the other end of a socket.
    async fn hmi() -> (Connection, HmiProxy<'static>) {
        let (server, client) = pitstop_runtime::testing::pair().await;
        let desk = Desk::load(Arc::new(Disk::new().storage()), Duration::from_secs(3600)).unwrap();
        let service = Service::serve(&server, desk, || Some(1_800_000_000)).await.unwrap();
        tokio::spawn(service.run());
        let hmi = HmiProxy::new(&client).await.unwrap();
        (client, hmi)
    }

    fn facts() -> Facts {
        Facts {
            purpose: "Safety".into(),
            changes: "Brakes".into(),
            expected_secs: 60,
            unavailable: "Driving".into(),
            instructions: "Park".into(),
        }
    }

    #[tokio::test]
    async fn the_only_open_prompt_is_answered_without_naming_it() {
        let (bus, hmi) = hmi().await;
        let nothing = answer(&bus, None, "now", 0).await.unwrap_err();
        assert_eq!((nothing.exit_code(), nothing.to_string().as_str()), (4, "No prompt is open."));
        hmi.ask("u-1", &facts()).await.unwrap();
        assert_eq!(open(&bus).await.unwrap()[0].instructions, "Park");
        assert_eq!(answer(&bus, None, "at", 1_800_000_060).await.unwrap(), "u-1");
        let answer = hmi.get_answer("u-1").await.unwrap();
        assert_eq!((answer.choice.as_str(), answer.at, answer.origin.as_str()), ("at", 1_800_000_060, "command-line"));
        assert!(open(&bus).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn with_several_one_must_be_named() {
        let (bus, hmi) = hmi().await;
        hmi.ask("u-1", &facts()).await.unwrap();
        hmi.ask("u-2", &facts()).await.unwrap();
        assert!(matches!(answer(&bus, None, "no", 0).await, Err(CtlError::Several(all)) if all == ["u-1", "u-2"]));
        assert!(matches!(answer(&bus, Some("u-3"), "no", 0).await, Err(CtlError::Nothing(_))));
        answer(&bus, Some("u-2"), "no", 0).await.unwrap();
        assert_eq!(hmi.get_answer("u-2").await.unwrap().choice, "no");
        assert_eq!(hmi.get_answer("u-1").await.unwrap().choice, "");
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_name_and_advice() {
        let (bus, hmi) = hmi().await;
        hmi.ask("u-1", &facts()).await.unwrap();
        let error = answer(&bus, None, "at", 5).await.unwrap_err();
        assert!(matches!(&error, CtlError::Refused(inner) if inner.short_name() == "InvalidArgument"), "{error:?}");
        assert_eq!(error.exit_code(), 1);
    }

    #[tokio::test]
    async fn a_notice_is_shown_and_acknowledged() {
        let (bus, hmi) = hmi().await;
        hmi.notify("u-1", "all-new", "Done").await.unwrap();
        assert_eq!(notices(&bus).await.unwrap()[0].text, "Done");
        assert_eq!(acknowledge(&bus, None).await.unwrap(), "u-1");
        assert!(matches!(acknowledge(&bus, Some("u-1")).await, Err(CtlError::Nothing(_))));
    }
}
