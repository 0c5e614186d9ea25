//! Tester and entity, alone and with each other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_doip::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const TESTER: LogicalAddress = LogicalAddress(0x0E80);
const GATEWAY: LogicalAddress = LogicalAddress(0x1001);
const TPMS: LogicalAddress = LogicalAddress(0x1010);
const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const C: ConnectionId = ConnectionId(3);

fn vehicle() -> VehicleAnnouncement {
    VehicleAnnouncement {
        vin: *b"WP0ZZZ99ZTS392124",
        address: GATEWAY,
        eid: [2, 0, 0, 0, 0, 1],
        gid: [2, 0, 0, 0, 0, 1],
        further_action: 0,
        sync_status: None,
    }
}

fn entity() -> Entity {
    Entity::new(EntitySettings::new(vehicle(), [TPMS]))
}

fn frame(message: Message) -> Vec<u8> {
    Frame::new(ProtocolVersion::V2019, message).encode()
}

fn activation(source: LogicalAddress) -> Vec<u8> {
    frame(Message::RoutingActivationRequest { source, activation_type: 1, oem: None })
}

/// The next message to a connection; it has the version of the request.
fn sent(entity: &mut Entity) -> Option<(ConnectionId, Message)> {
    let EntityTransmit { connection, bytes } = entity.poll_transmit()?;
    let frame = Frame::decode_datagram(&bytes, 1000).unwrap();
    assert_eq!(frame.version, ProtocolVersion::V2019);
    Some((connection, frame.message))
}

fn code(entity: &mut Entity, connection: ConnectionId) -> ActivationCode {
    match sent(entity) {
        Some((to, Message::RoutingActivationResponse { code, .. })) if to == connection => code,
        other => panic!("no activation response to {connection:?}: {other:?}"),
    }
}

fn active(entity: &mut Entity, connection: ConnectionId, tester: LogicalAddress) {
    entity.handle_connected(Duration::ZERO, connection);
    entity.handle_input(Duration::ZERO, connection, &activation(tester));
    assert_eq!(code(entity, connection), ActivationCode::Activated);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Activated { connection, tester }));
}

#[test]
fn a_tester_talks_to_an_ecu_behind_the_gateway() {
    let mut entity = entity();
    entity.handle_connected(Duration::ZERO, A);
    let mut tester = Tester::new(Duration::ZERO, TesterSettings::new(TESTER));
    assert_eq!(tester.send(MS, TPMS, &[0x3E, 0]), Err(SendRefused::NotActive));
    exchange(&mut tester, &mut entity);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Activated { entity: GATEWAY }));
    tester.send(MS, TPMS, &[0x3E, 0]).unwrap();
    assert_eq!(tester.send(MS, TPMS, &[0x3E, 0]), Err(SendRefused::UnderWay));
    exchange(&mut tester, &mut entity);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Acknowledged));
    entity.poll_event().unwrap();
    let received = EntityEvent::Received { connection: A, source: TESTER, target: TPMS, data: vec![0x3E, 0] };
    assert_eq!(entity.poll_event(), Some(received));
    entity.send(MS, A, TPMS, vec![0x7E, 0]).unwrap();
    exchange(&mut tester, &mut entity);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Received { source: TPMS, data: vec![0x7E, 0] }));
}

fn exchange(tester: &mut Tester, entity: &mut Entity) {
    while let Some(bytes) = tester.poll_transmit() {
        entity.handle_input(MS, A, &bytes);
    }
    while let Some(EntityTransmit { bytes, .. }) = entity.poll_transmit() {
        tester.handle_input(&bytes);
    }
}

#[test]
fn an_unknown_target_is_refused_and_the_connection_stays() {
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    let target = LogicalAddress(0x1099);
    entity.handle_input(MS, A, &frame(Message::Diagnostic { source: TESTER, target, data: vec![0x3E, 0] }));
    let (_, message) = sent(&mut entity).unwrap();
    assert!(matches!(message, Message::DiagnosticNack { code: DiagnosticNackCode::UnknownTarget, .. }));
    assert_eq!(entity.poll_event(), None);
}

