//! The MQTT 5 session: hints come down, presence and progress go up. It carries no authority, and whatever it loses is asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pitstop_runtime::Backoff;
use pitstop_types::DeviceId;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, LastWill, LastWillProperties, Packet, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{MqttSettings, Settings};
use crate::device::{Network, Session};
use crate::pauses::Reconnect;

/// The broker keeps our subscription this long without us: bridges gaps, costs it no memory for weeks.
const SESSION_EXPIRY_SECS: u32 = 3600;
/// Unacknowledged messages the broker may send us at once.
const RECEIVE_MAXIMUM: u16 = 20;
const MAX_PACKET: u32 = 128 * 1024;
/// Longest hint that is looked at.
const MAX_HINT: usize = 4096;
/// Messages waiting for the connection; progress beyond that is dropped.
const QUEUE: usize = 32;
/// Old progress is of no use to anybody.
const PROGRESS_EXPIRY_SECS: u32 = 60;
/// How long a connection may take to be made, in seconds.
const CONNECT_TIMEOUT_SECS: u64 = 20;

/// What the session tells the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    Connected,
    Disconnected,
    /// Somebody says that there may be something new: `offer`, `cancel`, `none` or `unknown`.
    Hint(&'static str),
}

/// A running session; dropping it ends it.
pub struct Mqtt {
    task: tokio::task::JoinHandle<()>,
    client: AsyncClient,
    connected: Arc<AtomicBool>,
    topics: Topics,
}

/// Topics of one device.
#[derive(Debug, Clone)]
struct Topics {
    base: String,
}

impl Topics {
    fn new(root: &str, device: &DeviceId) -> Self {
        Self { base: format!("{root}/{device}") }
    }

    fn job(&self) -> String {
        format!("{}/dn/job", self.base)
    }

    fn state(&self) -> String {
        format!("{}/up/state", self.base)
    }

    fn progress(&self, update: &str) -> String {
        format!("{}/up/job/{update}/prog", self.base)
    }
}

impl Mqtt {
    /// Starts a session that connects again for ever, with growing pauses. `boot` tells lives of this service apart.
    pub fn start(
        session: &Session,
        settings: &Settings,
        boot: &str,
        events: mpsc::UnboundedSender<LinkEvent>,
        network: &Network,
    ) -> Self {
        let topics = Topics::new(&settings.mqtt.topic_root, &session.record.device);
        let (client, eventloop) = AsyncClient::new(options(session, &settings.mqtt, &topics, boot), QUEUE);
        let connected = Arc::new(AtomicBool::new(false));
        let run = Run {
            client: client.clone(),
            topics: topics.clone(),
            connected: Arc::clone(&connected),
            events,
            reconnect: Reconnect::new(Backoff::new(settings.back_off_first, settings.back_off_cap)),
            boot: boot.to_owned(),
        };
        Self { task: network.runtime.spawn(run.forever(eventloop)), client, connected, topics }
    }

    /// Sends progress if the session stands and has room; otherwise drops it. True if it was sent.
    pub fn progress(&self, update: &str, payload: String) -> bool {
        if !self.connected.load(Ordering::Relaxed) {
            return false;
        }
        let properties =
            PublishProperties { message_expiry_interval: Some(PROGRESS_EXPIRY_SECS), ..Default::default() };
        self.client
            .try_publish_with_properties(self.topics.progress(update), QoS::AtMostOnce, false, payload, properties)
            .is_ok()
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(session: &Session, settings: &MqttSettings, topics: &Topics, boot: &str) -> MqttOptions {
    let record = &session.record;
    let mut options = MqttOptions::new(record.device.as_str(), &record.mqtt_host, record.mqtt_port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&session.tls))));
    options.set_keep_alive(settings.keep_alive);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(SESSION_EXPIRY_SECS));
    options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
    options.set_max_packet_size(Some(MAX_PACKET));
    options.set_connection_timeout(CONNECT_TIMEOUT_SECS);
    let properties = LastWillProperties {
        delay_interval: Some(settings.will_delay_secs),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    options.set_last_will(LastWill::new(
        topics.state(),
        presence(false, boot),
        QoS::AtLeastOnce,
        true,
        Some(properties),
    ));
    options
}

/// `boot` lets a late will of an earlier life be told from the present one.
fn presence(online: bool, boot: &str) -> String {
    json!({ "v": 1, "online": online, "bootId": boot }).to_string()
}

struct Run {
    client: AsyncClient,
    topics: Topics,
    connected: Arc<AtomicBool>,
    events: mpsc::UnboundedSender<LinkEvent>,
    reconnect: Reconnect,
    boot: String,
}

