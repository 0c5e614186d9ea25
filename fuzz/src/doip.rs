use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_doip::*;

use crate::script::{script, steps};

const TESTER: LogicalAddress = LogicalAddress(0x0E80);
const GATEWAY: LogicalAddress = LogicalAddress(0x1001);
/// Longest payload taken, in bytes.
const LONGEST: u32 = 300;

fn items(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<StreamItem> {
    let (mut decoder, mut found) = (StreamDecoder::new(LONGEST), Vec::new());
    for piece in pieces {
        decoder.push(&piece);
        found.extend(std::iter::from_fn(|| decoder.next_item()));
        assert!(decoder.buffered() <= 8 + LONGEST as usize, "more is kept than the longest message has");
    }
    found
}

/// A TCP stream says the same however it is cut; a datagram says the same as a stream that ends with it.
pub fn stream(data: &[u8]) {
    let whole = items(data.chunks(256).map(<[u8]>::to_vec));
    assert_eq!(whole, items(data.iter().map(|byte| vec![*byte])));
    for item in &whole {
        if let StreamItem::Frame(frame) = item {
            let bytes = frame.encode();
            assert_eq!(
                items(std::iter::once(bytes)),
                std::slice::from_ref(item),
                "written and read again it is another"
            );
        }
    }
    let settings = TesterSettings { source: TESTER, max_length: LONGEST, ..TesterSettings::new(TESTER) };
    let mut tester = Tester::new(Duration::ZERO, settings);
    for piece in data.chunks(13) {
        tester.handle_input(piece);
        let _ = tester.send(Duration::from_secs(1), GATEWAY, &[0x3E, 0x00]);
        while tester.poll_event().is_some() {}
        while tester.poll_transmit().is_some() {}
    }
    tester.handle_timeout(Duration::from_secs(60));
}

fn messages() -> Vec<Message> {
    vec![
        Message::RoutingActivationRequest { source: TESTER, activation_type: 0, oem: None },
        Message::RoutingActivationResponse { tester: TESTER, entity: GATEWAY, code: 0x10.into(), oem: Some([0; 4]) },
        Message::Diagnostic { source: TESTER, target: GATEWAY, data: vec![0x22, 0xF1, 0x90] },
        Message::DiagnosticAck { source: GATEWAY, target: TESTER, code: 0, copy: vec![0x22] },
        Message::AliveCheckRequest,
        Message::VehicleIdRequest,
    ]
}

fn encoded(message: Message) -> Vec<u8> {
    Frame::new(ProtocolVersion::V2012, message).encode()
}

pub fn stream_seeds() -> Vec<Vec<u8>> {
    vec![messages().into_iter().flat_map(encoded).collect(), encoded(Message::AliveCheckResponse { source: TESTER })]
}

/// Connections with active routing, and whose.
type Active = BTreeMap<ConnectionId, LogicalAddress>;

/// What the owner does after every input. No address is active twice.
fn drain(entity: &mut Entity, open: &mut [bool; 4], active: &mut Active) {
    while let Some(transmit) = entity.poll_transmit() {
        let said = items(std::iter::once(transmit.bytes));
        assert!(matches!(said.as_slice(), [StreamItem::Frame(_)]), "it sends one message that can be read: {said:?}");
    }
    while let Some(event) = entity.poll_event() {
        match event {
            EntityEvent::Close { connection } => {
                open[connection.0 as usize] = false;
                active.remove(&connection);
            }
            EntityEvent::Activated { connection, tester } => {
                active.insert(connection, tester);
                let same = active.values().filter(|address| **address == tester).count();
                assert_eq!(same, 1, "{tester} is active twice");
            }
            EntityEvent::Received { .. } => {}
        }
    }
}

/// Four connections that anybody may open, use and leave.
pub fn entity(data: &[u8]) {
    let vehicle = VehicleAnnouncement {
        vin: *b"WP0ZZZ99ZTS392124",
        address: GATEWAY,
        eid: [2; 6],
        gid: [0; 6],
        further_action: 0,
        sync_status: None,
    };
    let settings = EntitySettings {
        max_testers: 2,
        max_length: LONGEST,
        ..EntitySettings::new(vehicle, [LogicalAddress(0x1002)])
    };
    let (mut entity, mut now, mut open) = (Entity::new(settings), Duration::ZERO, [false; 4]);
    let mut active = Active::new();
    for step in steps(data) {
        now += step.pause;
        entity.handle_timeout(now);
        drain(&mut entity, &mut open, &mut active);
        let (slot, what) = (usize::from(step.kind & 3), step.kind >> 2);
        let id = ConnectionId(slot as u64);
        match what % 6 {
            0 if !open[slot] => (entity.handle_connected(now, id), open[slot] = true).0,
            0..=2 => entity.handle_input(now, id, step.bytes),
            3 => {
                entity.handle_closed(now, id);
                (open[slot], _) = (false, active.remove(&id));
            }
            4 => drop(entity.handle_datagram(step.bytes)),
            // An ECU's answer has a byte at least: the link under it knows no empty messages.
            _ => drop(entity.send(now, id, GATEWAY, [&[0x7E], step.bytes].concat())),
        }
        drain(&mut entity, &mut open, &mut active);
        let connections = open.iter().filter(|open| **open).count();
        assert!(active.len() <= 2 && entity.waiting() <= connections, "more are active or wait than there are places");
        entity.handle_timeout(now);
        assert!(
            entity.poll_timeout().is_none_or(|at| at > now),
            "a time that has passed would be waited for in a circle"
        );
    }
}

pub fn entity_seeds() -> Vec<Vec<u8>> {
    let [activate, uds, alive] = [0, 2, 4].map(|at| encoded(messages().swap_remove(at)));
    vec![
        script(&[(0, 0, &[]), (4, 0, &activate), (8, 1, &uds), (20, 1, &[0x62, 1]), (12, 0, &[])]),
        script(&[
            (0, 0, &[]),
            (4, 0, &activate),
            (1, 0, &[]),
            (5, 0, &activate),
            (4, 60, &alive),
            (16, 0, &encoded(Message::VehicleIdRequest)),
        ]),
    ]
}
