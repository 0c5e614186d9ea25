//! The broker: hints down, presence and progress up. Nothing that decides anything travels here; whatever is lost is made up for
//! when the vehicle asks.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::error::{Error, causes};

/// Protocol, version and tenant. A device's topics lie below `{TOPIC_ROOT}/{device}`.
pub const TOPIC_ROOT: &str = "ota/v1/t1";
/// A hint that nobody fetched for a day says nothing any more: the vehicle asks when it connects.
const HINT_EXPIRY_SECS: u32 = 86_400;
/// Pause before the next try to reach the broker, in seconds: doubled up to a minute.
const FIRST_PAUSE: u64 = 1;
const LAST_PAUSE: u64 = 60;
/// Messages above this are not read; the broker refuses them too.
const MAX_MESSAGE: u32 = 128 * 1024;

/// "Your next job changed": the vehicle then asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    pub device: String,
    pub rev: u64,
}

/// What a device says of its connection; retained, and its will says the opposite.
#[derive(Debug, Deserialize)]
struct State {
    online: bool,
}

/// A message from a device, by topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upward<'t> {
    State { device: &'t str },
    Progress { device: &'t str, update: &'t str },
}

impl<'t> Upward<'t> {
    /// Reads a topic; none for those that are not served here.
    pub fn parse(topic: &'t str) -> Option<Self> {
        let rest = topic.strip_prefix(TOPIC_ROOT)?.strip_prefix('/')?;
        let (device, rest) = rest.split_once('/')?;
        if device.is_empty() {
            return None;
        }
        match rest.strip_prefix("up/")? {
            "state" => Some(Self::State { device }),
            job => {
                let update = job.strip_prefix("job/")?.strip_suffix("/prog")?;
                (!update.is_empty() && !update.contains('/')).then_some(Self::Progress { device, update })
            }
        }
    }
}

/// Connects, and connects again, until cancelled.
pub async fn run(backend: Arc<Backend>, mut hints: mpsc::UnboundedReceiver<Hint>) -> Result<(), Error> {
    let (client, mut events) = connect(&backend)?;
    let sender = async {
        while let Some(hint) = hints.recv().await {
            send_hint(&client, &hint).await;
            backend.metrics.hints_sent.add(1);
        }
    };
    let receiver = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match events.poll().await {
                Ok(event) => {
                    pause = FIRST_PAUSE;
                    on_event(&backend, &client, event).await;
                }
                Err(error) => {
                    log::warn!("broker: {error}; next try in {pause} s");
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    };
    tokio::select! { () = sender => {}, () = receiver => {} }
    Ok(())
}

fn connect(backend: &Backend) -> Result<(AsyncClient, EventLoop), Error> {
    let failed = "preparing the broker's client";
    let tls = backend.dir.tls();
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(tls.join("server-ca.pem")).map_err(Error::internal(failed))?;
    roots.add(ca).map_err(Error::internal(failed))?;
    let chain = vec![CertificateDer::from_pem_file(tls.join("mqtt-client.pem")).map_err(Error::internal(failed))?];
    let key = PrivateKeyDer::from_pem_file(tls.join("mqtt-client.key")).map_err(Error::internal(failed))?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::internal(failed))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(Error::internal(failed))?;
    let mqtt = &backend.settings.mqtt;
    let mut options = MqttOptions::new("backend", mqtt.own_host.as_ref().unwrap_or(&mqtt.host), mqtt.port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
    options.set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(Some(MAX_MESSAGE));
    options.set_clean_start(true);
    Ok(AsyncClient::new(options, 64))
}

async fn send_hint(client: &AsyncClient, hint: &Hint) {
    let topic = format!("{TOPIC_ROOT}/{}/dn/job", hint.device);
    let properties =
        PublishProperties { message_expiry_interval: Some(HINT_EXPIRY_SECS), ..PublishProperties::default() };
    let payload = serde_json::json!({ "v": 1, "rev": hint.rev, "kind": "offer" }).to_string();
    if let Err(error) = client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await {
        log::warn!("hint for {}: {error}", hint.device);
    }
}

async fn on_event(backend: &Backend, client: &AsyncClient, event: Event) {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => {
            log::info!("broker: connected");
            let topics = [format!("{TOPIC_ROOT}/+/up/state"), format!("{TOPIC_ROOT}/+/up/job/+/prog")];
            for topic in topics {
                // Not awaited in full: the queue is drained by the very loop that calls this.
                if let Err(error) = client.try_subscribe(topic, QoS::AtLeastOnce) {
                    log::error!("broker: subscribing: {error}");
                }
            }
        }
        Event::Incoming(Packet::Publish(message)) => {
            backend.metrics.mqtt_messages.add(1);
            let topic = String::from_utf8_lossy(&message.topic).into_owned();
            if let Some(upward) = Upward::parse(&topic)
                && let Err(error) = take(backend, upward, &message.payload).await
            {
                log::warn!("broker: {topic}: {error}: {}", causes(&error));
            }
        }
        _ => {}
    }
}

/// Takes one message. The broker's access list ties the topic's device to the sender's certificate.
pub async fn take(backend: &Backend, upward: Upward<'_>, payload: &[u8]) -> Result<(), Error> {
    match upward {
        Upward::State { device } => {
            let state: State = serde_json::from_slice(payload).map_err(|error| Error::Invalid(error.to_string()))?;
            backend.presence(device, state.online).await
        }
        Upward::Progress { device, update } => {
            let value = serde_json::from_slice(payload).map_err(|error| Error::Invalid(error.to_string()))?;
            backend.progress.put(device, update, value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_devices_own_upward_topics_are_read() {
        assert_eq!(Upward::parse("ota/v1/t1/d-1/up/state"), Some(Upward::State { device: "d-1" }));
        let progress = Upward::Progress { device: "d-1", update: "u-9" };
        assert_eq!(Upward::parse("ota/v1/t1/d-1/up/job/u-9/prog"), Some(progress));
        for bad in ["ota/v1/t1//up/state", "ota/v1/t1/d-1/dn/job", "ota/v1/t1/d-1/up/job//prog", "x", ""] {
            assert_eq!(Upward::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_topic_is_read_or_left(topic in ".{0,80}") {
            let _ = Upward::parse(&topic);
        }
    }
}
