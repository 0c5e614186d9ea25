//! Tester and entity, alone and with each other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

use std::time::Duration;

use pitstop_doip::*;

const MS: Duration = Duration::from_millis(1);
const TESTER: LogicalAddress = LogicalAddress(0x0E80);
const GATEWAY: LogicalAddress = LogicalAddress(0x1001);
const TPMS: LogicalAddress = LogicalAddress(0x1010);
const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

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
    entity.send(A, TPMS, vec![0x7E, 0]).unwrap();
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
        assert_eq!(entity.send(A, GATEWAY, vec![0x7E]), Err(NotRouted { connection: A }));
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
