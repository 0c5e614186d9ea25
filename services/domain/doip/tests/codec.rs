//! Messages against bytes written by hand, and by property.

use pitstop_doip::*;
use proptest::prelude::*;

const TESTER: LogicalAddress = LogicalAddress(0x0E80);
const GATEWAY: LogicalAddress = LogicalAddress(0x1001);

#[test]
fn messages_have_the_standards_bytes() {
    let request = Message::RoutingActivationRequest { source: TESTER, activation_type: 0, oem: None };
    let bytes = [0x02, 0xFD, 0x00, 0x05, 0, 0, 0, 7, 0x0E, 0x80, 0, 0, 0, 0, 0];
    assert_eq!(Frame::new(ProtocolVersion::V2012, request.clone()).encode(), bytes);
    assert_eq!(Frame::decode_datagram(&bytes, 100).unwrap().message, request);
    let uds = Message::Diagnostic { source: TESTER, target: GATEWAY, data: vec![0x3E, 0x00] };
    let bytes = [0x03, 0xFC, 0x80, 0x01, 0, 0, 0, 6, 0x0E, 0x80, 0x10, 0x01, 0x3E, 0x00];
    assert_eq!(Frame::new(ProtocolVersion::V2019, uds).encode(), bytes);
}

fn rejections(bytes: &[u8]) -> Vec<(HeaderNack, bool)> {
    let mut decoder = StreamDecoder::new(64);
    decoder.push(bytes);
    let mut out = vec![];
    while let Some(item) = decoder.next_item() {
        if let StreamItem::Rejected(rejected) = item {
            out.push((rejected.nack, rejected.close));
        }
    }
    out
}

#[test]
fn headers_are_checked_in_the_standards_order() {
    assert_eq!(rejections(&[0x02, 0x02, 0x99, 0x99, 0xFF, 0xFF, 0xFF, 0xFF]), [(HeaderNack::IncorrectPattern, true)]);
    assert_eq!(rejections(&[0x04, 0xFB, 0x80, 0x01, 0, 0, 0, 6]), [(HeaderNack::IncorrectPattern, true)]);
    assert_eq!(rejections(&[0xFF, 0x00, 0x80, 0x01, 0, 0, 0, 6]), [(HeaderNack::IncorrectPattern, true)]);
    assert_eq!(rejections(&[0x02, 0xFD, 0x99, 0x99, 0xFF, 0, 0, 0]), [(HeaderNack::UnknownPayloadType, false)]);
    assert_eq!(rejections(&[0x02, 0xFD, 0x80, 0x01, 0, 0, 0, 65]), [(HeaderNack::MessageTooLarge, false)]);
    assert_eq!(rejections(&[0x02, 0xFD, 0x00, 0x05, 0, 0, 0, 6]), [(HeaderNack::InvalidLength, true)]);
    assert_eq!(
        rejections(&[0x02, 0xFD, 0x00, 0x05, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        [(HeaderNack::InvalidLength, true)]
    );
}

#[test]
fn a_message_that_is_too_long_is_skipped_without_being_stored() {
    let mut decoder = StreamDecoder::new(64);
    decoder.push(&[0x02, 0xFD, 0x80, 0x01, 0x00, 0x01, 0x00, 0x00]);
    assert!(matches!(decoder.next_item(), Some(StreamItem::Rejected(_))));
    for _ in 0..0x100 {
        decoder.push(&[0xAA; 0x100]);
        assert_eq!(decoder.buffered(), 0);
    }
    decoder.push(&Frame::new(ProtocolVersion::V2012, Message::AliveCheckRequest).encode());
    assert!(matches!(decoder.next_item(), Some(StreamItem::Frame(_))));
}

fn address() -> impl Strategy<Value = LogicalAddress> {
    any::<u16>().prop_map(LogicalAddress)
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let data = || prop::collection::vec(any::<u8>(), 1..300);
    prop_oneof![
        any::<u8>().prop_map(|code| Message::HeaderNack(code.into())),
        Just(Message::VehicleIdRequest),
        any::<[u8; 6]>().prop_map(Message::VehicleIdRequestByEid),
        any::<[u8; 17]>().prop_map(Message::VehicleIdRequestByVin),
        (any::<[u8; 17]>(), address(), any::<[u8; 6]>(), any::<[u8; 6]>(), any::<u8>(), any::<Option<u8>>()).prop_map(
            |(vin, address, eid, gid, further_action, sync_status)| {
                Message::Announcement(VehicleAnnouncement { vin, address, eid, gid, further_action, sync_status })
            }
        ),
        (address(), any::<u8>(), any::<Option<[u8; 4]>>()).prop_map(|(source, activation_type, oem)| {
            Message::RoutingActivationRequest { source, activation_type, oem }
        }),
        (address(), address(), any::<u8>(), any::<Option<[u8; 4]>>()).prop_map(|(tester, entity, code, oem)| {
            Message::RoutingActivationResponse { tester, entity, code: code.into(), oem }
        }),
        address().prop_map(|source| Message::AliveCheckResponse { source }),
        (any::<[u8; 3]>(), any::<Option<u32>>()).prop_map(|([node_type, max_sockets, open_sockets], max_data_size)| {
            Message::EntityStatusResponse { node_type, max_sockets, open_sockets, max_data_size }
        }),
        (address(), address(), data()).prop_map(|(source, target, data)| Message::Diagnostic { source, target, data }),
        (address(), address(), any::<u8>(), bytes()).prop_map(|(source, target, code, copy)| Message::DiagnosticAck {
            source,
            target,
            code,
            copy
        }),
        (address(), address(), any::<u8>(), bytes()).prop_map(|(source, target, code, copy)| Message::DiagnosticNack {
            source,
            target,
            code: code.into(),
            copy
        }),
    ]
}

proptest! {
    #[test]
    fn messages_come_out_of_a_stream_however_it_is_cut(
        messages in prop::collection::vec(message(), 1..6), cuts in prop::collection::vec(1..40usize, 1..50)
    ) {
        let frames: Vec<_> = messages.into_iter().map(|m| Frame::new(ProtocolVersion::V2019, m)).collect();
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut decoder = StreamDecoder::new(1000);
        let mut found = vec![];
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            decoder.push(head);
            rest = tail;
            while let Some(item) = decoder.next_item() {
                found.push(item);
            }
            if rest.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = frames.into_iter().map(StreamItem::Frame).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut decoder = StreamDecoder::new(64);
        decoder.push(&[0x02, 0xFD]);
        decoder.push(&bytes);
        while decoder.next_item().is_some() {}
        prop_assert!(decoder.buffered() <= 82);
    }
}
