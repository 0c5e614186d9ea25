use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use pitstop_conditions::Database;
use pitstop_dbus::VehicleStateProxy;
use pitstop_runtime::testing;
use pitstop_store::cut::{Cut, Disk};
use pitstop_types::BusName;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::SendError;
use crate::config::tests::{DBC, shipped};

/// How long is waited for what comes at once, unless the service is broken: then the test fails and does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

struct FakeBuses {
    received: UnboundedReceiver<Frame>,
    sent: UnboundedSender<Frame>,
    listening: watch::Sender<bool>,
    clock: Arc<AtomicU64>,
    slow: Arc<AtomicBool>,
}

#[async_trait]
impl Buses for FakeBuses {
    async fn receive(&mut self) -> Frame {
        match self.received.recv().await {
            Some(frame) => frame,
            None => std::future::pending().await,
        }
    }

    fn listen(&mut self, on: bool) {
        self.listening.send_replace(on);
    }

    async fn send(&mut self, frame: Frame) -> Result<(), SendError> {
        let bus = frame.bus.clone();
        if self.slow.load(Ordering::SeqCst) {
            self.clock.fetch_add(100, Ordering::SeqCst);
            tokio::task::yield_now().await;
            return Err(SendError { bus, cause: "nobody acknowledges".to_owned() });
        }
        self.sent.send(frame).map_err(|_| SendError { bus, cause: "unplugged".to_owned() })
    }
}

/// The service on one end of a bus, a proxy on the other, and the vehicle in the test's hands.
struct Bench {
    client: Connection,
    proxy: VehicleStateProxy<'static>,
    vehicle: UnboundedSender<Frame>,
    sent: UnboundedReceiver<Frame>,
    clock: Arc<AtomicU64>,
    listening: watch::Receiver<bool>,
    /// Whether the bus takes no frame, which it says after a cycle's time.
    slow: Arc<AtomicBool>,
}

fn document(disk: &Disk) -> Document<Record> {
    Document::new(Arc::new(disk.storage()), "inhibit", FORMAT)
}

impl Bench {
    async fn start(disk: &Disk) -> Self {
        let (server, client) = testing::pair().await;
        let (vehicle, received) = unbounded_channel();
        let (to_vehicle, sent) = unbounded_channel();
        let clock = Arc::new(AtomicU64::new(10_000));
        let read = clock.clone();
        let clocks = Clocks {
            monotonic: Arc::new(move || Duration::from_millis(read.load(Ordering::SeqCst))),
            wall: || Some(1_784_145_600),
        };
        let (switch, listening) = watch::channel(true);
        let slow = Arc::new(AtomicBool::new(false));
        let buses =
            FakeBuses { received, sent: to_vehicle, listening: switch, clock: clock.clone(), slow: slow.clone() };
        let service = Service::serve(&server, shipped(), buses, Arc::new(disk.storage()), clocks).await.unwrap();
        tokio::spawn(service.run());
        let proxy = VehicleStateProxy::builder(&client)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .unwrap();
        Self { client, proxy, vehicle, sent, clock, listening, slow }
    }

    /// Whether the next frame inhibits driving.
    async fn order(&mut self) -> bool {
        let frame = tokio::time::timeout(PATIENCE, self.sent.recv()).await.expect("a frame is sent").unwrap();
        frame.data[0] == 1
    }

