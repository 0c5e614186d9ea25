//! The engine on loopback, asked as a tester asks, byte by byte where that matters.

use pitstop_bundle_io::keys::{Identity, Usage, identity};
use pitstop_doip::{ActivationCode, Frame, Message, ProtocolVersion, StreamDecoder, StreamItem};
use pitstop_types::{HardwareId, Vin};
use pitstop_uds::server::{Authenticator, AuthenticatorSettings};
use pitstop_uds::{BlockLength, Nrc};

use super::*;
use crate::content::WorkshopLink;
use crate::testers::Testers;
use crate::workshop::{Order, WorkshopSettings};

const TCU: LogicalAddress = LogicalAddress(0x1100);
const TESTER: LogicalAddress = LogicalAddress(0x0E80);

struct Bench {
    local: SocketAddr,
    software: watch::Sender<Option<SlotRelease>>,
    status: watch::Receiver<UdsServerStatus>,
    task: JoinHandle<()>,
    /// The workshop's end: orders that come, answers that go, the status it tells.
    workshop: (mpsc::Receiver<Order>, mpsc::Sender<Done>, watch::Sender<String>),
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn release() -> SlotRelease {
    SlotRelease { software_number: "TCU-SW-001".into(), version: "1.4.0".into(), counter: 3, hardware: "tcu-a1".into() }
}

impl Bench {
    async fn start(max_testers: u8) -> Self {
        Self::start_with(max_testers, b"").await
    }

    /// Whose testers may authenticate, PEM.
    async fn start_with(max_testers: u8, trusted: &[u8]) -> Self {
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            address: TCU,
            eid: [2, 0, 0, 0, 0, 1],
            gid: [0; 6],
            max_testers,
            announce: true,
            max_package: 1 << 30,
            workshop: WorkshopSettings {
                block: BlockLength(4096),
                trial: Duration::from_secs(5),
                health_limit: Duration::from_secs(60),
            },
        };
        let (software, known) = watch::channel(None);
        let (orders, queue) = mpsc::channel(4);
        let (finished, done) = mpsc::channel(4);
        let (told, status) = watch::channel("phase=none".to_owned());
        let vin = Vin::new("WP0ZZZ99ZTS392124").unwrap();
        let testers = Testers::new(vin, pitstop_runtime::wall_clock).with_trusted(trusted).unwrap();
        let content = TcuContent {
            vin: Vin::new("WP0ZZZ99ZTS392124").unwrap(),
            hardware: HardwareId::new("tcu-a1").unwrap(),
            serial: Some("TCU-1".into()),
            rxswin: vec!["R155 1".into(), "R156 2".into()],
            software: known,
            testers,
            authenticator: Authenticator::new(AuthenticatorSettings::default()),
            workshop: Some(WorkshopLink { orders, status, max_package: settings.max_package }),
        };
        let sockets = Sockets::bind(settings.listen).await.unwrap();
        let local = sockets.local;
        let engine = Engine::new(&settings, sockets, content, done);
        let status = engine.status();
        let workshop = (queue, finished, told);
        Self { local, software, status, task: tokio::spawn(engine.run()), workshop }
    }

    async fn tester(&self, source: LogicalAddress) -> Tester {
        let mut tester = Tester::connect(self.local).await;
        let code = tester.activate(source).await;
        assert_eq!(code, ActivationCode::Activated);
        tester
    }
}

struct Tester {
    stream: TcpStream,
    decoder: StreamDecoder,
    source: LogicalAddress,
}

