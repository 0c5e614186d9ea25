mod slow;

use super::*;
use crate::{BlockLength, Did, RoutineAction, RoutineId};

const MS: Duration = Duration::from_millis(1);
const ME: ClientId = ClientId(1);

/// An ECU whose memory is a vector; erasing takes its time.
#[derive(Default)]
struct Ecu {
    written: Vec<u8>,
    lost: u32,
    slow_blocks: bool,
    /// What 37 is refused with.
    close_fails: Option<Nrc>,
}

impl EcuContent for Ecu {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        let locked = Rule::protected(Sessions::PROGRAMMING, Protection::Unlocked);
        Some(match service {
            ServiceId::DiagnosticSessionControl | ServiceId::EcuReset | ServiceId::TesterPresent => {
                Rule::open(Sessions::ALL)
            }
            ServiceId::ReadDataByIdentifier => Rule::open(Sessions::ALL),
            ServiceId::SecurityAccess | ServiceId::RoutineControl => Rule::open(Sessions::NOT_DEFAULT),
            ServiceId::WriteDataByIdentifier => Rule::protected(Sessions::NOT_DEFAULT, Protection::Authenticated),
            ServiceId::RequestDownload | ServiceId::TransferData | ServiceId::RequestTransferExit => locked,
            _ => return None,
        })
    }

    fn may_enter(&self, _: SessionType, to: SessionType) -> Result<(), Nrc> {
        if matches!(to, SessionType::Other(_)) { Err(Nrc::SubFunctionNotSupported) } else { Ok(()) }
    }

    fn may_reset(&self, reset: ResetType) -> Result<Option<u8>, Nrc> {
        if reset == ResetType::Hard { Ok(None) } else { Err(Nrc::SubFunctionNotSupported) }
    }

    fn read_rule(&self, did: Did) -> Option<Rule> {
        (did == Did::VIN).then_some(Rule::open(Sessions::ALL))
    }

    fn read(&mut self, _: Did) -> Result<Vec<u8>, Nrc> {
        Ok(b"WP0ZZZ99ZTS392124".to_vec())
    }

    fn routine_rule(&self, routine: RoutineId) -> Option<Rule> {
        let locked = Rule::protected(Sessions::PROGRAMMING, Protection::Unlocked);
        (routine == RoutineId::ERASE_MEMORY).then_some(locked)
    }

    fn routine(&mut self, _: RoutineAction, _: RoutineId, _: &[u8]) -> Reply<Vec<u8>> {
        Reply::Later
    }

    fn check_download(&self, download: &Download) -> Result<(), Nrc> {
        if download.memory.address < 0x1000 { Ok(()) } else { Err(Nrc::RequestOutOfRange) }
    }

    fn open_download(&mut self, _: &Download) -> Result<BlockLength, Nrc> {
        Ok(BlockLength(6))
    }

    fn write_block(&mut self, _: &Download, _: u64, data: &[u8]) -> Reply<()> {
        self.written.extend_from_slice(data);
        if self.slow_blocks { Reply::Later } else { Reply::Done(()) }
    }

    fn close_download(&mut self, _: &Download, parameters: &[u8]) -> Reply<Vec<u8>> {
        match self.close_fails {
            Some(nrc) => Reply::Refused(nrc),
            None if parameters.is_empty() => Reply::Done(Vec::new()),
            None => Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat),
        }
    }

    fn download_lost(&mut self) {
        self.lost += 1;
    }

    fn seed(&mut self, level: u8, _: &[u8]) -> Result<Vec<u8>, Nrc> {
        if level == 0x11 { Ok(vec![1, 2, 3, 4]) } else { Err(Nrc::SubFunctionNotSupported) }
    }

    fn key_fits(&self, _: u8, seed: &[u8], key: &[u8]) -> bool {
        key.iter().rev().eq(seed)
    }
}

struct Bench {
    server: Server<Ecu>,
    now: Monotonic,
}

impl Bench {
    fn new() -> Self {
        Self { server: Server::new(Ecu::default(), ServerSettings::default()), now: Duration::ZERO }
    }

