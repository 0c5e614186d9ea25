use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::{Facts, HmiProxy};
use pitstop_hmi::{Desk, Service};
use pitstop_store::cut::Disk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::mirror;

/// The real HMI service behind the page.
struct Bench {
    hmi: HmiProxy<'static>,
    screen: watch::Receiver<Screen>,
    port: u16,
}

impl Bench {
    async fn start() -> Self {
        let (server, client) = pitstop_runtime::testing::pair().await;
        let desk = Desk::load(Arc::new(Disk::new().storage()), Duration::from_secs(3600)).unwrap();
        let service = Service::serve(&server, desk, || Some(1_800_000_000)).await.unwrap();
        tokio::spawn(service.run());
        let screen = mirror::start(&client).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = router(client.clone(), screen.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { hmi: HmiProxy::new(&client).await.unwrap(), screen, port }
    }

    async fn ask(&self) -> Screen {
        self.hmi.ask("u-1", &facts()).await.unwrap();
        self.shows(|screen| screen.prompts.len() == 1).await
    }

    async fn shows(&self, wanted: impl FnMut(&Screen) -> bool) -> Screen {
        self.screen.clone().wait_for(wanted).await.unwrap().clone()
    }

    /// Status and body of one request.
    async fn request(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let host = if head.contains("host:") { "" } else { "host: localhost:1\r\n" };
        let length = body.len();
        let text = format!("{head}\r\n{host}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> (u16, String) {
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json\r\nx-pitstop: 1");
        self.request(&head, &body.to_string()).await
    }
}

fn facts() -> Facts {
    Facts {
        purpose: "Safety <b>".into(),
        changes: "Brakes".into(),
        expected_secs: 60,
        unavailable: "Driving".into(),
        instructions: "Park".into(),
    }
}

fn answer_to(screen: &Screen, choice: &str) -> serde_json::Value {
    let prompt = &screen.prompts[0];
    serde_json::json!({"path": prompt.path, "choice": choice, "at": 0, "text_digest": prompt.text_digest})
}

#[tokio::test]
async fn a_prompt_appears_is_answered_and_goes() {
    let bench = Bench::start().await;
    let screen = bench.ask().await;
    assert_eq!(screen.prompts[0].purpose, "Safety <b>");
    assert_eq!(bench.post("/answer", &answer_to(&screen, "later")).await.0, 204);
    bench.shows(|screen| screen.connected && screen.prompts.is_empty()).await;
    let answer = bench.hmi.get_answer("u-1").await.unwrap();
    assert_eq!((answer.choice.as_str(), answer.origin.as_str()), ("later", "hmi"));
    let (status, body) = bench.post("/answer", &answer_to(&screen, "now")).await;
    assert_eq!(status, 409);
    let refusal: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(refusal["error"]["name"], "AlreadyAnswered", "{body}");
    assert_eq!(refusal["error"]["advice"], "nothing to do", "{body}");
    assert!(refusal["error"]["text"].as_str().unwrap().contains("u-1"), "{body}");
}

#[tokio::test]
async fn a_notice_appears_and_goes_when_acknowledged() {
    let bench = Bench::start().await;
    bench.hmi.notify("u-1", "all-new", "Done").await.unwrap();
    let screen = bench.shows(|screen| screen.notices.len() == 1).await;
    assert_eq!(screen.notices[0].text, "Done");
    assert_eq!(bench.post("/acknowledge", &serde_json::json!({"path": screen.notices[0].path})).await.0, 204);
    bench.shows(|screen| screen.notices.is_empty()).await;
    let (status, body) = bench.post("/acknowledge", &serde_json::json!({"path": screen.notices[0].path})).await;
    assert!(status == 409 && body.contains("AlreadyAnswered"), "{status} {body}");
}

#[tokio::test]
async fn the_stream_begins_with_what_is_there() {
    let bench = Bench::start().await;
    bench.ask().await;
    let mut stream = TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("\"update\":\"u-1\"") {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "{text}");
        text += std::str::from_utf8(&part[..count]).unwrap();
    }
}

#[tokio::test]
async fn other_sites_and_other_objects_are_kept_out() {
    let bench = Bench::start().await;
    let screen = bench.ask().await;
    let body = answer_to(&screen, "now").to_string();
    let forged = "POST /answer HTTP/1.1\r\ncontent-type: application/json";
    assert_eq!(bench.request(forged, &body).await.0, 403);
    assert_eq!(bench.request("GET / HTTP/1.1\r\nhost: evil.example:80", "").await.0, 421);
    let mut elsewhere = answer_to(&screen, "now");
    elsewhere["path"] = "/io/pitstop/Ota1/Manager".into();
    assert_eq!(bench.post("/answer", &elsewhere).await.0, 400);
    assert_eq!(bench.post("/answer", &serde_json::json!({"path": 1})).await.0, 422);
    assert_eq!(bench.hmi.get_answer("u-1").await.unwrap().choice, "");
    let (status, page) = bench.request("GET / HTTP/1.1", "").await;
    assert!(status == 200 && page.contains("hmi.js"));
}

#[tokio::test]
async fn an_answer_to_a_replaced_question_is_a_conflict_and_no_trouble_of_the_service() {
    let bench = Bench::start().await;
    let old = bench.ask().await;
    let facts = Facts { purpose: "Comfort".into(), ..facts() };
    bench.hmi.ask("u-1", &facts).await.unwrap();
    let new = bench.shows(|screen| screen.prompts.len() == 1 && screen.prompts[0].purpose == "Comfort").await;
    assert_ne!(old.prompts[0].path, new.prompts[0].path);
    let (status, body) = bench.post("/answer", &answer_to(&old, "now")).await;
    let refusal: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &refusal["error"]["name"]), (409, &"TextChanged".into()), "{body}");
    assert!(refusal["error"]["text"].as_str().unwrap().contains("read the screen again"), "{body}");
    assert_eq!(bench.hmi.get_answer("u-1").await.unwrap().choice, "");
    assert_eq!(bench.post("/answer", &answer_to(&new, "now")).await.0, 204);
}
