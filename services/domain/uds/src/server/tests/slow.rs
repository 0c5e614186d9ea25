//! A server whose acts all take time, behind authentication.

use super::super::*;
use super::{ME, MS};
use crate::BlockLength;

/// An ECU whose acts all take time, behind authentication.
#[derive(Default)]
struct Slow {
    lost: u32,
    gone: Vec<ClientId>,
}

impl EcuContent for Slow {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        Some(match service {
            ServiceId::DiagnosticSessionControl | ServiceId::Authentication | ServiceId::TesterPresent => {
                Rule::open(Sessions::ALL)
            }
            _ => Rule::protected(Sessions::NOT_DEFAULT, Protection::Authenticated),
        })
    }
    fn check_download(&self, _: &Download) -> Result<(), Nrc> {
        Ok(())
    }
    fn begin_download(&mut self, _: &Download) -> Reply<BlockLength> {
        Reply::Later
    }
    fn write_block(&mut self, _: &Download, _: u64, _: &[u8]) -> Reply<()> {
        Reply::Later
    }
    fn may_reset(&self, _: ResetType) -> Result<Option<u8>, Nrc> {
        Ok(None)
    }
    fn reset(&mut self, _: ResetType) -> Reply<Option<u8>> {
        Reply::Later
    }
    fn close_download(&mut self, _: &Download, _: &[u8]) -> Reply<Vec<u8>> {
        Reply::Later
    }
    fn download_lost(&mut self) {
        self.lost += 1;
    }
    fn client_gone(&mut self, client: ClientId) {
        self.gone.push(client);
    }
    fn authenticate_client(&mut self, now: Monotonic, _: ClientId, request: &Request) -> Reply<AuthenticationAnswer> {
        let authenticated = Some(*request != Request::DeAuthenticate);
        Reply::Done(AuthenticationAnswer { answer: vec![3, 0x12], authenticated, until: Some(now + 60_000 * MS) })
    }
}

struct SlowBench {
    server: Server<Slow>,
    now: Monotonic,
}

impl SlowBench {
    fn authenticated() -> Self {
        let mut bench = Self { server: Server::new(Slow::default(), ServerSettings::default()), now: Duration::ZERO };
        bench.ask(ME, &[0x10, 0x02]).unwrap();
        bench.ask(ME, &[0x29, 0x03, 0, 0, 0, 0]).unwrap();
        bench
    }

    fn ask(&mut self, client: ClientId, pdu: &[u8]) -> Option<Vec<u8>> {
        self.server.handle_input(self.now, client, Addressing::Physical, pdu);
        self.server.poll_transmit().map(|transmit| transmit.pdu)
    }

    fn open(&mut self) {
        assert_eq!(self.ask(ME, &[0x34, 0, 0x11, 0, 4]), None);
        self.server.complete_download(self.now, Ok(BlockLength(100)));
        assert_eq!(self.server.poll_transmit().unwrap().pdu, [0x74, 0x20, 0, 100]);
    }
}

#[test]
fn authentication_is_one_clients_own() {
    let mut bench = SlowBench::authenticated();
    let other = ClientId(2);
    assert_eq!(bench.ask(other, &[0x34, 0, 0x11, 0, 4]), Some(vec![0x7F, 0x34, 0x34]));
    for state in [&[0x10, 0x01][..], &[0x11, 0x01], &[0x29, 0x00]] {
        assert_eq!(bench.ask(other, state), Some(vec![0x7F, state[0], 0x21]));
    }
    bench.open();
    assert_eq!(bench.ask(other, &[0x36, 1, 9]), Some(vec![0x7F, 0x36, 0x34]));
    bench.server.client_gone(other);
    assert_eq!(bench.ask(ME, &[0x36, 1, 1, 2]), None);
    bench.server.complete(bench.now, Ok(vec![]));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x76, 1]);
    bench.server.client_gone(ME);
    assert_eq!((bench.server.is_authenticated(), bench.server.content().lost), (false, 1));
    assert_eq!(bench.ask(ME, &[0x36, 2, 3]), Some(vec![0x7F, 0x36, 0x34]));
}

