//! Requests and responses against bytes written by hand from the standard's layouts, and by property.

use std::time::Duration;

use pitstop_uds::*;
use proptest::prelude::*;

#[test]
fn requests_have_the_standards_bytes() {
    let memory = AddressAndSize::four(0x0800_0000, 0x1_C000);
    let cases: Vec<(Request, &[u8])> = vec![
        (Request::DiagnosticSessionControl { session: SessionType::Programming }, &[0x10, 0x02]),
        (Request::EcuReset { reset: ResetType::Hard }, &[0x11, 0x01]),
        (Request::ClearDiagnosticInformation { group: 0xFF_FFFF, memory: None }, &[0x14, 0xFF, 0xFF, 0xFF]),
        (Request::ReadDataByIdentifier { dids: vec![Did::VIN, Did(0x0102)] }, &[0x22, 0xF1, 0x90, 1, 2]),
        (Request::SecurityAccess { level: 0x12, data: vec![9, 8] }, &[0x27, 0x12, 9, 8]),
        (Request::CommunicationControl { control: 3, communication_type: 3, node: None }, &[0x28, 3, 3]),
        (
            Request::VerifyCertificate { configuration: 0, certificate: vec![0x30, 0x82], challenge: vec![] },
            &[0x29, 1, 0, 0, 2, 0x30, 0x82, 0, 0],
        ),
        (Request::WriteDataByIdentifier { did: Did(0xF15A), data: vec![1] }, &[0x2E, 0xF1, 0x5A, 1]),
        (
            Request::RoutineControl { action: RoutineAction::Start, routine: RoutineId(0x0203), option: vec![] },
            &[0x31, 0x01, 0x02, 0x03],
        ),
        (Request::RequestDownload { data_format: 0x11, memory }, &[0x34, 0x11, 0x44, 0x08, 0, 0, 0, 0, 0x01, 0xC0, 0]),
        (Request::TransferData { counter: 0xFF, data: vec![1, 2] }, &[0x36, 0xFF, 1, 2]),
        (Request::RequestTransferExit { parameters: vec![] }, &[0x37]),
        (Request::TesterPresent, &[0x3E, 0]),
        (Request::ControlDtcSetting { setting: 2, option: vec![] }, &[0x85, 2]),
    ];
    for (request, bytes) in cases {
        assert_eq!(request.encode().unwrap(), bytes);
        assert_eq!(Request::decode(bytes).unwrap(), request);
    }
    assert_eq!(Request::TesterPresent.encode_suppressing().unwrap(), [0x3E, 0x80]);
    assert!(Request::suppresses_response(&[0x3E, 0x80]));
    assert!(!Request::suppresses_response(&[0x22, 0xF1, 0x90]), "no sub-function there");
}

#[test]
fn the_format_byte_has_the_size_in_its_high_nibble() {
    let memory = AddressAndSize { address: 0x1234, size: 0x56, address_bytes: 2, size_bytes: 1 };
    assert_eq!(memory.encode().unwrap(), [0x12, 0x12, 0x34, 0x56]);
    let narrow = AddressAndSize { address: 0x1_0000, ..memory };
    assert_eq!(narrow.encode(), Err(EncodeError::DoesNotFit { bytes: 2 }));
    assert!(AddressAndSize { size_bytes: 9, ..memory }.encode().is_err());
}

#[test]
fn session_timing_is_in_one_and_in_ten_milliseconds() {
    let timing = SessionTiming { p2: Duration::from_millis(50), p2_star: Duration::from_secs(5) };
    let response = Response::DiagnosticSessionControl { session: SessionType::Extended, timing: Some(timing) };
    let bytes = [0x50, 0x03, 0x00, 0x32, 0x01, 0xF4];
    assert_eq!(response.encode().unwrap(), bytes);
    assert_eq!(Response::decode(&bytes).unwrap(), response);
    let bare = Response::decode(&[0x50, 0x03]).unwrap();
    assert_eq!(bare, Response::DiagnosticSessionControl { session: SessionType::Extended, timing: None });
}

#[test]
fn the_block_length_counts_service_and_counter() {
    let Response::RequestDownload { max_block } = Response::decode(&[0x74, 0x20, 0x0F, 0xFF]).unwrap() else {
        panic!()
    };
    assert_eq!((max_block, max_block.data_bytes()), (BlockLength(4095), 4093));
    assert!(Response::decode(&[0x74, 0x02, 0x0F, 0xFF]).is_err(), "length in the low nibble is not the standard's");
    let wide = Response::RequestDownload { max_block: BlockLength(0x1_0000) };
    assert_eq!(wide.encode().unwrap(), [0x74, 0x30, 0x01, 0x00, 0x00]);
}

#[test]
fn malformed_messages_are_named() {
    assert_eq!(Request::decode(&[]), Err(DecodeError::Empty));
    let too_short = DecodeError::TooShort { service: ServiceId::RoutineControl, length: 3, needed: 4 };
    assert_eq!(Request::decode(&[0x31, 1, 2]), Err(too_short));
    let too_long = DecodeError::TooLong { service: ServiceId::TesterPresent, extra: 1 };
    assert_eq!(Request::decode(&[0x3E, 0, 0]), Err(too_long));
    assert_eq!(Response::decode(&[0x22]), Err(DecodeError::NotAResponse { found: 0x22 }));
}

fn bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..limit)
}

fn memory() -> impl Strategy<Value = AddressAndSize> {
    (any::<u64>(), any::<u64>(), 1..=8u8, 1..=8u8).prop_map(|(address, size, address_bytes, size_bytes)| {
        let fit = |value: u64, bytes: u8| value >> (64 - 8 * u32::from(bytes));
        AddressAndSize { address: fit(address, address_bytes), size: fit(size, size_bytes), address_bytes, size_bytes }
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (1..=0x7Fu8).prop_map(|s| Request::DiagnosticSessionControl { session: s.into() }),
        prop::collection::vec(any::<u16>().prop_map(Did), 1..9).prop_map(|dids| Request::ReadDataByIdentifier { dids }),
        (1..=0x7Fu8, bytes(40)).prop_map(|(level, data)| Request::SecurityAccess { level, data }),
        (bytes(300), bytes(70)).prop_map(|(proof, ephemeral_key)| Request::ProofOfOwnership { proof, ephemeral_key }),
        (1..=3u8, any::<u16>(), bytes(30)).prop_map(|(action, routine, option)| Request::RoutineControl {
            action: action.into(),
            routine: RoutineId(routine),
            option
        }),
        (any::<u8>(), memory()).prop_map(|(data_format, memory)| Request::RequestDownload { data_format, memory }),
        (any::<u8>(), bytes(200)).prop_map(|(counter, data)| Request::TransferData { counter, data }),
    ]
}

proptest! {
    #[test]
    fn a_request_reads_back_as_it_was_written(request in request()) {
        let bytes = request.encode().unwrap();
        prop_assert_eq!(Request::decode(&bytes).unwrap(), request);
    }

    #[test]
    fn any_bytes_decode_or_are_refused_and_what_decodes_keeps_its_bytes(bytes in bytes(64)) {
        if let Ok(request) = Request::decode(&bytes) {
            let again = request.encode().unwrap();
            prop_assert_eq!(Request::decode(&again).unwrap(), request);
        }
        if let Ok(response) = Response::decode(&bytes) {
            let again = response.encode().unwrap();
            prop_assert_eq!(again.first(), bytes.first());
        }
    }
}
