//! Fetching from a server that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use axum::http::StatusCode;
use common::*;
use pitstop_dbus::OtaError;
use pitstop_dbus::contract::differences;
use pitstop_types::Digest;

const MIB: usize = 1 << 20;
/// The acceptance: at most a megabyte more than the file crosses the network.
const MARGIN: u64 = MIB as u64;

fn as_is(text: String) -> String {
    text
}

#[tokio::test]
async fn the_object_is_the_contracts() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let served = pitstop_runtime::testing::introspect(&service.client, "/io/pitstop/Ota1/Downloader").await;
    assert_eq!(differences("io.pitstop.Ota1.Downloader", &served), Vec::<String>::new());
}

#[tokio::test]
async fn a_bundle_is_fetched_opened_read_only_and_released() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(3 * MIB + 17);
    let digest = server.offer(&content);
    assert!(matches!(service.read(&digest).await, Err(OtaError::NotFound(_))));
    assert_eq!(service.fetch("u-1", &digest, content.len()).await.unwrap(), content.len() as u64);
    assert_eq!(service.read(&digest).await.unwrap(), content);
    let fd = service.proxy().await.open(&digest.to_string()).await.unwrap();
    assert!(std::fs::File::from(OwnedFd::from(fd)).write_all(b"x").is_err(), "the descriptor is read-only");
    // A second update wants it too: nothing crosses the network, and the first one's release leaves it.
    service.fetch("u-2", &digest, content.len()).await.unwrap();
    assert_eq!(server.with(|s| s.sent), content.len() as u64);
    service.proxy().await.release("u-1").await.unwrap();
    assert_eq!(service.read(&digest).await.unwrap().len(), content.len());
    let usage = service.usage().await;
    assert_eq!((usage.cached, usage.fetched), (content.len() as u64, content.len() as u64));
    service.proxy().await.release("u-2").await.unwrap();
    assert!(matches!(service.read(&digest).await, Err(OtaError::NotFound(_))));
    let usage = service.usage().await;
    assert_eq!((usage.cached, usage.fetched), (0, content.len() as u64));
    assert_eq!(std::fs::read_dir(root.path().join("cache")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_and_comes_back_costs_no_byte_twice() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(4 * MIB);
    let digest = server.offer(&content);
    server.with(|s| s.mood.pause = Duration::from_millis(3));
    let fetch = service.fetch("u-1", &digest, content.len());
    let trouble = async {
        service.until(|u| u.cached > MIB as u64).await;
        server.die();
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.listen();
    };
    let (fetched, ()) = tokio::join!(fetch, trouble);
    assert!(fetched.unwrap() <= content.len() as u64 + MARGIN);
    assert_eq!(service.read(&digest).await.unwrap(), content);
}

#[tokio::test]
async fn connections_that_break_again_and_again_still_end_in_the_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(MIB + 5);
    let digest = server.offer(&content);
    // The pause lets the server's own buffer reach the network before the connection breaks.
    server.with(|s| (s.mood.break_after, s.mood.pause) = (Some(100_000), Duration::from_millis(1)));
    assert!(service.fetch("u-1", &digest, content.len()).await.unwrap() <= content.len() as u64 + MARGIN);
    assert!(server.with(|s| s.requests) >= 10);
    assert_eq!(service.read(&digest).await.unwrap(), content);
}

#[test]
fn a_power_cut_costs_at_most_what_was_not_durable_yet() {
    let root = tempfile::tempdir().unwrap();
    // The server lives on while the service's lives end: each of them has an event loop of its own, which is thrown away.
    let world = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = world.block_on(Server::start());
    let content = noise(5 * MIB);
    let digest = server.offer(&content);
    server.with(|s| s.mood.pause = Duration::from_millis(3));
    let life = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 1..=2 {
        let runtime = life();
        runtime.block_on(async {
            let service = Running::start(root.path(), &server, as_is).await;
            service.proxy().await.fetch("u-1", &digest.to_string(), content.len() as u64).await.unwrap();
            service.until(|u| u.cached > round * 2 * MIB as u64).await;
        });
        drop(runtime);
        // Behind what the record vouches for may be anything.
        let part = root.path().join(format!("cache/{digest}.part"));
        std::fs::OpenOptions::new().append(true).open(&part).unwrap().write_all(&noise(5000)).unwrap();
    }
    life().block_on(async {
        let service = Running::start(root.path(), &server, as_is).await;
        let fetched = service.fetch("u-1", &digest, content.len()).await.unwrap();
        assert_eq!(service.read(&digest).await.unwrap(), content);
        let sent = server.with(|s| s.sent);
        assert!(fetched <= sent && sent <= content.len() as u64 + 2 * MARGIN, "{fetched} of {sent} sent");
    });
}