#[test]
fn authentication_ends_by_request_by_time_and_with_the_session() {
    type End = fn(&mut SlowBench);
    let ends: [End; 3] = [
        |bench| drop(bench.ask(ME, &[0x29, 0x00])),
        |bench| {
            bench.now += 60_000 * MS;
            bench.server.handle_timeout(bench.now);
        },
        |bench| drop(bench.ask(ME, &[0x10, 0x01])),
    ];
    for end in ends {
        let mut bench = SlowBench::authenticated();
        bench.open();
        end(&mut bench);
        assert_eq!((bench.server.is_authenticated(), bench.server.content().lost), (false, 1));
    }
    let mut bench = SlowBench::authenticated();
    bench.ask(ME, &[0x10, 0x03]).unwrap();
    assert!(bench.server.is_authenticated(), "from one session to another it stays");
}

#[test]
fn a_download_that_takes_long_to_open_may_be_refused_or_lose_its_client() {
    let mut bench = SlowBench::authenticated();
    assert_eq!(bench.ask(ME, &[0x34, 0, 0x11, 0, 4]), None);
    bench.server.complete_download(bench.now, Err(Nrc::UploadDownloadNotAccepted));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x34, 0x70]);
    assert_eq!(bench.ask(ME, &[0x36, 1, 1]), Some(vec![0x7F, 0x36, 0x24]), "nothing is open");
    assert_eq!(bench.ask(ME, &[0x34, 0, 0x11, 0, 4]), None);
    bench.server.client_gone(ME);
    assert_eq!(bench.server.content().lost, 1);
    bench.server.complete_download(bench.now, Ok(BlockLength(100)));
    assert_eq!(bench.server.poll_transmit(), None);
    assert!(!bench.server.is_busy());
}

/// All bytes of a download are in, and 37 has not come.
fn filled() -> SlowBench {
    let mut bench = SlowBench::authenticated();
    bench.open();
    assert_eq!(bench.ask(ME, &[0x36, 1, 1, 2, 3, 4]), None);
    bench.server.complete(bench.now, Ok(vec![]));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x76, 1]);
    bench
}

#[test]
fn a_download_that_lacks_only_its_exit_is_lost_with_its_client_and_with_the_session() {
    let mut bench = filled();
    bench.server.client_gone(ME);
    assert_eq!((bench.server.content().lost, &bench.server.content().gone), (1, &vec![ME]));
    let mut bench = filled();
    bench.now += 5000 * MS;
    bench.server.handle_timeout(bench.now);
    assert_eq!((bench.server.content().lost, bench.server.session()), (1, SessionType::Default));
}

#[test]
fn a_slow_act_that_ends_the_transfer_tells_the_content() {
    let mut bench = SlowBench::authenticated();
    bench.open();
    bench.ask(ME, &[0x36, 1, 1, 2]);
    bench.server.complete(bench.now, Err(Nrc::TransferDataSuspended));
    assert_eq!(bench.server.content().lost, 1);
    let mut bench = filled();
    bench.ask(ME, &[0x37]);
    bench.server.complete(bench.now, Err(Nrc::IncorrectMessageLengthOrInvalidFormat));
    assert_eq!(bench.server.content().lost, 0);
    bench.server.poll_transmit().unwrap();
    bench.ask(ME, &[0x37]);
    bench.server.complete(bench.now, Err(Nrc::GeneralProgrammingFailure));
    assert_eq!(bench.server.content().lost, 1);
}

#[test]
fn a_reset_that_has_to_be_asked_for_resets_when_it_is_granted() {
    let mut bench = SlowBench::authenticated();
    assert_eq!(bench.ask(ME, &[0x11, 0x01]), None);
    bench.server.complete(bench.now, Err(Nrc::ConditionsNotCorrect));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x11, 0x22]);
    assert!(bench.server.is_authenticated());
    assert_eq!(bench.ask(ME, &[0x11, 0x01]), None);
    bench.server.complete(bench.now, Ok(vec![]));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x51, 0x01]);
    while let Some(event) = bench.server.poll_event() {
        if let ServerEvent::Reset { client, .. } = event {
            assert_eq!(client, ME);
            return assert!(!bench.server.is_authenticated());
        }
    }
    panic!("no reset was reported");
}