impl Tester {
    async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        Self { stream, decoder: StreamDecoder::new(4096), source: TESTER }
    }

    async fn activate(&mut self, source: LogicalAddress) -> ActivationCode {
        self.source = source;
        self.send(Message::RoutingActivationRequest { source, activation_type: 0, oem: None }).await;
        match self.next().await {
            Some(Message::RoutingActivationResponse { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, message: Message) {
        self.stream.write_all(&Frame::new(ProtocolVersion::V2012, message).encode()).await.unwrap();
    }

    /// `None`: the server closed the connection.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(StreamItem::Frame(frame)) = self.decoder.next_item() {
                return Some(frame.message);
            }
            let mut bytes = [0; 512];
            let read = tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut bytes)).await;
            match read.expect("an answer in time") {
                Ok(count @ 1..) => self.decoder.push(&bytes[..count]),
                _ => return None,
            }
        }
    }

    async fn say(&mut self, data: &[u8]) {
        self.send(Message::Diagnostic { source: self.source, target: TCU, data: data.to_vec() }).await;
        assert!(matches!(self.next().await, Some(Message::DiagnosticAck { .. })));
    }

    async fn ask(&mut self, data: &[u8]) -> Vec<u8> {
        self.say(data).await;
        self.hear().await
    }

    async fn hear(&mut self) -> Vec<u8> {
        match self.next().await {
            Some(Message::Diagnostic { source, target, data }) => {
                assert_eq!((source, target), (TCU, self.source));
                data
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn identification_and_versions_are_read() {
    let bench = Bench::start(2).await;
    bench.software.send_replace(Some(release()));
    let mut tester = bench.tester(TESTER).await;
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x90]).await, b"\x62\xF1\x90WP0ZZZ99ZTS392124");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x88]).await, b"\x62\xF1\x88TCU-SW-001");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x89, 0xF1, 0x8C]).await, b"\x62\xF1\x891.4.0\xF1\x8CTCU-1");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0xEF]).await, b"\x62\xF1\xEFR155 1;R156 2");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x91]).await, b"\x62\xF1\x91tcu-a1");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x86]).await, [0x62, 0xF1, 0x86, 0x01]);
    assert_eq!(tester.ask(&[0x22, 0x12, 0x34]).await, [0x7F, 0x22, 0x31]);
}

#[tokio::test]
async fn what_runs_is_not_made_up_while_nobody_says_it() {
    let bench = Bench::start(2).await;
    let mut tester = bench.tester(TESTER).await;
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x89]).await, [0x7F, 0x22, 0x22], "conditions not correct");
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x90]).await[0], 0x62, "the VIN needs nobody");
    bench.software.send_replace(Some(release()));
    assert_eq!(tester.ask(&[0x22, 0xF1, 0x89]).await, b"\x62\xF1\x891.4.0");
}

#[tokio::test]
async fn sessions_are_one_for_the_tcu_and_nothing_can_be_written() {
    let bench = Bench::start(2).await;
    let mut tester = bench.tester(TESTER).await;
    assert_eq!(tester.ask(&[0x10, 0x03]).await, [0x50, 0x03, 0x00, 0x32, 0x01, 0xF4]);
    let mut other = bench.tester(LogicalAddress(0x0E81)).await;
    assert_eq!(other.ask(&[0x22, 0xF1, 0x86]).await, [0x62, 0xF1, 0x86, 0x03]);
    assert_eq!(tester.ask(&[0x10, 0x04]).await, [0x7F, 0x10, 0x12]);
    assert_eq!(tester.ask(&[0x2E, 0xF1, 0x90, 0x41]).await, [0x7F, 0x2E, 0x31]);
    assert_eq!(tester.ask(&[0x27, 0x01]).await, [0x7F, 0x27, 0x11], "no seed and key");
    assert_eq!(tester.ask(&[0x34, 0x00, 0x44, 0, 0, 0, 0, 0, 0, 0, 1]).await, [0x7F, 0x34, 0x7F]);
    tester.say(&[0x3E, 0x80]).await;
    assert_eq!(tester.ask(&[0x3E, 0x00]).await, [0x7E, 0x00], "the suppressed one before was not answered");
    let status = bench.status.borrow().clone();
    assert_eq!((status.testers, status.session.as_str()), (2, "extended"));
}

#[tokio::test]
async fn connections_are_bounded_and_a_closed_one_makes_room() {
    let bench = Bench::start(1).await;
    let first = bench.tester(TESTER).await;
    // One socket more than testers, as the standard asks, to say no with.
    let mut second = Tester::connect(bench.local).await;
    second
        .send(Message::RoutingActivationRequest { source: LogicalAddress(0x0E81), activation_type: 0, oem: None })
        .await;
    let mut third = Tester::connect(bench.local).await;
    assert_eq!(third.next().await, None, "not even a socket");
    drop(first);
    drop(second);
    let mut status = bench.status.clone();
    status.wait_for(|status| status.testers == 0).await.unwrap();
    bench.tester(TESTER).await;
}