    fn ask(&mut self, pdu: &[u8]) -> Option<Vec<u8>> {
        self.server.handle_input(self.now, ME, Addressing::Physical, pdu);
        self.server.poll_transmit().map(|transmit| transmit.pdu)
    }

    fn nrc(&mut self, pdu: &[u8]) -> Nrc {
        let answer = self.ask(pdu).expect("an answer");
        assert_eq!(answer[..2], [0x7F, pdu[0]], "{answer:02X?}");
        answer[2].into()
    }

    fn unlock(&mut self) {
        self.ask(&[0x10, 0x02]).unwrap();
        assert_eq!(self.ask(&[0x27, 0x11]), Some(vec![0x67, 0x11, 1, 2, 3, 4]));
        assert_eq!(self.ask(&[0x27, 0x12, 4, 3, 2, 1]), Some(vec![0x67, 0x12]));
    }

    fn open(&mut self, size: u8) {
        let answer = self.ask(&[0x34, 0, 0x44, 0, 0, 0, 0, 0, 0, 0, size]);
        assert_eq!(answer, Some(vec![0x74, 0x20, 0, 6]));
    }
}

#[test]
fn general_checks_come_in_the_standards_order() {
    let mut bench = Bench::new();
    assert_eq!(bench.nrc(&[0x23, 1]), Nrc::ServiceNotSupported);
    assert_eq!(bench.nrc(&[0x34]), Nrc::ServiceNotSupportedInActiveSession);
    assert_eq!(bench.nrc(&[0x10, 0x60, 1]), Nrc::SubFunctionNotSupported);
    assert_eq!(bench.nrc(&[0x10, 0x03, 1]), Nrc::IncorrectMessageLengthOrInvalidFormat);
    assert_eq!(bench.nrc(&[0x10]), Nrc::IncorrectMessageLengthOrInvalidFormat);
    bench.ask(&[0x10, 0x03]).unwrap();
    assert_eq!(bench.nrc(&[0x2E]), Nrc::AuthenticationRequired);
}

#[test]
fn unknown_dids_are_left_out_while_one_is_known() {
    let mut bench = Bench::new();
    assert_eq!(bench.nrc(&[0x22, 0xF1]), Nrc::IncorrectMessageLengthOrInvalidFormat);
    assert_eq!(bench.nrc(&[0x22, 0xF1, 0x91]), Nrc::RequestOutOfRange);
    assert_eq!(bench.ask(&[0x22, 0xF1, 0x86]), Some(vec![0x62, 0xF1, 0x86, 0x01]));
    let both = bench.ask(&[0x22, 0xF1, 0x91, 0xF1, 0x90]).unwrap();
    assert_eq!(both, b"\x62\xF1\x90WP0ZZZ99ZTS392124");
}

#[test]
fn functional_requests_hide_the_five_codes_and_suppression_hides_the_positive() {
    let mut bench = Bench::new();
    bench.server.handle_input(bench.now, ME, Addressing::Functional, &[0x22, 0x00, 0x00]);
    assert_eq!(bench.server.poll_transmit(), None);
    bench.server.handle_input(bench.now, ME, Addressing::Functional, &[0x22, 0x00]);
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x22, 0x13]);
    assert_eq!(bench.ask(&[0x3E, 0x80]), None);
    assert_eq!(bench.ask(&[0x3E, 0x81]), Some(vec![0x7F, 0x3E, 0x12]));
}

#[test]
fn a_download_keeps_to_counter_and_size() {
    let mut bench = Bench::new();
    bench.unlock();
    assert_eq!(bench.nrc(&[0x36, 1, 0]), Nrc::RequestSequenceError);
    bench.open(6);
    assert_eq!(bench.nrc(&[0x34, 0, 0x44, 0, 0, 0, 0, 0, 0, 0, 6]), Nrc::ConditionsNotCorrect);
    assert_eq!(bench.nrc(&[0x36, 0, 1]), Nrc::WrongBlockSequenceCounter);
    assert_eq!(bench.nrc(&[0x36, 1, 1, 2, 3, 4, 5]), Nrc::RequestOutOfRange);
    assert_eq!(bench.ask(&[0x36, 1, 1, 2, 3, 4]), Some(vec![0x76, 1]));
    assert_eq!(bench.ask(&[0x36, 1, 1, 2, 3, 4]), Some(vec![0x76, 1]), "a repetition is answered");
    assert_eq!(bench.nrc(&[0x37]), Nrc::RequestSequenceError);
    assert_eq!(bench.ask(&[0x36, 2, 5, 6]), Some(vec![0x76, 2]));
    assert_eq!(bench.nrc(&[0x36, 3, 5]), Nrc::RequestSequenceError);
    assert_eq!(bench.ask(&[0x37]), Some(vec![0x77]));
    assert_eq!(bench.server.content().written, [1, 2, 3, 4, 5, 6]);
    bench.open(2);
    assert_eq!(bench.nrc(&[0x36, 1, 1, 2, 3]), Nrc::TransferDataSuspended);
    assert_eq!(bench.server.content().lost, 1);
    assert_eq!(bench.nrc(&[0x36, 1, 1, 2]), Nrc::RequestSequenceError);
}