/// What may happen to a server whose acts take time.
#[derive(Debug, Clone)]
enum Happening {
    Ask(u64, Vec<u8>),
    Complete(bool),
    Opened(bool),
    Gone(u64),
    Wait(u64),
}

fn happening() -> impl proptest::strategy::Strategy<Value = Happening> {
    use proptest::prelude::*;
    let requests: Vec<Vec<u8>> = [
        &[0x10, 0x01][..],
        &[0x10, 0x02],
        &[0x34, 0, 0x11, 0, 4],
        &[0x36, 1, 1, 2],
        &[0x36, 2, 3, 4],
        &[0x37],
        &[0x11, 0x01],
        &[0x3E, 0x00],
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let mine: Vec<Vec<u8>> = [&[0x29, 0x03, 0, 0, 0, 0][..], &[0x29, 0x00]].map(<[u8]>::to_vec).to_vec();
    prop_oneof![
        6 => (1..3_u64, prop::sample::select(requests)).prop_map(|(client, pdu)| Happening::Ask(client, pdu)),
        2 => prop::sample::select(mine).prop_map(|pdu| Happening::Ask(1, pdu)),
        3 => any::<bool>().prop_map(Happening::Complete),
        3 => any::<bool>().prop_map(Happening::Opened),
        1 => (1..3_u64).prop_map(Happening::Gone),
        2 => (0..6_000_u64).prop_map(Happening::Wait),
    ]
}

proptest::proptest! {
    /// Whatever comes in whatever order: who has not authenticated never gets a protected answer, every request gets at most one final
    /// answer, and the server gets out of it again.
    #[test]
    fn nobody_else_ever_profits_from_an_authentication(
        happenings in proptest::collection::vec(happening(), 0..60)
    ) {
        use proptest::prelude::*;
        let mut bench = SlowBench { server: Server::new(Slow::default(), ServerSettings::default()), now: Duration::ZERO };
        let mut owed = std::collections::BTreeMap::<u64, i64>::new();
        for happening in happenings {
            match happening {
                Happening::Ask(client, pdu) => {
                    *owed.entry(client).or_default() += 1;
                    bench.server.handle_input(bench.now, ClientId(client), Addressing::Physical, &pdu);
                }
                Happening::Complete(good) => {
                    let result = if good { Ok(vec![]) } else { Err(Nrc::TransferDataSuspended) };
                    bench.server.complete(bench.now, result);
                }
                Happening::Opened(good) => {
                    let result = if good { Ok(BlockLength(100)) } else { Err(Nrc::ConditionsNotCorrect) };
                    bench.server.complete_download(bench.now, result);
                }
                Happening::Gone(client) => bench.server.client_gone(ClientId(client)),
                Happening::Wait(time) => {
                    bench.now += Duration::from_millis(time);
                    bench.server.handle_timeout(bench.now);
                }
            }
            while let Some(ServerTransmit { client, pdu }) = bench.server.poll_transmit() {
                let pending = pdu.starts_with(&[0x7F]) && pdu.last() == Some(&0x78);
                *owed.entry(client.0).or_default() -= i64::from(!pending);
                let protected = matches!(pdu.first(), Some(0x74 | 0x76 | 0x77 | 0x51));
                prop_assert!(!(protected && client == ClientId(2)), "{:02X?}", pdu);
            }
            prop_assert!(owed.values().all(|&count| count >= 0), "{:?}", owed);
        }
        bench.server.complete(bench.now, Err(Nrc::GeneralReject));
        while bench.server.poll_transmit().is_some() {}
        bench.now += Duration::from_secs(3600);
        bench.server.handle_timeout(bench.now);
        prop_assert_eq!(bench.ask(ClientId(2), &[0x3E, 0x00]), Some(vec![0x7E, 0x00]));
        prop_assert!(!bench.server.is_authenticated() && bench.server.session() == SessionType::Default);
    }
}