#[tokio::test]
async fn nonsense_closes_its_own_connection_only() {
    let bench = Bench::start(4).await;
    let mut good = bench.tester(TESTER).await;
    let mut bad = Tester::connect(bench.local).await;
    bad.stream.write_all(&[0xAA; 64]).await.unwrap();
    assert!(matches!(bad.next().await, Some(Message::HeaderNack(_))));
    assert_eq!(bad.next().await, None);
    // Ten gigabytes are announced and none are stored.
    let mut liar = bench.tester(LogicalAddress(0x0E82)).await;
    liar.stream.write_all(&[0x02, 0xFD, 0x80, 0x01, 0xFF, 0xFF, 0xFF, 0xFF]).await.unwrap();
    assert!(matches!(liar.next().await, Some(Message::HeaderNack(_))));
    // A diagnostic message before routing activation.
    let mut early = Tester::connect(bench.local).await;
    early.send(Message::Diagnostic { source: TESTER, target: TCU, data: vec![0x3E, 0] }).await;
    assert!(matches!(early.next().await, Some(Message::DiagnosticNack { .. })));
    assert_eq!(early.next().await, None);
    assert_eq!(good.ask(&[0x3E, 0x00]).await, [0x7E, 0x00]);
}

#[tokio::test]
async fn a_tester_that_never_reads_is_disconnected_and_others_go_on() {
    let bench = Bench::start(2).await;
    let mut deaf = bench.tester(LogicalAddress(0x0E81)).await;
    let mut good = bench.tester(TESTER).await;
    let request = Message::Diagnostic { source: deaf.source, target: TCU, data: vec![0x22, 0xF1, 0x90] };
    let request = Frame::new(ProtocolVersion::V2012, request).encode().repeat(100);
    let flood = async { while deaf.stream.write_all(&request).await.is_ok() {} };
    let others = async {
        let mut status = bench.status.clone();
        status.wait_for(|status| status.testers == 2).await.unwrap();
        assert_eq!(good.ask(&[0x3E, 0x00]).await, [0x7E, 0x00]);
        status.wait_for(|status| status.testers == 1).await.unwrap();
    };
    tokio::join!(flood, others);
    assert_eq!(good.ask(&[0x3E, 0x00]).await, [0x7E, 0x00]);
}

#[tokio::test]
async fn a_tester_that_asks_for_more_than_it_reads_is_disconnected_before_it_fills_the_memory() {
    let bench = Bench::start(2).await;
    bench.workshop.2.send_replace("x".repeat(400));
    let mut deaf = bench.tester(LogicalAddress(0x0E81)).await;
    let mut good = bench.tester(TESTER).await;
    let framed = |data: Vec<u8>| {
        let message = Message::Diagnostic { source: LogicalAddress(0x0E81), target: TCU, data };
        Frame::new(ProtocolVersion::V2012, message).encode()
    };
    // 4 KiB of answer for each 33 bytes, and a session for who is gone by then.
    let greedy = framed([&[0x22][..], &[0xF1, 0xE0].repeat(10)].concat()).repeat(400);
    deaf.stream.write_all(&[greedy, framed(vec![0x10, 0x03])].concat()).await.unwrap();
    let mut status = bench.status.clone();
    let gone = status.wait_for(|status| status.requests > 0 && status.testers == 1);
    let status =
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it is disconnected").unwrap().clone();
    assert!(status.requests < 100, "{} requests were answered", status.requests);
    assert_eq!(good.ask(&[0x22, 0xF1, 0x86]).await, [0x62, 0xF1, 0x86, 0x01]);
}