#[test]
fn a_message_before_activation_or_from_another_source_closes() {
    for activated in [false, true] {
        let mut entity = entity();
        if activated {
            active(&mut entity, A, TESTER);
        } else {
            entity.handle_connected(Duration::ZERO, A);
        }
        let source = LogicalAddress(0x0E81);
        entity.handle_input(MS, A, &frame(Message::Diagnostic { source, target: GATEWAY, data: vec![0x3E, 0] }));
        let (_, message) = sent(&mut entity).unwrap();
        assert!(matches!(message, Message::DiagnosticNack { code: DiagnosticNackCode::InvalidSource, .. }));
        assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
        assert_eq!(entity.send(MS, A, GATEWAY, vec![0x7E]), Err(NotRouted { connection: A }));
    }
}

#[test]
fn activation_is_refused_by_source_type_and_second_source() {
    let mut entity = entity();
    entity.handle_connected(Duration::ZERO, A);
    entity.handle_input(MS, A, &activation(LogicalAddress(0x1234)));
    assert_eq!(code(&mut entity, A), ActivationCode::UnknownSource);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
    entity.handle_connected(Duration::ZERO, A);
    entity.handle_input(
        MS,
        A,
        &frame(Message::RoutingActivationRequest { source: TESTER, activation_type: 0xE0, oem: None }),
    );
    assert_eq!(code(&mut entity, A), ActivationCode::UnsupportedType);
    entity.poll_event();
    active(&mut entity, A, TESTER);
    entity.handle_input(MS, A, &activation(TESTER));
    assert_eq!(code(&mut entity, A), ActivationCode::Activated);
    entity.handle_input(MS, A, &activation(LogicalAddress(0x0E81)));
    assert_eq!(code(&mut entity, A), ActivationCode::OtherSourceOnSocket);
}

#[test]
fn a_second_socket_with_the_same_source_is_denied_while_the_first_is_alive() {
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    entity.handle_connected(MS, B);
    entity.handle_input(MS, B, &activation(TESTER));
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    entity.handle_input(100 * MS, A, &frame(Message::AliveCheckResponse { source: TESTER }));
    assert_eq!(code(&mut entity, B), ActivationCode::SourceActiveElsewhere);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: B }));
}

#[test]
fn a_second_socket_with_the_same_source_takes_over_from_a_silent_one() {
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    entity.handle_connected(MS, B);
    entity.handle_input(MS, B, &activation(TESTER));
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    assert_eq!(entity.poll_timeout(), Some(501 * MS));
    entity.handle_timeout(501 * MS);
    assert_eq!(code(&mut entity, B), ActivationCode::Activated);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
}

#[test]
fn of_two_sockets_that_wait_for_one_source_only_the_first_is_activated() {
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    for (connection, at) in [(B, MS), (C, 300 * MS)] {
        entity.handle_connected(at, connection);
        entity.handle_input(at, connection, &activation(TESTER));
    }
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    assert_eq!(sent(&mut entity), None, "it is asked once");
    assert_eq!(entity.poll_timeout(), Some(501 * MS), "and has no more time because another waits too");
    entity.handle_timeout(501 * MS);
    assert_eq!(code(&mut entity, B), ActivationCode::Activated);
    assert_eq!(sent(&mut entity), Some((B, Message::AliveCheckRequest)));
    entity.handle_input(502 * MS, B, &frame(Message::AliveCheckResponse { source: TESTER }));
    assert_eq!(code(&mut entity, C), ActivationCode::SourceActiveElsewhere);
    assert_eq!(entity.waiting(), 0);
}