impl Run {
    async fn forever(mut self, mut eventloop: EventLoop) {
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(packet)) => self.incoming(packet),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    let pause = self.lost(&error);
                    log::info!("broker: {error}; next try in {:.1} s", pause.as_secs_f64());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn incoming(&mut self, packet: Packet) {
        match packet {
            Packet::ConnAck(_) => self.joined(),
            Packet::Publish(message) if message.topic == self.topics.job().as_bytes() => {
                let _ = self.events.send(LinkEvent::Hint(kind_of(&message.payload)));
            }
            Packet::Publish(_) => log::debug!("broker: a message on a topic nobody asked for"),
            Packet::SubAck(ack) if ack.return_codes.iter().all(|c| matches!(c, SubscribeReasonCode::Success(_))) => {
                self.subscribed()
            }
            // Then only polls find something new.
            Packet::SubAck(ack) => log::error!("broker: it refuses the subscription: {:?}", ack.return_codes),
            Packet::Disconnect(reason) => log::info!("broker: it says goodbye: {:?}", reason.reason_code),
            _ => {}
        }
    }

    /// Queued, not awaited: the loop that empties the queue is the one that calls this.
    fn joined(&mut self) {
        self.reconnect.joined(Instant::now());
        let subscribed = self.client.try_subscribe(self.topics.job(), QoS::AtLeastOnce);
        let told = self.client.try_publish(self.topics.state(), QoS::AtLeastOnce, true, presence(true, &self.boot));
        if subscribed.is_err() || told.is_err() {
            log::warn!("broker: the queue is full right after connecting");
        }
    }

    /// Only from here on no hint is missed: what came before is found by the poll that follows.
    fn subscribed(&mut self) {
        self.connected.store(true, Ordering::Relaxed);
        let _ = self.events.send(LinkEvent::Connected);
    }

    /// Returns the pause before the next try.
    fn lost(&mut self, error: &ConnectionError) -> Duration {
        if self.connected.swap(false, Ordering::Relaxed) {
            let _ = self.events.send(LinkEvent::Disconnected);
        }
        let refused = matches!(
            error,
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::Banned
            )
        );
        self.reconnect.lost(Instant::now(), refused, rand::random())
    }
}

#[derive(Deserialize)]
struct HintBody {
    #[serde(default)]
    kind: String,
}

/// What a hint says. Whatever it says, somebody asks the backend then; so an unreadable one is a hint too.
fn kind_of(payload: &[u8]) -> &'static str {
    let body = Some(payload).filter(|p| p.len() <= MAX_HINT).and_then(|p| serde_json::from_slice::<HintBody>(p).ok());
    match body.as_ref().map(|b| b.kind.as_str()) {
        Some("offer") => "offer",
        Some("cancel") => "cancel",
        Some("none") => "none",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_welcome_alone_does_not_shorten_the_next_pause() {
        let (client, _eventloop) = AsyncClient::new(MqttOptions::new("d-1", "127.0.0.1", 1), QUEUE);
        let (events, _seen) = mpsc::unbounded_channel();
        let minute = Duration::from_secs(60);
        let mut run = Run {
            client,
            topics: Topics::new("ota/v1/t1", &DeviceId::new("d-1").unwrap()),
            connected: Arc::default(),
            events,
            reconnect: Reconnect::new(Backoff::new(Duration::from_secs(1), minute)),
            boot: "b".into(),
        };
        for _ in 0..6 {
            run.joined();
            run.lost(&ConnectionError::RequestsDone);
        }
        run.joined();
        assert_eq!(run.reconnect.lost(Instant::now(), false, u32::MAX), minute);
    }

    #[test]
    fn topics_are_those_of_the_backend() {
        let topics = Topics::new("ota/v1/t1", &DeviceId::new("d-1").unwrap());
        assert_eq!(topics.job(), "ota/v1/t1/d-1/dn/job");
        assert_eq!(topics.state(), "ota/v1/t1/d-1/up/state");
        assert_eq!(topics.progress("u-1"), "ota/v1/t1/d-1/up/job/u-1/prog");
    }

    #[test]
    fn any_hint_is_a_hint_of_a_known_kind() {
        assert_eq!(kind_of(br#"{"v":1,"rev":3,"kind":"offer"}"#), "offer");
        assert_eq!(kind_of(br#"{"kind":"cancel","more":1}"#), "cancel");
        assert_eq!(kind_of(br#"{"kind":"reboot now"}"#), "unknown");
        assert_eq!(kind_of(b"\xFF"), "unknown");
        assert_eq!(kind_of(&vec![b' '; MAX_HINT + 1]), "unknown");
    }
}
