//! The MQTT session against Debian's mosquitto: certificates, access by name, hints, presence, progress, will.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use futures_util::StreamExt as _;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::mpsc;

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_broker(folder: &Path, pki: &Pki, port: u16) -> Broker {
    let (certificate, key) = pki.issue("broker");
    std::fs::write(folder.join("ca.pem"), pki.ca.pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), certificate).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(
        folder.join("acl"),
        "pattern read ota/v1/t1/%u/dn/#\npattern write ota/v1/t1/%u/up/#\nuser backend\ntopic readwrite ota/#\n",
    )
    .unwrap();
    let here = folder.display();
    let config = format!(
        "per_listener_settings false\nuser root\nallow_anonymous false\npersistence false\nacl_file {here}/acl\nlistener {port} 127.0.0.1\n\
         cafile {here}/ca.pem\ncertfile {here}/cert.pem\nkeyfile {here}/key.pem\ntls_version tlsv1.3\nrequire_certificate true\n\
         use_identity_as_username true\n"
    );
    std::fs::write(folder.join("mosquitto.conf"), config).unwrap();
    let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .expect("mosquitto is installed");
    let child = Command::new(program)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Broker(child)
}

/// The backend's own client.
fn observer(pki: &Pki, port: u16) -> (AsyncClient, EventLoop) {
    let (certificate, key) = pki.issue("backend");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.der().clone()).unwrap();
    let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key.serialize_der().try_into().unwrap())
        .unwrap();
    let mut options = MqttOptions::new("observer", "127.0.0.1", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
    AsyncClient::new(options, 16)
}

/// Polls the observer's event loop for ever: what it publishes leaves only while that turns.
fn listen(mut eventloop: EventLoop) -> mpsc::UnboundedReceiver<(String, serde_json::Value)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::Publish(m))) => {
                    let topic = String::from_utf8(m.topic.to_vec()).unwrap();
                    let _ = sender.send((topic, serde_json::from_slice(&m.payload).unwrap()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    receiver
}

/// The next message whose topic ends in `end`.
async fn message(messages: &mut mpsc::UnboundedReceiver<(String, serde_json::Value)>, end: &str) -> serde_json::Value {
    let wait = async {
        loop {
            let (topic, value) = messages.recv().await.unwrap();
            if topic.ends_with(end) {
                return value;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), wait).await.unwrap_or_else(|_| panic!("no message on {end}"))
}

#[tokio::test]
async fn hints_come_down_presence_and_progress_go_up_and_the_will_is_told() {
    let root = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let backend = Backend::start(port).await;
    let link = Link::start(root.path(), settings(root.path(), &backend, true)).await;
    link.provision("good-token").await.unwrap();
    let provisioned = Instant::now();
    // The broker comes late: the session is tried again.
    let folder = tempfile::tempdir().unwrap();
    let broker = start_broker(folder.path(), &backend.pki, port);
    let (client, eventloop) = observer(&backend.pki, port);
    let mut events = listen(eventloop);
    client.subscribe("ota/v1/t1/+/up/#", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(message(&mut events, "/d-0001/up/state").await["online"], true);
    link.until(|s| s.connected).await;
    // Provisioning asked what to do, and connecting does not ask again at once. On a machine this slow it may.
    if provisioned.elapsed() < Duration::from_secs(7) {
        assert_eq!(backend.with(|b| b.polls), 1);
    }
    let proxy = link.proxy().await;
    assert!(proxy.connected().await.unwrap());

    let mut hints = proxy.receive_hint().await.unwrap();
    let hint = "{\"v\":1,\"rev\":2,\"kind\":\"offer\"}";
    client.publish("ota/v1/t1/d-0001/dn/job", QoS::AtLeastOnce, false, hint).await.unwrap();
    let hint = tokio::time::timeout(Duration::from_secs(10), hints.next()).await.expect("no hint").unwrap();
    assert_eq!(hint.args().unwrap().kind, "offer");
    proxy.report_progress("u-1", "{\"percent\":5}").await.unwrap();
    assert_eq!(message(&mut events, "/up/job/u-1/prog").await["percent"], 5);

    // The service dies: the broker tells its will.
    drop(link);
    while message(&mut events, "/d-0001/up/state").await["online"] != false {}

    // And the other way round: the broker dies, and the next life of the service says so.
    let link = Link::start(root.path(), settings(root.path(), &backend, true)).await;
    link.until(|s| s.connected).await;
    drop(broker);
    link.until(|s| !s.connected).await;
}