#[test]
fn one_free_place_is_given_to_one_of_those_who_wait() {
    let mut settings = EntitySettings::new(vehicle(), []);
    settings.max_testers = 1;
    let mut entity = Entity::new(settings);
    active(&mut entity, A, TESTER);
    for (connection, source) in [(B, LogicalAddress(0x0E81)), (C, LogicalAddress(0x0E82))] {
        entity.handle_connected(MS, connection);
        entity.handle_input(MS, connection, &activation(source));
    }
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    entity.handle_closed(2 * MS, A);
    assert_eq!(code(&mut entity, B), ActivationCode::Activated);
    assert_eq!(sent(&mut entity), Some((B, Message::AliveCheckRequest)));
    entity.handle_input(3 * MS, B, &frame(Message::AliveCheckResponse { source: LogicalAddress(0x0E81) }));
    assert_eq!(code(&mut entity, C), ActivationCode::NoSocketFree);
}

#[test]
fn a_socket_that_waits_is_answered_once_and_not_for_two_sources() {
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    entity.handle_connected(MS, B);
    entity.handle_input(MS, B, &activation(TESTER).repeat(3));
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    assert_eq!((sent(&mut entity), entity.waiting()), (None, 1));
    entity.handle_input(2 * MS, B, &activation(LogicalAddress(0x0E81)));
    assert_eq!(code(&mut entity, B), ActivationCode::OtherSourceOnSocket);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: B }));
    assert_eq!(entity.waiting(), 0);
    entity.handle_input(3 * MS, A, &frame(Message::AliveCheckResponse { source: TESTER }));
    assert_eq!(sent(&mut entity), None);
}

#[test]
fn what_is_sent_keeps_a_connection_as_what_is_received_does() {
    let seconds = Duration::from_secs;
    let mut entity = entity();
    active(&mut entity, A, TESTER);
    entity.send(seconds(200), A, GATEWAY, vec![0x7F, 0x31, 0x78]).unwrap();
    entity.handle_timeout(seconds(499));
    assert_eq!(entity.poll_event(), None);
    entity.handle_timeout(seconds(500));
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
}

#[test]
fn silence_closes_after_two_seconds_without_and_five_minutes_with_activation() {
    let mut entity = entity();
    entity.handle_connected(Duration::ZERO, A);
    entity.handle_input(1000 * MS, A, &[0x02]);
    entity.handle_timeout(1999 * MS);
    assert_eq!(entity.poll_event(), None);
    entity.handle_timeout(2000 * MS);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
    active(&mut entity, B, TESTER);
    assert_eq!(entity.poll_timeout(), Some(Duration::from_secs(300)));
}

#[test]
fn a_full_table_denies_when_all_are_alive() {
    let mut settings = EntitySettings::new(vehicle(), []);
    settings.max_testers = 1;
    let mut entity = Entity::new(settings);
    active(&mut entity, A, TESTER);
    entity.handle_connected(MS, B);
    entity.handle_input(MS, B, &activation(LogicalAddress(0x0E81)));
    assert_eq!(sent(&mut entity), Some((A, Message::AliveCheckRequest)));
    entity.handle_input(2 * MS, A, &frame(Message::AliveCheckResponse { source: TESTER }));
    assert_eq!(code(&mut entity, B), ActivationCode::NoSocketFree);
}

#[test]
fn a_malformed_header_is_answered_and_closes() {
    let mut entity = entity();
    entity.handle_connected(Duration::ZERO, A);
    entity.handle_input(MS, A, b"GET / HTTP/1.1\r\n");
    let transmit = entity.poll_transmit().unwrap();
    assert_eq!(transmit.bytes, [0x02, 0xFD, 0, 0, 0, 0, 0, 1, 0x00]);
    assert_eq!(entity.poll_event(), Some(EntityEvent::Close { connection: A }));
}

#[test]
fn no_answer_has_the_version_that_only_requests_have() {
    // An unknown type, a payload that is too long, and a message that has no place on TCP, each with version FF.
    for (header, nack) in [([0x99, 0x99, 0, 0, 0, 0], 0x01), ([0, 1, 0xFF, 0, 0, 0], 0x02), ([0, 1, 0, 0, 0, 0], 0x01)]
    {
        let mut entity = entity();
        entity.handle_connected(Duration::ZERO, A);
        entity.handle_input(MS, A, &[&[0xFF, 0x00][..], &header].concat());
        assert_eq!(entity.poll_transmit().unwrap().bytes, [0x02, 0xFD, 0, 0, 0, 0, 0, 1, nack]);
    }
}

