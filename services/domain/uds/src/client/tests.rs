use super::*;
use crate::{Did, RoutineAction, RoutineId, SessionType};

const MS: Duration = Duration::from_millis(1);

fn session() -> ClientSession {
    ClientSession::new(ClientTiming { margin: Duration::ZERO, ..ClientTiming::default() })
}

fn read_version() -> Request {
    Request::ReadDataByIdentifier { dids: vec![Did::ECU_SOFTWARE_VERSION] }
}

fn started(request: &Request, limits: StepLimits) -> ClientSession {
    let mut session = session();
    session.request(Duration::ZERO, request, limits).unwrap();
    session.poll_transmit().unwrap();
    session.handle_sent(Duration::ZERO);
    session
}

#[test]
fn a_positive_answer_ends_the_request() {
    let mut session = started(&read_version(), StepLimits::for_request(&read_version()));
    session.handle_input(10 * MS, b"\x62\xF1\x891.4.0");
    let Some(ClientEvent::Response(response)) = session.poll_event() else { panic!("no response") };
    assert_eq!(response.value_of(Did::ECU_SOFTWARE_VERSION), Some(b"1.4.0".as_slice()));
    assert!(session.is_idle());
}

#[test]
fn silence_is_answered_by_the_same_request_and_then_by_failure() {
    let mut session = started(&read_version(), StepLimits { total: 1000 * MS, repeats: 1 });
    assert_eq!(session.poll_timeout(), Some(50 * MS));
    session.handle_timeout(50 * MS);
    assert_eq!(session.poll_transmit().unwrap().pdu, [0x22, 0xF1, 0x89]);
    session.handle_sent(51 * MS);
    session.handle_timeout(101 * MS);
    let error = ClientError::NoAnswer { service: ServiceId::ReadDataByIdentifier, times: 2 };
    assert_eq!(session.poll_event(), Some(ClientEvent::Failed(error)));
}

#[test]
fn pending_extends_the_wait_but_not_beyond_the_steps_limit() {
    let erase =
        Request::RoutineControl { action: RoutineAction::Start, routine: RoutineId::ERASE_MEMORY, option: vec![] };
    let mut session = started(&erase, StepLimits { total: 7000 * MS, repeats: 0 });
    session.handle_input(40 * MS, &[0x7F, 0x31, 0x78]);
    assert_eq!(session.poll_timeout(), Some(5040 * MS));
    session.handle_input(4000 * MS, &[0x7F, 0x31, 0x78]);
    assert_eq!(session.poll_timeout(), Some(7000 * MS));
    session.handle_timeout(7000 * MS);
    assert_eq!(session.poll_event(), Some(ClientEvent::Pending { count: 1 }));
    assert_eq!(session.poll_event(), Some(ClientEvent::Pending { count: 2 }));
    let error = ClientError::PendingTooLong { service: ServiceId::RoutineControl, limit: 7000 * MS };
    assert_eq!(session.poll_event(), Some(ClientEvent::Failed(error)));
}

#[test]
fn busy_repeats_after_a_pause_until_the_limit() {
    let mut session = started(&read_version(), StepLimits { total: 250 * MS, repeats: 0 });
    session.handle_input(10 * MS, &[0x7F, 0x22, 0x21]);
    session.handle_timeout(210 * MS);
    assert!(session.poll_transmit().is_some());
    session.handle_sent(210 * MS);
    session.handle_input(220 * MS, &[0x7F, 0x22, 0x21]);
    let error = ClientError::BusyTooLong { service: ServiceId::ReadDataByIdentifier, limit: 250 * MS };
    assert_eq!(session.poll_event(), Some(ClientEvent::Failed(error)));
}

#[test]
fn answers_to_something_else_are_ignored() {
    let block = Request::TransferData { counter: 2, data: vec![1] };
    let mut session = started(&block, StepLimits::for_request(&block));
    for late in [&[0x76, 1][..], &[0x7F, 0x3E, 0x11], &[0x62, 0xF1, 0x89], &[], &[0x7F]] {
        session.handle_input(MS, late);
    }
    assert_eq!(session.poll_event(), None);
    session.handle_input(2 * MS, &[0x76, 2]);
    assert_eq!(session.poll_event(), Some(ClientEvent::Response(Response::TransferData { counter: 2, data: vec![] })));
}

#[test]
fn a_session_takes_the_servers_timing() {
    let extended = Request::DiagnosticSessionControl { session: SessionType::Extended };
    let mut session = started(&extended, StepLimits::for_request(&extended));
    session.handle_input(MS, &[0x50, 0x03, 0x00, 0xC8, 0x01, 0xF4]);
    session.request(MS, &read_version(), StepLimits { total: 1000 * MS, repeats: 0 }).unwrap();
    session.poll_transmit().unwrap();
    session.handle_sent(MS);
    assert_eq!(session.poll_timeout(), Some(201 * MS));
}

#[test]
fn an_idle_session_is_kept_alive_only_when_asked() {
    let mut session = session();
    assert_eq!(session.poll_timeout(), None);
    session.keep_alive(true);
    session.handle_timeout(1999 * MS);
    assert_eq!(session.poll_transmit(), None);
    session.handle_timeout(2000 * MS);
    assert_eq!(session.poll_transmit().unwrap().pdu, [0x3E, 0x80]);
    assert_eq!(session.poll_timeout(), Some(4000 * MS));
    for later in [4000, 6000, 8000] {
        session.handle_timeout(later * MS);
    }
    assert!(
        session.poll_transmit().is_some() && session.poll_transmit().is_none(),
        "the link took none: one is enough"
    );
}

