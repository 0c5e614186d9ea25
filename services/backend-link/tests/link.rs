//! The service against a backend that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use common::*;
use futures_util::StreamExt as _;
use pitstop_dbus::OtaError;
use pitstop_dbus::contract::differences;
use serde_json::json;

#[tokio::test]
async fn the_object_is_the_contracts() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    let served = pitstop_runtime::testing::introspect(&link.client, "/io/pitstop/Ota1/BackendLink").await;
    assert_eq!(differences("io.pitstop.Ota1.BackendLink", &served), Vec::<String>::new());
}

#[tokio::test]
async fn before_provisioning_everything_has_a_name_and_reports_wait() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    let proxy = link.proxy().await;
    assert!(matches!(proxy.fetch_metadata("director", "timestamp.json", 100).await, Err(OtaError::NotProvisioned(_))));
    assert!(matches!(proxy.get_link(&"ab".repeat(32)).await, Err(OtaError::NotProvisioned(_))));
    assert!(matches!(proxy.send_manifest(b"m").await, Err(OtaError::NotProvisioned(_))));
    assert_eq!(proxy.report("{\"phase\":\"idle\"}").await.unwrap(), 1);
    assert!(matches!(proxy.report("nonsense").await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.report(&"x".repeat(200_000)).await, Err(OtaError::TooLarge(_))));
    let status = proxy.get_status().await.unwrap();
    assert_eq!(
        (status.provisioned, status.outbox, status.last_contact, status.key_store.as_str()),
        (false, 1, 0, "none")
    );
    assert!(
        matches!(link.provision("wrong").await, Err(OtaError::BackendRefused(text)) if text.contains("claim-refused"))
    );
    assert!(matches!(link.provision("bad token").await, Err(OtaError::InvalidArgument(_))));
    // Provisioning sends what waited.
    assert_eq!(link.provision("good-token").await.unwrap(), DEVICE);
    let status = link.until(|s| s.outbox == 0).await;
    assert!(status.provisioned && status.device == DEVICE && status.key_store == "file" && status.last_contact > 0);
    assert_eq!(backend.with(|b| b.reports.clone()), [json!({ "phase": "idle", "seq": 1 })]);
}

#[tokio::test]
async fn provisioning_whose_answer_is_lost_is_tried_again_with_the_same_token_and_key() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    backend.with(|b| b.lost_answers = 2);
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    assert!(matches!(link.provision("good-token").await, Err(OtaError::Network(_))));
    drop(link);
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    assert!(matches!(link.provision("good-token").await, Err(OtaError::Network(_))));
    assert_eq!(link.provision("good-token").await.unwrap(), DEVICE);
    let keys = backend.with(|b| b.keys.clone());
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "the key is kept between tries");
}

#[tokio::test]
async fn metadata_links_and_manifests_keep_their_limits_and_names() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    link.provision("good-token").await.unwrap();
    link.until(|s| s.provisioned).await;
    let proxy = link.proxy().await;
    assert_eq!(proxy.fetch_metadata("image", "timestamp.json", 100).await.unwrap(), b"image:timestamp.json");
    assert!(matches!(proxy.fetch_metadata("image", "timestamp.json", 3).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch_metadata("image", "long.json", 4999).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch_metadata("image", "endless.json", 1 << 20).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch_metadata("image", "none.json", 100).await, Err(OtaError::NotFound(_))));
    assert!(matches!(proxy.fetch_metadata("image", "broken.json", 100).await, Err(OtaError::Network(_))));
    assert!(matches!(proxy.fetch_metadata("image", "slow.json", 100).await, Err(OtaError::Slow(_))));
    assert!(matches!(proxy.fetch_metadata("image", "../../next", 100).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.fetch_metadata("other", "a.json", 100).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.fetch_metadata("image", "a.json", 0).await, Err(OtaError::InvalidArgument(_))));
    let (url, expires) = proxy.get_link(&"ab".repeat(32)).await.unwrap();
    assert!(url.ends_with(&"ab".repeat(32)) && expires == 4_000_000_000);
    assert!(matches!(proxy.get_link(&"00".repeat(32)).await, Err(OtaError::NotFound(_))));
    assert!(matches!(proxy.get_link("x").await, Err(OtaError::InvalidArgument(_))));
    proxy.send_manifest(b"manifest").await.unwrap();
    assert_eq!(backend.with(|b| b.manifests.clone()), [b"manifest"]);
    assert!(
        matches!(proxy.send_manifest(b"bad").await, Err(OtaError::BackendRefused(text)) if text.contains("unknown-ecu"))
    );
}