#[test]
fn udp_answers_identification_status_and_power_mode_and_nothing_else() {
    let entity = entity();
    let ask = |message| entity.handle_datagram(&frame(message));
    let announcement = frame(Message::Announcement(vehicle()));
    assert_eq!(ask(Message::VehicleIdRequest).as_ref(), Some(&announcement));
    assert_eq!(ask(Message::VehicleIdRequestByVin(*b"WP0ZZZ99ZTS392124")).as_ref(), Some(&announcement));
    assert_eq!(ask(Message::VehicleIdRequestByVin([b'X'; 17])), None);
    assert_eq!(ask(Message::VehicleIdRequestByEid([9; 6])), None);
    assert_eq!(ask(Message::PowerModeRequest), Some(frame(Message::PowerModeResponse(1))));
    assert_eq!(ask(Message::HeaderNack(HeaderNack::OutOfMemory)), None);
    let nack = Some(frame(Message::HeaderNack(HeaderNack::UnknownPayloadType)));
    assert_eq!(entity.handle_datagram(&activation(TESTER)), nack);
    let any_version = Frame::new(ProtocolVersion::Default, Message::VehicleIdRequest).encode();
    assert_eq!(entity.handle_datagram(&any_version), Some(entity.announcement()));
}

#[test]
fn a_datagram_of_a_type_that_belongs_on_tcp_has_an_unknown_type() {
    let entity = entity();
    let nack = Some(frame(Message::HeaderNack(HeaderNack::UnknownPayloadType)));
    for kind in [0x0005_u16, 0x0006, 0x0007, 0x0008, 0x8001, 0x8002, 0x8003] {
        let [high, low] = kind.to_be_bytes();
        for length in [0, 2, 9] {
            let datagram = [&[0x03, 0xFC, high, low, 0, 0, 0, length][..], &vec![0; usize::from(length)]].concat();
            assert_eq!(entity.handle_datagram(&datagram), nack, "{kind:04X}, {length} bytes");
        }
    }
    let status = Message::EntityStatusResponse { node_type: 0, max_sockets: 1, open_sockets: 0, max_data_size: None };
    for ours in [Message::Announcement(vehicle()), status, Message::PowerModeResponse(1)] {
        assert_eq!(entity.handle_datagram(&frame(ours)), None);
    }
}

#[test]
fn a_refused_datagram_is_answered_in_its_own_version() {
    let entity = entity();
    let refused = |datagram: &[u8]| entity.handle_datagram(datagram).unwrap();
    let invalid_length = [0x03, 0xFC, 0, 0, 0, 0, 0, 1, 0x04];
    // One byte more than the header says, one less, and a header that is cut.
    assert_eq!(refused(&[0x03, 0xFC, 0x00, 0x01, 0, 0, 0, 0, 9]), invalid_length);
    assert_eq!(refused(&[0x03, 0xFC, 0x00, 0x02, 0, 0, 0, 6, 1, 2, 3, 4, 5]), invalid_length);
    assert_eq!(refused(&[0x03, 0xFC, 0x00, 0x01]), invalid_length);
    assert_eq!(refused(&[0x03, 0x03, 0x00, 0x01])[..2], [0x02, 0xFD], "the inverse is wrong");
    assert_eq!(refused(&[0x09, 0xF6, 0x00, 0x01, 0, 0, 0, 0])[..2], [0x02, 0xFD], "no such version");
}

/// What may happen to an entity's connections.
#[derive(Debug, Clone)]
enum Happening {
    Connected(usize),
    Activation(usize, u16),
    Alive(usize),
    Closed(usize),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..5_usize).prop_map(Happening::Connected),
        6 => (0..5_usize, 0x0E80..0x0E83_u16).prop_map(|(place, source)| Happening::Activation(place, source)),
        1 => (0..5_usize).prop_map(Happening::Alive),
        1 => (0..5_usize).prop_map(Happening::Closed),
        2 => (0..700_u64).prop_map(Happening::Wait),
    ]
}