#[test]
fn an_exit_in_the_wrong_form_leaves_the_transfer_open_and_one_that_fails_ends_it() {
    let mut bench = Bench::new();
    bench.unlock();
    for fails in [None, Some(Nrc::GeneralProgrammingFailure)] {
        bench.server.content_mut().close_fails = None;
        bench.open(1);
        assert_eq!(bench.ask(&[0x36, 1, 9]), Some(vec![0x76, 1]));
        assert_eq!(bench.nrc(&[0x37, 0]), Nrc::IncorrectMessageLengthOrInvalidFormat);
        assert_eq!(bench.server.content().lost, 0);
        bench.server.content_mut().close_fails = fails;
        match fails {
            None => assert_eq!(bench.ask(&[0x37]), Some(vec![0x77])),
            Some(nrc) => assert_eq!(bench.nrc(&[0x37]), nrc),
        }
        assert_eq!(bench.nrc(&[0x37]), Nrc::RequestSequenceError, "it is over");
    }
    assert_eq!(bench.server.content().lost, 1, "the content was told of the one that failed");
}

#[test]
fn the_block_counter_goes_from_ff_to_00() {
    let mut bench = Bench::new();
    bench.unlock();
    bench.ask(&[0x34, 0, 0x44, 0, 0, 0, 0, 0, 0, 1, 4]).unwrap();
    for counter in (1..=255).chain(0..=3) {
        assert_eq!(bench.ask(&[0x36, counter, 9]), Some(vec![0x76, counter]));
    }
    bench.ask(&[0x36, 4, 9]).unwrap();
    assert_eq!(bench.ask(&[0x37]), Some(vec![0x77]));
}

#[test]
fn a_download_is_refused_by_length_format_range_and_lock_in_this_order() {
    let mut bench = Bench::new();
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.nrc(&[0x34, 0, 0x44, 0]), Nrc::IncorrectMessageLengthOrInvalidFormat);
    assert_eq!(bench.nrc(&[0x34, 0, 0x40, 0, 0]), Nrc::RequestOutOfRange);
    assert_eq!(bench.nrc(&[0x34, 0, 0x44, 0, 0]), Nrc::IncorrectMessageLengthOrInvalidFormat);
    assert_eq!(bench.nrc(&[0x34, 0, 0x44, 0, 0, 0x10, 0, 0, 0, 0, 4]), Nrc::RequestOutOfRange);
    assert_eq!(bench.nrc(&[0x34, 0, 0x44, 0, 0, 0, 0, 0, 0, 0, 4]), Nrc::SecurityAccessDenied);
}

#[test]
fn any_session_change_locks_and_ends_a_protected_download() {
    let mut bench = Bench::new();
    bench.unlock();
    bench.open(4);
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.server.content().lost, 1);
    assert_eq!(bench.nrc(&[0x31, 0x01, 0xFF, 0x00]), Nrc::SecurityAccessDenied);
}

