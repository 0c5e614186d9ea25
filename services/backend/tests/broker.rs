//! Debian's mosquitto with the configuration that `init` writes: hints reach the device they are for, and nobody else's topics open.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests: a panic is the report")]

mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pitstop_backend::mqtt;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};
use support::{Device, VIN, World};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends with the test.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start_broker(world: &World) -> Broker {
    let program =
        ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|path| std::path::Path::new(path).exists());
    let program = program.expect("mosquitto is needed: `cargo xtask setup` installs it");
    let config = world.backend.dir.broker().join("mosquitto.conf");
    let child = Command::new(program).arg("-c").arg(config).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Broker(child)
}

fn connect(world: &World, device: &Device, port: u16) -> (AsyncClient, EventLoop) {
    let read = |name: &str| std::fs::read_to_string(world.backend.dir.tls().join(name)).unwrap();
    let config = device.tls_config(&read("server-ca.pem"));
    let mut options = MqttOptions::new(device.id.clone(), "127.0.0.1", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
    AsyncClient::new(options, 16)
}

/// Polls until `found` says so; connection errors are tried again, because the broker is just starting.
async fn until<T>(events: &mut EventLoop, mut found: impl FnMut(Packet) -> Option<T>) -> T {
    let search = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(packet)) => {
                    if let Some(value) = found(packet) {
                        return value;
                    }
                }
                Ok(Event::Outgoing(_)) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, search).await.expect("the broker answers in time")
}

#[test]
fn a_hint_reaches_its_device_presence_comes_back_and_foreign_topics_stay_shut() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let port = free_port();
        let (world, hints) = World::with_broker(port).await;
        let _broker = start_broker(&world);
        let task = tokio::spawn(mqtt::run(Arc::clone(&world.backend), hints));
        let release = world.release().await;
        let mut device = world.device(VIN).await;
        device.report(&world).await;
        let (client, mut events) = connect(&world, &device, port);
        until(&mut events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
        let own = format!("ota/v1/t1/{}", device.id);
        client.subscribe(format!("{own}/dn/job"), QoS::AtLeastOnce).await.unwrap();
        until(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
        let state = json!({ "v": 1, "online": true, "bootId": "b" }).to_string();
        client.publish(format!("{own}/up/state"), QoS::AtLeastOnce, true, state).await.unwrap();
        let own_ack =
            until(&mut events, |packet| if let Packet::PubAck(ack) = packet { Some(ack.reason) } else { None }).await;
        assert!(matches!(own_ack, PubAckReason::Success | PubAckReason::NoMatchingSubscribers), "{own_ack:?}");
        // Another device's topics, and the downward ones.
        for topic in ["ota/v1/t1/d-other/up/state".to_owned(), format!("{own}/dn/job"), "elsewhere".to_owned()] {
            client.publish(topic.clone(), QoS::AtLeastOnce, false, "{}").await.unwrap();
            let ack =
                until(&mut events, |packet| if let Packet::PubAck(ack) = packet { Some(ack.reason) } else { None })
                    .await;
            assert_eq!(ack, PubAckReason::NotAuthorized, "{topic}");
        }
        world.campaign(json!({ "name": "c", "release": release })).await;
        let hint = until(&mut events, |packet| match packet {
            Packet::Publish(message) => Some(serde_json::from_slice::<Value>(&message.payload).unwrap()),
            _ => None,
        });
        assert!(hint.await["rev"].as_u64().unwrap() > 0);
        let online = async {
            while world.get(&format!("/api/v1/vehicles/{VIN}")).await["online"] != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, online).await.expect("presence arrives in time");
        task.abort();
    });
}