    fn advance(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    fn broadcast(&self, message: &str, values: &[(&str, f64)]) {
        let database = Database::parse(DBC).unwrap();
        let message = database.message(message).unwrap();
        let mut data = vec![0; message.length];
        for (signal, value) in values {
            message.layout(signal).unwrap().encode(*value, &mut data).unwrap();
        }
        self.vehicle.send(Frame { bus: BusName::new("can0").unwrap(), id: message.id, data }).unwrap();
    }

    fn parked(&self) {
        self.broadcast(
            "VehicleMotion",
            &[("VehicleSpeed", 0.0), ("ParkLockEngaged", 1.0), ("ParkingBrakeEngaged", 1.0)],
        );
    }

    fn inhibited(&self, state: f64) {
        self.broadcast("DriveInhibitStatus", &[("DriveInhibitState", state)]);
    }

    async fn holds(&self, condition: &str) -> (bool, String) {
        let mut results = self.proxy.evaluate(&[condition.to_owned()]).await.unwrap();
        let result = results.remove(0);
        assert_eq!(result.condition, condition);
        (result.holds, result.reason)
    }
}

#[tokio::test]
async fn the_object_is_as_the_xml_says() {
    let bench = Bench::start(&Disk::new()).await;
    let served = testing::introspect(&bench.client, "/io/pitstop/Ota1/VehicleState").await;
    let name = "io.pitstop.Ota1.VehicleState";
    assert_eq!(pitstop_dbus::contract::differences(name, &served), Vec::<String>::new());
}

#[tokio::test]
async fn signals_come_with_their_age_and_conditions_with_their_reason() {
    let bench = Bench::start(&Disk::new()).await;
    let (holds, why) = bench.holds("parked").await;
    assert!(!holds && why.starts_with("Vehicle.Speed was never received"), "{why}");
    bench.parked();
    assert_eq!(bench.holds("parked").await, (true, String::new()));
    bench.advance(400);
    let signals = bench.proxy.get_signals().await.unwrap();
    let speed = signals.iter().find(|signal| signal.name == "Vehicle.Speed").unwrap();
    assert_eq!((speed.age_ms, speed.fresh, f64::try_from(speed.value.clone()).unwrap()), (400, true, 0.0));
    let hood = signals.iter().find(|signal| signal.name == "Vehicle.Body.Hood.IsOpen").unwrap();
    assert_eq!((hood.age_ms, hood.fresh, bool::try_from(hood.value.clone()).unwrap()), (-1, false, false));
    bench.advance(601);
    let (holds, why) = bench.holds("parked").await;
    assert!(!holds && why.starts_with("Vehicle.Speed is 1001 ms old"), "{why}");
    bench.broadcast("VehicleMotion", &[("VehicleSpeed", 30.0), ("ParkLockEngaged", 1.0), ("ParkingBrakeEngaged", 1.0)]);
    assert_eq!(bench.holds("parked").await, (false, "Vehicle.Speed is 30 km/h, wanted: <= 0.5".to_owned()));
    assert_eq!(bench.holds("window(\"21:00-23:00\", \"Europe/Berlin\")").await, (true, String::new()));
}

#[tokio::test]
async fn the_inhibit_is_sent_acknowledged_kept_up_and_released() {
    let mut bench = Bench::start(&Disk::new()).await;
    let properties = zbus::fdo::PropertiesProxy::builder(&bench.client)
        .destination("io.pitstop.Ota1.VehicleState")
        .path("/io/pitstop/Ota1/VehicleState")
        .build()
        .await
        .unwrap();
    let mut changes = properties.receive_properties_changed().await.unwrap();
    bench.parked();
    assert_eq!(bench.proxy.check_safe().await.unwrap(), (true, false, "the drive inhibit is not requested".to_owned()));
    bench.inhibited(1.0);
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "released", "an inhibit nobody asked for is not ours");
    bench.proxy.request_inhibit("u-1").await.unwrap();
    bench.proxy.request_inhibit("u-1").await.unwrap();
    assert_eq!(bench.sent.recv().await.unwrap().data[0], 1);
    bench.advance(100);
    bench.inhibited(2.0);
    assert!(!bench.proxy.check_safe().await.unwrap().1);
    bench.inhibited(1.0);
    assert_eq!(bench.proxy.check_safe().await.unwrap(), (true, true, String::new()));
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "acknowledged");
    assert_eq!(bench.sent.recv().await.unwrap().data[0], 1, "kept up");
    bench.advance(1100);
    bench.parked();
    let (standstill, inhibited, why) = bench.proxy.check_safe().await.unwrap();
    assert!(standstill && !inhibited && why.contains("has not acknowledged"), "a stale acknowledgement is none: {why}");

    bench.proxy.release_inhibit("u-2").await.unwrap();
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "requested");
    bench.proxy.release_inhibit("u-1").await.unwrap();
    bench.proxy.release_inhibit("u-1").await.unwrap();
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "released");
    while bench.sent.recv().await.unwrap().data[0] != 0 {}
    let mut told = Vec::new();
    while told.last().is_none_or(|state| state != "released") {
        let change = changes.next().await.unwrap();
        told.push(change.args().unwrap().changed_properties["Inhibit"].to_string().trim_matches('"').to_owned());
    }
    assert_eq!(told, ["requested", "acknowledged", "requested", "released"]);
}