#[test]
fn a_cut_at_any_write_of_the_records_ends_whole_and_leaves_nothing_behind() {
    use pitstop_store::cut::{Cut, Disk};
    let world = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = world.block_on(Server::start());
    let content = noise(1_500_000);
    let digest = server.offer(&content);
    // What the server has handed to its sockets counts as sent; the pause keeps that near to what was taken.
    server.with(|s| s.mood.pause = Duration::from_millis(2));
    let small = |text: String| text.replace("flush_bytes = 1048576", "flush_bytes = 65536");
    let mut at = 0;
    loop {
        let mut cut_happened = false;
        for cut in [Cut::Before(at), Cut::After(at)] {
            let (root, disk) = (tempfile::tempdir().unwrap(), Disk::new());
            let life = |cut: Option<Cut>| {
                disk.power_on();
                disk.plan(cut);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let storage = std::sync::Arc::new(disk.storage());
                    let service = Running::start_on(root.path(), storage, &server, small).await;
                    let fetched = service.fetch("u-1", &digest, content.len()).await;
                    let read = service.read(&digest).await;
                    let released = if fetched.is_ok() { service.proxy().await.release("u-1").await } else { Ok(()) };
                    (fetched, read, released)
                })
            };
            let before = server.with(|s| s.sent);
            let first = life(Some(cut));
            cut_happened |= disk.is_off();
            let (fetched, read, released) = life(None);
            fetched.unwrap();
            assert_eq!(read.unwrap(), content, "{cut:?}");
            released.unwrap();
            let sent = server.with(|s| s.sent) - before;
            // A cut in the release's own writes comes after the file was whole and gone, so it is fetched once more.
            let lives = if first.0.is_ok() { 2 } else { 1 };
            // Beside what may be lost by the setting: what lay in the sockets' buffers when the power went.
            assert!(sent <= lives * content.len() as u64 + 2 * 65_536 + 500_000, "{cut:?}: {sent}");
            assert_eq!(std::fs::read_dir(root.path().join("cache")).unwrap().count(), 0, "{cut:?}");
            let left: Vec<String> = disk.files().into_keys().filter(|n| n != "fetched").collect();
            assert_eq!(left, Vec::<String>::new(), "{cut:?}");
        }
        if !cut_happened {
            break;
        }
        at += 1;
    }
    assert!(at >= 6, "only {at} writes were cut");
}

#[tokio::test]
async fn a_refused_link_is_made_anew_and_three_in_a_row_are_believed() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(1000);
    let digest = server.offer(&content);
    server.with(|s| s.mood.refuse = Some((StatusCode::FORBIDDEN, 2)));
    service.fetch("u-1", &digest, content.len()).await.unwrap();
    assert_eq!(server.with(|s| s.links), 3);
    let digest = server.offer(&noise(1001));
    server.with(|s| s.mood.refuse = Some((StatusCode::FORBIDDEN, 100)));
    assert!(matches!(service.fetch("u-1", &digest, 1001).await, Err(OtaError::Network(text)) if text.contains("403")));
}

#[tokio::test]
async fn a_backend_that_gives_no_link_is_believed_the_third_time() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(1000);
    let digest = server.offer(&content);
    server.with(|s| s.mood.withhold = 2);
    service.fetch("u-1", &digest, content.len()).await.unwrap();
    let digest = server.offer(&noise(1001));
    server.with(|s| s.mood.withhold = 3);
    assert!(matches!(service.fetch("u-1", &digest, 1001).await, Err(OtaError::BackendRefused(_))));
}