#[tokio::test]
async fn testers_that_ask_what_nobody_says_do_not_hold_up_the_others() {
    let bench = Bench::start(2).await;
    let mut asking = bench.tester(LogicalAddress(0x0E81)).await;
    let mut other = bench.tester(TESTER).await;
    let request = Message::Diagnostic { source: asking.source, target: TCU, data: vec![0x22, 0xF1, 0x89] };
    let requests = Frame::new(ProtocolVersion::V2012, request).encode().repeat(300);
    asking.stream.write_all(&requests).await.unwrap();
    let mut status = bench.status.clone();
    let begun = Instant::now();
    status.wait_for(|status| status.requests >= 300).await.unwrap();
    assert_eq!(other.ask(&[0x3E, 0x00]).await, [0x7E, 0x00]);
    // One wait for each would be ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_vehicle_is_identified_by_udp() {
    let bench = Bench::start(1).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = Frame::new(ProtocolVersion::Default, Message::VehicleIdRequest).encode();
    socket.send_to(&request, bench.local).await.unwrap();
    let mut answer = [0; 128];
    let count = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await.unwrap().unwrap();
    match Frame::decode_datagram(&answer[..count], 4096).unwrap().message {
        Message::Announcement(vehicle) => {
            assert_eq!((&vehicle.vin, vehicle.address), (b"WP0ZZZ99ZTS392124", TCU));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_object_is_as_the_xml_says() {
    let (server, client) = pitstop_runtime::testing::pair().await;
    let bench = Bench::start(1).await;
    let object = crate::bus::UdsServer { port: 1, address: TCU.0, status: bench.status.clone() };
    let path = pitstop_dbus::object_path("UdsServer");
    server.object_server().at(path.clone(), object).await.unwrap();
    let served = pitstop_runtime::testing::introspect(&client, &path).await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.UdsServer", &served), Vec::<String>::new());
}

/// A maker's authority and a tester that it lets in.
fn tester_identities() -> (Identity, Identity) {
    let now = pitstop_runtime::wall_clock().unwrap();
    let authority = identity("Tester CA", Usage::Authority, None, now - 60, 10).unwrap();
    let tester = identity("Tester 7", Usage::Tester, Some(&authority), now - 60, 5).unwrap();
    (authority, tester)
}

impl Tester {
    async fn authenticate(&mut self, identity: &Identity) -> Vec<u8> {
        let certificate = identity.certificate.to_der().unwrap();
        let length = (certificate.len() as u16).to_be_bytes();
        let shown = self.ask(&[&[0x29, 0x01, 0x00], &length[..], &certificate, &[0, 0]].concat()).await;
        assert_eq!(shown[..5], [0x69, 0x01, 0x11, 0, 49], "{shown:02X?}");
        let proof = sign(identity, &shown[5..54]);
        let length = (proof.len() as u16).to_be_bytes();
        self.ask(&[&[0x29, 0x03], &length[..], &proof, &[0, 0]].concat()).await
    }
}

fn sign(identity: &Identity, message: &[u8]) -> Vec<u8> {
    let digest = openssl::hash::MessageDigest::sha256();
    openssl::sign::Signer::new(digest, &identity.key).unwrap().sign_oneshot_to_vec(message).unwrap()
}

#[tokio::test]
async fn without_authentication_nothing_is_changed() {
    let bench = Bench::start(2).await;
    let mut tester = bench.tester(TESTER).await;
    assert_eq!(tester.ask(&[0x11, 0x01]).await, [0x7F, 0x11, 0x34]);
    tester.ask(&[0x10, 0x02]).await;
    for request in [
        &[0x34, 0x00, 0x44, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &[0x36, 0x01, 0x00],
        &[0x37],
        &[0x31, 0x01, 0xFF, 0x01],
        &[0x31, 0x01, 0x02, 0x10],
        &[0x11, 0x01],
    ] {
        assert_eq!(tester.ask(request).await, [0x7F, request[0], 0x34], "{request:02X?}");
    }
    assert_eq!(tester.ask(&[0x22, 0xF1, 0xE0]).await, b"\x62\xF1\xE0phase=none");
}

#[tokio::test]
async fn an_authenticated_testers_requests_become_orders_and_their_outcome_answers() {
    let (authority, identity) = tester_identities();
    let mut bench = Bench::start_with(2, &authority.certificate_pem().unwrap()).await;
    let mut tester = bench.tester(TESTER).await;
    tester.ask(&[0x10, 0x02]).await;
    assert_eq!(tester.authenticate(&identity).await, [0x69, 0x03, 0x12, 0, 0]);
    let ten_gigabytes = [0x34, 0x00, 0x51, 0, 0x02, 0x54, 0x0B, 0xE4, 0x00];
    assert_eq!(tester.ask(&ten_gigabytes).await, [0x7F, 0x34, 0x31]);
    assert_eq!(tester.ask(&[0x34, 0x00, 0x11, 8, 3]).await, [0x7F, 0x34, 0x31], "there is one address, 0");
    let (orders, done, _) = &mut bench.workshop;
    let other = |result| Done::Other(result);
    let ok = || Done::Other(Ok(Vec::new()));
    let story: [(&[u8], Order, Done, &[u8]); 8] = [
        (&[0x34, 0x00, 0x11, 0, 3], Order::Open(3), Done::Opened(Err(Nrc::ConditionsNotCorrect)), &[0x7F, 0x34, 0x22]),
        (&[0x34, 0x00, 0x11, 0, 3], Order::Open(3), Done::Opened(Ok(BlockLength(4096))), &[0x74, 0x20, 0x10, 0x00]),
        (&[0x36, 0x01, 7, 8], Order::Block(vec![7, 8]), ok(), &[0x76, 0x01]),
        (&[0x36, 0x02, 9], Order::Block(vec![9]), ok(), &[0x76, 0x02]),
        (&[0x37], Order::Close, ok(), &[0x77]),
        (&[0x31, 0x01, 0xFF, 0x01], Order::Verify, other(Ok(vec![0])), &[0x71, 0x01, 0xFF, 0x01, 0x00]),
        (&[0x31, 0x01, 0x02, 0x10], Order::RollBack, other(Err(Nrc::RequestSequenceError)), &[0x7F, 0x31, 0x24]),
        (&[0x11, 0x01], Order::Restart, other(Err(Nrc::ConditionsNotCorrect)), &[0x7F, 0x11, 0x22]),
    ];
    for (request, order, outcome, answer) in story {
        tester.say(request).await;
        assert_eq!(orders.recv().await, Some(order));
        done.send(outcome).await.unwrap();
        assert_eq!(tester.hear().await, answer, "{request:02X?}");
        if request.starts_with(&[0x36, 0x02]) {
            assert_eq!(tester.ask(request).await, answer, "a repeated block is answered and not taken again");
            assert_eq!(tester.ask(&[0x37, 0x00]).await, [0x7F, 0x37, 0x13], "and 37 has no parameters");
        }
    }
    tester.say(&[0x11, 0x01]).await;
    assert_eq!(orders.recv().await, Some(Order::Restart));
    done.send(ok()).await.unwrap();
    assert_eq!(tester.hear().await, [0x51, 0x01]);
    assert_eq!(tester.next().await, None, "ISO 14229-5: a connection does not outlive the answer to a reset");
    let mut tester = bench.tester(TESTER).await;
    assert_eq!(tester.ask(&[0x11, 0x01]).await, [0x7F, 0x11, 0x34], "as after a restart");
}

#[tokio::test]
async fn a_reset_whose_answer_is_suppressed_closes_nothing() {
    let (authority, identity) = tester_identities();
    let mut bench = Bench::start_with(2, &authority.certificate_pem().unwrap()).await;
    let mut tester = bench.tester(TESTER).await;
    tester.authenticate(&identity).await;
    tester.say(&[0x11, 0x81]).await;
    assert_eq!(bench.workshop.0.recv().await, Some(Order::Restart));
    bench.workshop.1.send(Done::Other(Ok(Vec::new()))).await.unwrap();
    loop {
        match tester.ask(&[0x3E, 0x00]).await.as_slice() {
            [0x7E, 0x00] => return,
            // The act has not ended yet.
            [0x7F, 0x3E, 0x21] => {}
            // Where the machine under the test is slow: "pending" and then the answer, which is not suppressed any more.
            [0x7F, 0x11, 0x78] | [0x51, 0x01] => return,
            other => panic!("{other:02X?}"),
        }
    }
}

#[tokio::test]
async fn a_tester_that_leaves_takes_its_right_and_its_transfer_with_it() {
    let (authority, identity) = tester_identities();
    let mut bench = Bench::start_with(2, &authority.certificate_pem().unwrap()).await;
    let mut tester = bench.tester(TESTER).await;
    tester.ask(&[0x10, 0x02]).await;
    tester.authenticate(&identity).await;
    let mut other = bench.tester(LogicalAddress(0x0E81)).await;
    assert_eq!(other.ask(&[0x10, 0x01]).await, [0x7F, 0x10, 0x21], "nobody else ends the session");
    tester.say(&[0x34, 0x00, 0x11, 0, 9]).await;
    assert_eq!(bench.workshop.0.recv().await, Some(Order::Open(9)));
    bench.workshop.1.send(Done::Opened(Ok(BlockLength(4096)))).await.unwrap();
    tester.hear().await;
    drop(tester);
    assert_eq!(bench.workshop.0.recv().await, Some(Order::Abort));
    assert_eq!(other.ask(&[0x36, 0x01, 1]).await, [0x7F, 0x36, 0x34]);
}

#[tokio::test]
async fn slow_work_is_announced_as_pending() {
    let (authority, identity) = tester_identities();
    let mut bench = Bench::start_with(2, &authority.certificate_pem().unwrap()).await;
    let mut tester = bench.tester(TESTER).await;
    tester.ask(&[0x10, 0x02]).await;
    tester.authenticate(&identity).await;
    tester.say(&[0x31, 0x01, 0xFF, 0x01]).await;
    assert_eq!(bench.workshop.0.recv().await, Some(Order::Verify));
    assert_eq!(tester.hear().await, [0x7F, 0x31, 0x78]);
    bench.workshop.1.send(Done::Other(Ok(vec![0]))).await.unwrap();
    assert_eq!(tester.hear().await, [0x71, 0x01, 0xFF, 0x01, 0x00]);
}