#[tokio::test]
async fn a_request_survives_a_restart_and_only_its_owner_ends_it() {
    let disk = Disk::new();
    Bench::start(&disk).await.proxy.request_inhibit("u-1").await.unwrap();
    let mut again = Bench::start(&disk).await;
    assert_eq!(again.sent.recv().await.unwrap().data[0], 1, "sent without being asked again");
    assert_eq!(again.proxy.inhibit().await.unwrap(), "requested");
    assert_eq!(again.proxy.inhibit_owners().await.unwrap(), ["u-1"]);
    again.proxy.release_inhibit("u-1").await.unwrap();
    assert!(again.proxy.inhibit_owners().await.unwrap().is_empty());
    let mut last = Bench::start(&disk).await;
    assert_eq!(last.sent.recv().await.unwrap().data[0], 0, "the gateway has not shown the release yet");
    last.advance(100);
    last.inhibited(0.0);
    // The answer comes after the frame was taken in, so the release is settled by then.
    last.proxy.check_safe().await.unwrap();
    last.proxy.get_signals().await.unwrap();
    assert_eq!(document(&disk).load().unwrap(), Some(Record::default()));
}

/// Starts on `disk`, whose record is of no use, and sees a release sent until the gateway shows it.
async fn assert_releases(disk: &Disk) {
    let mut bench = Bench::start(disk).await;
    bench.parked();
    assert_eq!(bench.proxy.check_safe().await.unwrap(), (true, false, "the drive inhibit is not requested".to_owned()));
    assert!(!bench.order().await, "told without being asked");
    bench.advance(100);
    bench.inhibited(1.0);
    bench.proxy.get_signals().await.unwrap();
    assert_ne!(document(disk).load().ok().flatten(), Some(Record::default()), "the gateway still holds the vehicle");
    assert!(!bench.order().await);
    bench.advance(100);
    bench.inhibited(0.0);
    // The answer comes after the frame was taken in, so the release is settled by the second one.
    bench.proxy.get_signals().await.unwrap();
    bench.proxy.get_signals().await.unwrap();
    assert_eq!(document(disk).load().unwrap(), Some(Record::default()));
}

#[tokio::test]
async fn any_damage_to_the_record_is_kept_aside_and_the_vehicle_is_let_go() {
    let held = Disk::new();
    document(&held).store(&Record { owners: [UpdateId::new("u-1").unwrap()].into(), releasing: false }).unwrap();
    let good = held.files()["inhibit"].clone();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 2;
        let disk = Disk::new();
        disk.storage().replace("inhibit", &bad).unwrap();
        Bench::start(&disk).await;
        assert_eq!(disk.files()["inhibit.damaged"], bad, "byte {at}");
        if at % 40 == 0 {
            assert_releases(&disk).await;
            assert_eq!(disk.files()["inhibit.damaged"], bad);
        }
    }
}

#[tokio::test]
async fn a_damaged_record_that_cannot_be_kept_aside_lets_the_vehicle_go_all_the_same() {
    let disk = Disk::new();
    disk.storage().replace("inhibit", b"?").unwrap();
    disk.plan(Some(Cut::Before(0)));
    assert!(!Bench::start(&disk).await.order().await);
}

#[tokio::test]
async fn a_release_of_unknown_standing_gives_way_to_a_request() {
    let damaged = Disk::new();
    damaged.storage().replace("inhibit", b"?").unwrap();
    let mut bench = Bench::start(&damaged).await;
    assert!(!bench.order().await);
    bench.proxy.request_inhibit("u-1").await.unwrap();
    assert!(bench.order().await);
    bench.advance(100);
    bench.inhibited(1.0);
    assert!(bench.proxy.check_safe().await.unwrap().1);
}