#[tokio::test]
async fn wrong_content_and_wrong_lengths_have_names_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(300_000);
    let digest = Digest::of(b"something else");
    server.with(|s| s.files.insert(digest.to_string(), content.clone()));
    let fetch = async |length: usize| service.fetch("u-1", &digest, length).await;
    assert!(matches!(fetch(300_000).await, Err(OtaError::HashMismatch(_))));
    assert!(matches!(service.read(&digest).await, Err(OtaError::NotFound(_))));
    service.proxy().await.release("u-1").await.unwrap();
    // The server's file is longer, then shorter than decided; then it sends more than it says.
    assert!(matches!(fetch(299_999).await, Err(OtaError::TooLarge(_))));
    service.proxy().await.release("u-1").await.unwrap();
    assert!(matches!(fetch(300_001).await, Err(OtaError::HashMismatch(_))));
    service.proxy().await.release("u-1").await.unwrap();
    server.with(|s| (s.mood.extra, s.mood.no_ranges) = (100_000, true));
    assert!(matches!(fetch(300_000).await, Err(OtaError::TooLarge(_))));
    service.proxy().await.release("u-1").await.unwrap();
    server.with(|s| s.mood = Mood { claimed_total: Some(10_000_000_000), ..Mood::default() });
    assert!(matches!(fetch(300_000).await, Err(OtaError::TooLarge(_))));
    service.proxy().await.release("u-1").await.unwrap();
    let nowhere = Digest::of(b"nowhere");
    assert!(matches!(service.fetch("u-1", &nowhere, 10).await, Err(OtaError::NotFound(_))));
}

#[tokio::test]
async fn a_server_without_ranges_and_one_that_changed_its_file_start_anew() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(400_000);
    let digest = server.offer(&content);
    server.with(|s| (s.mood.break_after, s.mood.pause) = (Some(150_000), Duration::from_millis(1)));
    let fetch = service.fetch("u-1", &digest, content.len());
    let change = async {
        service.until(|u| u.cached > 100_000).await;
        // Another entity tag: the bytes so far may be of another file.
        server.with(|s| (s.etag, s.mood) = ("\"two\"".into(), Mood::default()));
    };
    let (fetched, ()) = tokio::join!(fetch, change);
    assert!(fetched.unwrap() > content.len() as u64);
    assert_eq!(service.read(&digest).await.unwrap(), content);
    let digest = server.offer(&content[1..]);
    server.with(|s| s.mood.no_ranges = true);
    service.fetch("u-1", &digest, content.len() - 1).await.unwrap();
}

#[tokio::test]
async fn a_trickle_and_a_silence_end_as_slow() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let quick = |text: String| {
        text.replace("stall_window_secs = 30", "stall_window_secs = 1")
            .replace("give_up_secs = 900", "give_up_secs = 1")
    };
    let service = Running::start(root.path(), &server, |t| {
        quick(t).replace("stall_min_bytes = 30000", "stall_min_bytes = 1000000")
    })
    .await;
    let digest = server.offer(&noise(300_000));
    server.with(|s| s.mood.silent = true);
    assert!(matches!(service.fetch("u-1", &digest, 300_000).await, Err(OtaError::Slow(_))));
    // 16 KiB each 300 ms is below a megabyte per second, but it is progress: each connection is given up, and the file gets whole.
    server.with(|s| s.mood = Mood { pause: Duration::from_millis(100), ..Mood::default() });
    let before = server.with(|s| s.requests);
    service.fetch("u-1", &digest, 300_000).await.unwrap();
    assert!(server.with(|s| s.requests) > before + 1);
}