#[tokio::test]
async fn metadata_may_take_long_while_it_comes_and_a_trickle_or_a_silence_ends() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let settings = settings(root.path(), &backend, false);
    let silence = settings.request_timeout;
    let link = Link::start(root.path(), settings).await;
    link.provision("good-token").await.unwrap();
    link.until(|s| s.provisioned).await;
    let proxy = link.proxy().await;
    let timed = async |file: &str, limit: u64| {
        let start = std::time::Instant::now();
        (proxy.fetch_metadata("image", file, limit).await, start.elapsed())
    };
    let all = async {
        tokio::join!(timed("steady.json", 100_000), timed("trickle.json", 1000), timed("halted.json", 8 << 20))
    };
    let (steady, trickle, halted) = tokio::time::timeout(silence * 10, all).await.expect("a call never ended");
    assert_eq!(steady.0.unwrap().len(), 15 * 4096);
    assert!(steady.1 > silence, "the line was slow");
    assert!(matches!(trickle.0, Err(OtaError::Slow(_))));
    assert!(matches!(halted.0, Err(OtaError::Slow(_))));
    assert!(halted.1 < silence * 4, "silence ends it, not the time for eight megabytes: {:?}", halted.1);
}

#[tokio::test]
async fn reports_survive_a_failing_backend_and_a_restart_and_a_poisoned_one_does_not_block() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    link.provision("good-token").await.unwrap();
    link.until(|s| s.provisioned).await;
    backend.with(|b| b.status_fails = Some(503));
    let proxy = link.proxy().await;
    for phase in ["a", "poison", "b"] {
        proxy.report(&json!({ "phase": phase }).to_string()).await.unwrap();
    }
    until("two tries", || backend.with(|b| b.batches.len() >= 2)).await;
    assert_eq!(link.until(|s| s.outbox == 3).await.outbox, 3);
    drop(link);
    // Another life: the same key and record, no new token.
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    assert_eq!(link.until(|s| s.provisioned).await.outbox, 3);
    backend.with(|b| (b.poison, b.status_fails) = (Some("poison".into()), None));
    link.until(|s| s.outbox == 0).await;
    let phases: Vec<String> =
        backend.with(|b| b.reports.iter().map(|r| r["phase"].as_str().unwrap().to_owned()).collect());
    assert_eq!(phases, ["a", "b"]);
    assert_eq!(link.proxy().await.report("{}").await.unwrap(), 4);
}

#[tokio::test]
async fn a_backend_that_acknowledges_nothing_is_asked_with_growing_pauses() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    backend.with(|b| b.stuck_at = Some(0));
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    link.provision("good-token").await.unwrap();
    link.until(|s| s.provisioned).await;
    link.proxy().await.report("{}").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let tries = backend.with(|b| b.batches.len());
    assert!((2..30).contains(&tries), "{tries} tries in 1.5 s");
    backend.with(|b| b.stuck_at = None);
    link.until(|s| s.outbox == 0).await;
}

#[tokio::test]
async fn a_poll_that_finds_something_new_is_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    backend.with(|b| b.next = json!({ "rev": 7, "update": "u-1", "poll_secs": 60 }));
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    let mut hints = link.proxy().await.receive_hint().await.unwrap();
    link.provision("good-token").await.unwrap();
    let hint = tokio::time::timeout(std::time::Duration::from_secs(10), hints.next()).await.unwrap().unwrap();
    assert_eq!(hint.args().unwrap().kind, "offer");
}

#[tokio::test]
async fn without_a_broker_progress_takes_the_other_way() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, false)).await;
    link.provision("good-token").await.unwrap();
    link.until(|s| s.provisioned).await;
    let proxy = link.proxy().await;
    assert!(matches!(proxy.report_progress("u-1", "[]").await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.report_progress("u/1", "{}").await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.report_progress("u-1", &" ".repeat(5000)).await, Err(OtaError::TooLarge(_))));
    proxy.report_progress("u-1", "{\"percent\":5}").await.unwrap();
    until("progress", || backend.with(|b| b.progress == [("u-1".to_owned(), json!({ "percent": 5 }))])).await;
}

#[tokio::test]
async fn a_backend_of_another_authority_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let backend = Backend::start(1).await;
    let settings = settings(root.path(), &backend, false);
    std::fs::write(root.path().join("etc/pitstop/backend-ca.pem"), Pki::new().ca.pem()).unwrap();
    let link = Link::start(root.path(), settings).await;
    assert!(matches!(link.provision("good-token").await, Err(OtaError::Network(_))));
}