#[tokio::test]
async fn calls_are_answered_while_no_frame_goes_out() {
    let bench = Bench::start(&Disk::new()).await;
    bench.slow.store(true, Ordering::SeqCst);
    let calls = async {
        bench.proxy.request_inhibit("u-1").await.unwrap();
        bench.advance(100);
        bench.proxy.check_safe().await.unwrap()
    };
    // Each try takes as long as a cycle: of a service that only tries there is no answer.
    let (_, inhibited, why) = tokio::time::timeout(PATIENCE, calls).await.unwrap();
    assert!(!inhibited && why.contains("has not acknowledged"), "{why}");
}

#[tokio::test]
async fn what_is_not_stored_is_not_sent() {
    let disk = Disk::new();
    let mut bench = Bench::start(&disk).await;
    disk.plan(Some(Cut::Before(0)));
    assert_eq!(bench.proxy.request_inhibit("u-1").await.unwrap_err().short_name(), "Storage");
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "released");
    assert!(bench.sent.try_recv().is_err());
    disk.power_on();
    bench.proxy.request_inhibit("u-1").await.unwrap();
    assert_eq!(bench.sent.recv().await.unwrap().data[0], 1);
}

#[tokio::test]
async fn a_bus_that_is_away_leaves_the_request_unacknowledged() {
    let mut bench = Bench::start(&Disk::new()).await;
    bench.sent.close();
    bench.proxy.request_inhibit("u-1").await.unwrap();
    bench.inhibited(1.0);
    assert_eq!(bench.proxy.inhibit().await.unwrap(), "requested");
}

#[tokio::test]
async fn while_nobody_asks_the_buses_are_left_alone_and_the_next_call_waits_for_its_signals() {
    let mut bench = Bench::start(&Disk::new()).await;
    bench.parked();
    assert!(bench.holds("parked").await.0);
    bench.advance(9_900);
    bench.parked();
    bench.proxy.inhibit().await.unwrap();
    assert!(*bench.listening.borrow(), "somebody asked ten seconds ago");
    bench.advance(100);
    bench.inhibited(0.0);
    bench.listening.wait_for(|on| !on).await.unwrap();
    bench.advance(60_000);
    let (answer, ()) = tokio::join!(bench.holds("parked"), async {
        bench.listening.clone().wait_for(|on| *on).await.unwrap();
        bench.parked();
        bench.inhibited(0.0);
    });
    assert_eq!(answer, (true, String::new()));
}

#[tokio::test]
async fn with_the_inhibit_requested_there_is_no_rest() {
    let bench = Bench::start(&Disk::new()).await;
    bench.proxy.request_inhibit("u-1").await.unwrap();
    bench.advance(60_000);
    bench.parked();
    bench.inhibited(1.0);
    assert!(bench.proxy.check_safe().await.unwrap().1);
    assert!(*bench.listening.borrow());
}

#[tokio::test]
async fn wrong_arguments_are_named_errors_and_the_service_goes_on() {
    let bench = Bench::start(&Disk::new()).await;
    let evaluate = async |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        bench.proxy.evaluate(&list).await.unwrap_err()
    };
    let error = evaluate(&["Vehicle.Speed <"]).await;
    assert!(matches!(&error, OtaError::InvalidArgument(text) if text.contains("at byte 15")), "{error:?}");
    assert_eq!(evaluate(&["parked"; 65]).await.short_name(), "InvalidArgument");
    assert_eq!(evaluate(&[&"x".repeat(5000)]).await.short_name(), "InvalidArgument");
    assert_eq!(bench.proxy.request_inhibit("../u").await.unwrap_err().short_name(), "InvalidArgument");
    for n in 0..8 {
        bench.proxy.request_inhibit(&format!("u-{n}")).await.unwrap();
    }
    assert_eq!(bench.proxy.request_inhibit("u-8").await.unwrap_err().short_name(), "Busy");
    assert!(!bench.holds("parked").await.0);
}