#[tokio::test]
async fn a_byte_with_each_connection_keeps_no_fetch_alive_and_makes_no_storm() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, |t| t.replace("give_up_secs = 900", "give_up_secs = 3")).await;
    let digest = server.offer(&noise(300_000));
    // The pause lets the first byte reach the network before the connection breaks.
    server.with(|s| {
        s.mood.piece = Some(1);
        (s.mood.break_after, s.mood.pause) = (Some(2), Duration::from_millis(5));
    });
    let ended = service.fetch("u-1", &digest, 300_000).await;
    assert!(matches!(&ended, Err(OtaError::Slow(text)) if text.contains("2400 bytes")), "{ended:?}");
    let requests = server.with(|s| s.requests);
    assert!((2..40).contains(&requests), "{requests} connections in three seconds");
}

#[tokio::test]
async fn a_slow_and_steady_line_that_breaks_now_and_then_gets_there() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let steady = |text: String| {
        text.replace("stall_window_secs = 30", "stall_window_secs = 1")
            .replace("stall_min_bytes = 30000", "stall_min_bytes = 1000")
            .replace("give_up_secs = 900", "give_up_secs = 1")
    };
    let service = Running::start(root.path(), &server, steady).await;
    let content = noise(24 * 1024);
    let digest = server.offer(&content);
    // 8 KiB in a second.
    server.with(|s| {
        s.mood.piece = Some(1024);
        (s.mood.break_after, s.mood.pause) = (Some(6 * 1024), Duration::from_millis(125));
    });
    service.fetch("u-1", &digest, content.len()).await.unwrap();
    assert_eq!(service.read(&digest).await.unwrap(), content);
    assert!(server.with(|s| s.requests) >= 4);
}

#[tokio::test]
async fn the_budget_and_bad_arguments_are_refused_by_the_call() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service =
        Running::start(root.path(), &server, |t| t.replace("budget_bytes = 4294967296", "budget_bytes = 1048576"))
            .await;
    let proxy = service.proxy().await;
    let digest = "ab".repeat(32);
    assert!(matches!(proxy.fetch("u-1", &digest, 1_048_577).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch("u-1", &digest, 10_000_000_000).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch("u-1", &digest, u64::MAX).await, Err(OtaError::TooLarge(_))));
    assert!(matches!(proxy.fetch("u-1", &digest, 0).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.fetch("u-1", "zz", 10).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.fetch("../u", &digest, 10).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.open("../../etc/passwd").await, Err(OtaError::InvalidArgument(_))));
    proxy.fetch("u-1", &digest, 1_000_000).await.unwrap();
    assert!(matches!(proxy.fetch("u-1", &digest, 999).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.fetch("u-1", &"cd".repeat(32), 100_000).await, Err(OtaError::TooLarge(_))));
    proxy.release("u-1").await.unwrap();
    proxy.fetch("u-1", &"cd".repeat(32), 100_000).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_fetch_goes_on_later_and_a_released_one_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let service = Running::start(root.path(), &server, as_is).await;
    let content = noise(3 * MIB);
    let digest = server.offer(&content);
    server.with(|s| s.mood.pause = Duration::from_millis(5));
    let proxy = service.proxy().await;
    let begin = async || {
        let path = proxy.fetch("u-1", &digest.to_string(), content.len() as u64).await.unwrap();
        service.until(|u| u.cached > 200_000).await;
        path
    };
    let path = begin().await;
    let operation = pitstop_dbus::OperationProxy::builder(&service.client)
        .destination("io.pitstop.Ota1.Downloader")
        .path(path.clone())
        .build()
        .await
        .unwrap();
    operation.cancel().await.unwrap();
    let ended = pitstop_runtime::operation::wait(&service.client, "Downloader", &path, |_| {}).await;
    assert!(matches!(ended, Err(OtaError::Cancelled(_))));
    let before = service.usage().await.fetched;
    begin().await;
    assert!(service.usage().await.fetched < before + MARGIN);
    // Released in the middle: gone from disk when the call returns.
    proxy.release("u-1").await.unwrap();
    assert_eq!(std::fs::read_dir(root.path().join("cache")).unwrap().count(), 0);
    assert_eq!(service.usage().await.cached, 0);
    server.with(|s| s.mood = Mood::default());
    service.fetch("u-1", &digest, content.len()).await.unwrap();
    assert_eq!(service.read(&digest).await.unwrap(), content);
}
