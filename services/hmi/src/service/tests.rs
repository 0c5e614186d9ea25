use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pitstop_dbus::{Facts, HmiProxy, NoticeProxy, PromptProxy, PromptsProxy};
use pitstop_runtime::testing;
use pitstop_store::cut::Disk;

use super::*;

const NOW: i64 = 1_800_000_000;

fn clock() -> Option<UnixSeconds> {
    Some(NOW)
}

/// The service on one end of a bus, proxies on the other.
struct Bench {
    client: Connection,
    hmi: HmiProxy<'static>,
    prompts: PromptsProxy<'static>,
}

impl Bench {
    async fn start(disk: &Disk) -> Self {
        let (server, client) = testing::pair().await;
        let desk = Desk::load(Arc::new(disk.storage()), Duration::from_secs(3600)).unwrap();
        let service = Service::serve(&server, desk, clock).await.unwrap();
        tokio::spawn(service.run());
        let (hmi, prompts) = (HmiProxy::new(&client).await.unwrap(), PromptsProxy::new(&client).await.unwrap());
        Self { client, hmi, prompts }
    }

    async fn prompt(&self, path: &OwnedObjectPath) -> PromptProxy<'static> {
        PromptProxy::builder(&self.client)
            .path(path.clone())
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .unwrap()
    }
}

fn facts() -> Facts {
    Facts {
        purpose: "Safety".into(),
        changes: "Brakes".into(),
        expected_secs: 600,
        unavailable: "Driving".into(),
        instructions: "Park".into(),
    }
}