proptest! {
    /// Whoever connects, asks, answers and leaves: no address is active twice, there are never more testers than places, and each
    /// connection waits for one answer at most.
    #[test]
    fn an_address_is_active_on_one_connection(happenings in prop::collection::vec(happening(), 0..80)) {
        let settings = EntitySettings { max_testers: 2, ..EntitySettings::new(vehicle(), []) };
        let (mut entity, mut now, mut next) = (Entity::new(settings), Duration::ZERO, 0);
        // A number is not used again, a place is.
        let mut open: BTreeMap<usize, ConnectionId> = BTreeMap::new();
        let mut active: BTreeMap<ConnectionId, LogicalAddress> = BTreeMap::new();
        for happening in happenings {
            let message = match happening {
                Happening::Connected(place) if !open.contains_key(&place) => {
                    open.insert(place, ConnectionId(next));
                    entity.handle_connected(now, ConnectionId(next));
                    next += 1;
                    None
                }
                Happening::Connected(_) => None,
                Happening::Activation(place, source) => Some((place, activation(LogicalAddress(source)))),
                Happening::Alive(place) => {
                    Some((place, frame(Message::AliveCheckResponse { source: LogicalAddress(0x0E80) })))
                }
                Happening::Closed(place) => {
                    if let Some(id) = open.remove(&place) {
                        active.remove(&id);
                        entity.handle_closed(now, id);
                    }
                    None
                }
                Happening::Wait(time) => {
                    now += Duration::from_millis(time);
                    entity.handle_timeout(now);
                    None
                }
            };
            if let Some((id, bytes)) = message.and_then(|(place, bytes)| Some((*open.get(&place)?, bytes))) {
                entity.handle_input(now, id, &bytes);
            }
            while let Some(event) = entity.poll_event() {
                match event {
                    EntityEvent::Activated { connection, tester } => {
                        active.insert(connection, tester);
                        let same = active.values().filter(|address| **address == tester).count();
                        prop_assert_eq!(same, 1, "{}", tester);
                    }
                    EntityEvent::Close { connection } => {
                        active.remove(&connection);
                        open.retain(|_, id| *id != connection);
                    }
                    EntityEvent::Received { .. } => {}
                }
            }
            prop_assert!(active.len() <= 2 && entity.waiting() <= open.len(), "{active:?}, {}", entity.waiting());
        }
    }
}

#[test]
fn a_tester_gives_up_when_nobody_activates_or_acknowledges() {
    let mut tester = Tester::new(Duration::ZERO, TesterSettings::new(TESTER));
    tester.handle_timeout(2000 * MS);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Failed(TesterError::NoActivation)));
    let mut tester = Tester::new(Duration::ZERO, TesterSettings::new(TESTER));
    let code = ActivationCode::Activated;
    tester.handle_input(&frame(Message::RoutingActivationResponse {
        tester: TESTER,
        entity: GATEWAY,
        code,
        oem: None,
    }));
    tester.poll_event().unwrap();
    tester.send(MS, GATEWAY, &[0x3E, 0]).unwrap();
    tester.handle_timeout(2001 * MS);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Failed(TesterError::NoAck)));
}

#[test]
fn a_tester_takes_only_full_activation_for_one() {
    let answer = |code| Message::RoutingActivationResponse { tester: TESTER, entity: GATEWAY, code, oem: None };
    let mut tester = Tester::new(Duration::ZERO, TesterSettings::new(TESTER));
    tester.handle_input(&frame(answer(ActivationCode::ActivatedAfterConfirmation)));
    assert_eq!(tester.poll_event(), None, "somebody in the vehicle has to confirm first");
    assert_eq!(tester.send(MS, GATEWAY, &[0x3E, 0]), Err(SendRefused::NotActive));
    tester.handle_input(&frame(answer(ActivationCode::SourceActiveElsewhere)));
    let refused = TesterError::ActivationRefused(ActivationCode::SourceActiveElsewhere);
    assert_eq!(tester.poll_event(), Some(TesterEvent::Failed(refused)));
}