#[test]
fn a_tester_present_that_is_still_queued_gives_way_to_the_next_request() {
    let mut session = session();
    session.keep_alive(true);
    session.handle_timeout(2000 * MS);
    let block = Request::TransferData { counter: 1, data: vec![0; 100] };
    session.request(2100 * MS, &block, StepLimits { total: 5000 * MS, repeats: 0 }).unwrap();
    assert_eq!(session.poll_transmit().unwrap().pdu.first(), Some(&0x36));
    assert_eq!(session.poll_transmit(), None);
    assert_eq!(session.poll_timeout(), Some(7100 * MS), "P2 waits for the request's own end of sending");
    session.handle_sent(6000 * MS);
    assert_eq!(session.poll_timeout(), Some(6050 * MS));
}

#[test]
fn a_refused_request_takes_nothing_from_the_one_under_way() {
    let mut session = session();
    let limits = StepLimits::for_request(&read_version());
    session.request(Duration::ZERO, &read_version(), limits).unwrap();
    assert_eq!(session.request(MS, &read_version(), limits), Err(RequestRefused::UnderWay));
    assert_eq!(session.poll_transmit().unwrap().pdu, [0x22, 0xF1, 0x89]);
}

#[test]
fn a_session_that_idles_in_short_turns_is_kept_alive_every_s3client() {
    let mut session = session();
    let mut sent = Vec::new();
    for turn in 1..=100 {
        session.keep_alive(true);
        session.handle_timeout(turn * 100 * MS);
        sent.extend(session.poll_transmit().map(|transmit| (turn * 100, transmit.pdu)));
        session.keep_alive(false);
    }
    assert_eq!(sent, [2000, 4000, 6000, 8000, 10_000].map(|at| (at, vec![0x3E, 0x80])));
}

#[test]
fn a_request_that_never_gets_out_fails_with_the_link() {
    let mut session = session();
    session.request(Duration::ZERO, &read_version(), StepLimits { total: 1000 * MS, repeats: 2 }).unwrap();
    assert_eq!(session.poll_timeout(), Some(1000 * MS));
    session.handle_timeout(999 * MS);
    assert_eq!(session.poll_event(), None);
    session.handle_timeout(1000 * MS);
    let error = ClientError::LinkLost { service: ServiceId::ReadDataByIdentifier };
    assert_eq!(session.poll_event(), Some(ClientEvent::Failed(error)));
    assert_eq!(session.poll_transmit(), None, "what nobody sent is not left over");
}

#[test]
fn a_functional_request_is_complete_once_what_was_pending_has_come() {
    let off = Request::ControlDtcSetting { setting: 2, option: vec![] };
    let functional = || {
        let mut session = session();
        let pdu = off.encode_suppressing().unwrap();
        session.start(Duration::ZERO, pdu, Addressing::Functional, StepLimits::for_request(&off)).unwrap();
        session.poll_transmit().unwrap();
        session.handle_sent(Duration::ZERO);
        session.handle_input(10 * MS, &[0x7F, 0x85, 0x78]);
        assert_eq!(session.poll_event(), Some(ClientEvent::Pending { count: 1 }));
        session
    };
    let mut answered = functional();
    answered.handle_input(500 * MS, &[0xC5, 0x02]);
    assert!(matches!(answered.poll_event(), Some(ClientEvent::Response(Response::ControlDtcSetting { .. }))));
    answered.handle_timeout(5010 * MS);
    assert_eq!(answered.poll_event(), Some(ClientEvent::Silent));
    let mut silent = functional();
    silent.handle_timeout(5010 * MS);
    let error = ClientError::NoAnswer { service: ServiceId::ControlDtcSetting, times: 1 };
    assert_eq!(silent.poll_event(), Some(ClientEvent::Failed(error)));
}

#[test]
fn a_suppressed_request_ends_silently() {
    let mut session = session();
    let off = Request::ControlDtcSetting { setting: 2, option: vec![] };
    let pdu = off.encode_suppressing().unwrap();
    assert_eq!(pdu, [0x85, 0x82]);
    session.start(Duration::ZERO, pdu, Addressing::Functional, StepLimits::for_request(&off)).unwrap();
    assert_eq!(session.poll_transmit().unwrap().addressing, Addressing::Functional);
    session.handle_sent(Duration::ZERO);
    session.handle_timeout(50 * MS);
    assert_eq!(session.poll_event(), Some(ClientEvent::Silent));
    assert!(session.is_idle());
}

#[test]
fn losing_the_link_fails_the_request_and_one_at_a_time_holds() {
    let mut session = started(&read_version(), StepLimits::for_request(&read_version()));
    let refused = session.request(MS, &read_version(), StepLimits::for_request(&read_version()));
    assert_eq!(refused, Err(RequestRefused::UnderWay));
    session.handle_lost();
    let error = ClientError::LinkLost { service: ServiceId::ReadDataByIdentifier };
    assert_eq!(session.poll_event(), Some(ClientEvent::Failed(error)));
}