#[tokio::test]
async fn every_object_is_as_the_xml_says() {
    let bench = Bench::start(&Disk::new()).await;
    let prompt = bench.hmi.ask("u-1", &facts()).await.unwrap();
    let notice = bench.hmi.notify("u-1", "all-new", "Done").await.unwrap();
    for (interface, path) in [
        ("Hmi", "/io/pitstop/Ota1/Hmi"),
        ("Prompts", "/io/pitstop/Ota1/Hmi"),
        ("Prompt", prompt.as_str()),
        ("Notice", notice.as_str()),
    ] {
        let served = testing::introspect(&bench.client, path).await;
        let name = pitstop_dbus::interface_name(interface);
        assert_eq!(pitstop_dbus::contract::differences(&name, &served), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_prompt_is_asked_shown_answered_and_read() {
    let bench = Bench::start(&Disk::new()).await;
    let mut added = bench.prompts.receive_prompt_added().await.unwrap();
    let mut removed = bench.prompts.receive_prompt_removed().await.unwrap();
    let mut answered = bench.hmi.receive_answered().await.unwrap();
    let path = bench.hmi.ask("u-1", &facts()).await.unwrap();
    assert_eq!(added.next().await.unwrap().args().unwrap().prompt, path);
    assert_eq!(bench.hmi.ask("u-1", &facts()).await.unwrap(), path);
    assert_eq!(bench.prompts.list_prompts().await.unwrap(), std::slice::from_ref(&path));
    assert_eq!(bench.hmi.get_answer("u-1").await.unwrap().choice, "");

    let prompt = bench.prompt(&path).await;
    assert_eq!(prompt.purpose().await.unwrap(), "Safety");
    assert_eq!(prompt.state().await.unwrap(), "open");
    let digest = prompt.text_digest().await.unwrap();
    prompt.answer("at", NOW + 60, "hmi", &digest).await.unwrap();
    assert_eq!(prompt.state().await.unwrap(), "answered");
    assert_eq!(removed.next().await.unwrap().args().unwrap().prompt, path);
    let signal = answered.next().await.unwrap();
    assert_eq!((signal.args().unwrap().update.as_str(), signal.args().unwrap().choice.as_str()), ("u-1", "at"));
    let answer = bench.hmi.get_answer("u-1").await.unwrap();
    assert_eq!(
        (answer.choice.as_str(), answer.at, answer.origin.as_str(), answer.answered_at),
        ("at", NOW + 60, "hmi", NOW)
    );
    assert_eq!(answer.text_digest, digest);
    assert!(bench.prompts.list_prompts().await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_clients_that_race_one_answer_counts() {
    let bench = Bench::start(&Disk::new()).await;
    let path = bench.hmi.ask("u-1", &facts()).await.unwrap();
    let (first, second) = (bench.prompt(&path).await, bench.prompt(&path).await);
    let digest = first.text_digest().await.unwrap();
    let (one, two) =
        tokio::join!(first.answer("now", 0, "hmi", &digest), second.answer("no", 0, "command-line", &digest));
    let lost = [one, two].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(&lost[..], [OtaError::AlreadyAnswered(_)]), "{lost:?}");
}

#[tokio::test]
async fn prompts_answers_and_notices_are_there_after_a_restart() {
    let disk = Disk::new();
    let bench = Bench::start(&disk).await;
    let open = bench.hmi.ask("u-1", &facts()).await.unwrap();
    let done = bench.hmi.ask("u-2", &facts()).await.unwrap();
    let digest = bench.prompt(&done).await.text_digest().await.unwrap();
    bench.prompt(&done).await.answer("later", 0, "command-line", &digest).await.unwrap();
    let told = bench.hmi.notify("u-2", "all-old", "Nothing changed").await.unwrap();

    let again = Bench::start(&disk).await;
    assert_eq!(again.prompts.list_prompts().await.unwrap(), [open]);
    assert_eq!(again.hmi.get_answer("u-2").await.unwrap().choice, "later");
    assert_eq!(again.prompt(&done).await.state().await.unwrap(), "answered");
    again.hmi.ask_again("u-2").await.unwrap();
    assert_eq!(again.prompt(&done).await.state().await.unwrap(), "open");
    assert_eq!(again.prompts.list_notices().await.unwrap(), std::slice::from_ref(&told));
    let notice = NoticeProxy::builder(&again.client).path(told.clone()).build().await.unwrap();
    assert_eq!(notice.text().await.unwrap(), "Nothing changed");
    let mut removed = again.prompts.receive_notice_removed().await.unwrap();
    notice.acknowledge().await.unwrap();
    assert_eq!(removed.next().await.unwrap().args().unwrap().notice, told);
    assert!(again.prompts.list_notices().await.unwrap().is_empty());
    assert_eq!(again.hmi.notify("u-2", "all-old", "Nothing changed").await.unwrap(), told);
    assert!(Bench::start(&disk).await.prompts.list_notices().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_notice_with_a_new_text_is_shown_in_place_of_the_old() {
    let bench = Bench::start(&Disk::new()).await;
    let path = bench.hmi.notify("u-1", "all-old", "One").await.unwrap();
    assert_eq!(bench.hmi.notify("u-1", "needs-workshop", "Two").await.unwrap(), path);
    let notice = NoticeProxy::builder(&bench.client).path(path.clone()).build().await.unwrap();
    assert_eq!(
        (notice.end().await.unwrap().as_str(), notice.text().await.unwrap().as_str()),
        ("needs-workshop", "Two")
    );
    assert_eq!(bench.prompts.list_notices().await.unwrap(), [path]);
}

#[tokio::test]
async fn wrong_arguments_are_named_errors_and_the_service_goes_on() {
    let bench = Bench::start(&Disk::new()).await;
    let path = bench.hmi.ask("u-1", &facts()).await.unwrap();
    let prompt = bench.prompt(&path).await;
    let digest = prompt.text_digest().await.unwrap();
    let refused = |result: Result<(), OtaError>| result.unwrap_err().short_name();
    assert_eq!(refused(prompt.answer("perhaps", 0, "hmi", &digest).await), "InvalidArgument");
    assert_eq!(refused(prompt.answer("now", 5, "hmi", &digest).await), "InvalidArgument");
    assert_eq!(refused(prompt.answer("now", 0, "backend", &digest).await), "InvalidArgument");
    assert_eq!(refused(prompt.answer("now", 0, "hmi", "zz").await), "InvalidArgument");
    assert_eq!(refused(prompt.answer("at", NOW + 3601, "hmi", &digest).await), "InvalidArgument");
    assert_eq!(refused(prompt.answer("now", 0, "hmi", &Digest::of(b"").to_string()).await), "TextChanged");
    assert_eq!(bench.hmi.ask("../u", &facts()).await.unwrap_err().short_name(), "InvalidArgument");
    assert_eq!(bench.hmi.ask("u-2", &Facts::default()).await.unwrap_err().short_name(), "InvalidArgument");
    assert_eq!(bench.hmi.get_answer("u-9").await.unwrap_err().short_name(), "UnknownUpdate");
    assert_eq!(bench.hmi.notify("u-1", "great", "x").await.unwrap_err().short_name(), "InvalidArgument");
    bench.hmi.withdraw("u-1").await.unwrap();
    assert_eq!(refused(prompt.answer("now", 0, "hmi", &digest).await), "WrongPhase");
}

#[tokio::test]
async fn when_the_answer_cannot_be_stored_nobody_hears_of_it() {
    let disk = Disk::new();
    let bench = Bench::start(&disk).await;
    let path = bench.hmi.ask("u-1", &facts()).await.unwrap();
    let prompt = bench.prompt(&path).await;
    let digest = prompt.text_digest().await.unwrap();
    disk.power_off();
    assert_eq!(prompt.answer("now", 0, "hmi", &digest).await.unwrap_err().short_name(), "Storage");
    assert_eq!(bench.hmi.get_answer("u-1").await.unwrap().choice, "");
    disk.power_on();
    prompt.answer("now", 0, "hmi", &digest).await.unwrap();
}