#[test]
fn wrong_keys_use_the_seed_up_and_lead_to_a_delay() {
    let mut bench = Bench::new();
    bench.ask(&[0x10, 0x03]).unwrap();
    assert_eq!(bench.nrc(&[0x27, 0x12, 1]), Nrc::RequestSequenceError);
    for expected in [Nrc::InvalidKey, Nrc::InvalidKey, Nrc::ExceededNumberOfAttempts] {
        bench.ask(&[0x27, 0x11]).unwrap();
        assert_eq!(bench.nrc(&[0x27, 0x12, 0]), expected);
        assert_eq!(bench.nrc(&[0x27, 0x12, 4, 3, 2, 1]), Nrc::RequestSequenceError);
    }
    assert_eq!(bench.nrc(&[0x27, 0x11]), Nrc::RequiredTimeDelayNotExpired);
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.nrc(&[0x27, 0x01]), Nrc::SubFunctionNotSupported);
    bench.unlock();
    assert_eq!(bench.ask(&[0x27, 0x11]), Some(vec![0x67, 0x11, 0, 0, 0, 0]), "open already");
}

#[test]
fn a_long_act_answers_pending_until_it_ends() {
    let mut bench = Bench::new();
    bench.unlock();
    assert_eq!(bench.ask(&[0x31, 0x81, 0xFF, 0x00]), None);
    assert_eq!(bench.server.poll_timeout(), Some(30 * MS));
    bench.server.handle_timeout(30 * MS);
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x31, 0x78]);
    assert_eq!(bench.nrc(&[0x22, 0xF1, 0x90]), Nrc::BusyRepeatRequest);
    assert_eq!(bench.ask(&[0x3E, 0x80]), None);
    let again = bench.server.poll_timeout().unwrap();
    assert!(again > 1530 * MS && again < 5030 * MS, "{again:?}");
    bench.server.handle_timeout(again);
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x31, 0x78]);
    bench.server.complete(again, Ok(vec![0]));
    let answer = bench.server.poll_transmit().unwrap().pdu;
    assert_eq!(answer, [0x71, 0x01, 0xFF, 0x00, 0], "suppressed, but sent because a 78 went before");
    assert_eq!(bench.server.poll_timeout(), Some(again + 5000 * MS), "S3 starts with the answer");
}

#[test]
fn a_slow_block_counts_only_when_it_is_written() {
    let mut bench = Bench::new();
    bench.unlock();
    bench.server.content_mut().slow_blocks = true;
    bench.open(4);
    assert_eq!(bench.ask(&[0x36, 1, 1, 2, 3, 4]), None);
    bench.server.complete(bench.now, Err(Nrc::GeneralProgrammingFailure));
    assert_eq!(bench.server.poll_transmit().unwrap().pdu, [0x7F, 0x36, 0x72]);
    assert_eq!(bench.nrc(&[0x37]), Nrc::RequestSequenceError);
}

#[test]
fn silence_ends_the_session_and_reset_starts_afresh() {
    let mut bench = Bench::new();
    bench.unlock();
    while bench.server.poll_event().is_some() {}
    bench.server.handle_timeout(4999 * MS);
    assert_eq!(bench.server.session(), SessionType::Programming);
    bench.server.handle_timeout(5000 * MS);
    assert_eq!(bench.server.poll_event(), Some(ServerEvent::Session { session: SessionType::Default, client: None }));
    assert_eq!(bench.server.poll_timeout(), None);
    bench.unlock();
    while bench.server.poll_event().is_some() {}
    assert_eq!(bench.nrc(&[0x11, 0x03]), Nrc::SubFunctionNotSupported);
    assert_eq!(bench.ask(&[0x11, 0x01]), Some(vec![0x51, 0x01]));
    assert_eq!(
        bench.server.poll_event(),
        Some(ServerEvent::Reset { reset: ResetType::Hard, client: ME, answered: true })
    );
    assert_eq!(bench.server.session(), SessionType::Default);
}

proptest::proptest! {
    #[test]
    fn no_bytes_upset_a_server_and_a_client_only_gets_responses(
        pdus in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..12), 1..40)
    ) {
        let mut bench = Bench::new();
        for pdu in pdus {
            bench.server.handle_input(bench.now, ME, Addressing::Physical, &pdu);
            bench.now += 7 * MS;
            bench.server.handle_timeout(bench.now);
            while let Some(transmit) = bench.server.poll_transmit() {
                proptest::prop_assert!(Response::decode(&transmit.pdu).is_ok(), "{:02X?}", transmit.pdu);
            }
        }
    }
}
