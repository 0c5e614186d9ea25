use std::time::Duration;

use pitstop_uds::server::*;
use pitstop_uds::*;

use crate::script::{script, steps};

pub fn messages(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        let bytes = request.encode().expect("what was read can be written");
        assert_eq!(Request::decode(&bytes), Ok(request), "written and read again it is another");
    }
    if let Ok(response) = Response::decode(data) {
        let bytes = response.encode().expect("what was read can be written");
        assert_eq!(Response::decode(&bytes), Ok(response), "written and read again it is another");
    }
}

fn requests() -> Vec<Vec<u8>> {
    [
        &[0x10, 0x03][..],
        &[0x10, 0x02],
        &[0x11, 0x01],
        &[0x22, 0xF1, 0x90, 0xF1, 0x95],
        &[0x27, 0x01],
        &[0x27, 0x02, 0xA5],
        &[0x29, 0x01, 0, 0, 2, 0x30, 0x82, 0, 0],
        &[0x2E, 0xF1, 0x5A, 1],
        &[0x31, 0x01, 0xFF, 0x00],
        &[0x34, 0x00, 0x11, 0x00, 0x04],
        &[0x36, 0x01, 1, 2],
        &[0x37],
        &[0x3E, 0x80],
        &[0x85, 0x02],
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

pub fn message_seeds() -> Vec<Vec<u8>> {
    let answers: [&[u8]; 6] = [
        &[0x50, 0x03, 0x00, 0x32, 0x01, 0xF4],
        &[0x62, 0xF1, 0x90, 1, 2],
        &[0x69, 0x01, 0x11, 0, 1, 5, 0, 0],
        &[0x71, 0x01, 0xFF, 0x00, 0],
        &[0x74, 0x20, 0x0F, 0xFF],
        &[0x7F, 0x36, 0x78],
    ];
    requests().into_iter().chain(answers.map(<[u8]>::to_vec)).collect()
}

/// An ECU whose acts take as long as the script wants.
struct Ecu;

impl EcuContent for Ecu {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        Some(match service {
            ServiceId::RequestDownload | ServiceId::TransferData | ServiceId::RequestTransferExit => {
                Rule::protected(Sessions::PROGRAMMING, Protection::Unlocked)
            }
            ServiceId::WriteDataByIdentifier => Rule::protected(Sessions::NOT_DEFAULT, Protection::Authenticated),
            _ => Rule::open(Sessions::ALL),
        })
    }
    fn may_reset(&self, reset: ResetType) -> Result<Option<u8>, Nrc> {
        if reset == ResetType::Hard { Ok(None) } else { Err(Nrc::SubFunctionNotSupported) }
    }
    fn read_rule(&self, _: Did) -> Option<Rule> {
        Some(Rule::open(Sessions::ALL))
    }
    fn read(&mut self, did: Did) -> Result<Vec<u8>, Nrc> {
        Ok(vec![7; usize::from(did.0 & 0xFF)])
    }
    fn write_rule(&self, _: Did) -> Option<Rule> {
        Some(Rule::open(Sessions::ALL))
    }
    fn write(&mut self, _: Did, _: &[u8]) -> Reply<()> {
        Reply::Done(())
    }
    fn routine_rule(&self, _: RoutineId) -> Option<Rule> {
        Some(Rule::open(Sessions::ALL))
    }
    fn routine(&mut self, _: RoutineAction, _: RoutineId, _: &[u8]) -> Reply<Vec<u8>> {
        Reply::Later
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
    fn seed(&mut self, level: u8, _: &[u8]) -> Result<Vec<u8>, Nrc> {
        Ok(vec![level, 1, 2, 3])
    }
    fn key_fits(&self, _: u8, _: &[u8], key: &[u8]) -> bool {
        key == [0xA5]
    }
    fn authenticate_client(&mut self, now: Monotonic, _: ClientId, _: &Request) -> Reply<AuthenticationAnswer> {
        Reply::Done(AuthenticationAnswer {
            answer: vec![0x69, 0x00, 0x11],
            authenticated: Some(true),
            until: Some(now + Duration::from_secs(60)),
        })
    }
}

/// Three testers that send anything, and acts that end well, badly, late or never.
pub fn server(data: &[u8]) {
    let mut server = Server::new(Ecu, ServerSettings::default());
    let longest = ServerSettings::default().max_response;
    let mut now = Duration::ZERO;
    for step in steps(data) {
        now += step.pause;
        server.handle_timeout(now);
        let client = ClientId(u64::from(step.kind & 3));
        let addressing = if step.kind & 4 == 0 { Addressing::Physical } else { Addressing::Functional };
        match step.kind >> 3 & 7 {
            0..=3 => server.handle_input(now, client, addressing, step.bytes),
            4 => server.complete(now, Ok(step.bytes.to_vec())),
            5 => server.complete(now, Err(Nrc::GeneralProgrammingFailure)),
            6 => server.complete_download(now, Ok(BlockLength(u64::from(step.pause.subsec_millis())))),
            _ => server.client_gone(client),
        }
        while let Some(transmit) = server.poll_transmit() {
            assert!(transmit.pdu.len() <= longest && Response::decode(&transmit.pdu).is_ok(), "{:02X?}", transmit.pdu);
        }
        while server.poll_event().is_some() {}
        server.handle_timeout(now);
        assert!(
            server.poll_timeout().is_none_or(|at| at > now),
            "a time that has passed would be waited for in a circle"
        );
    }
}

pub fn server_seeds() -> Vec<Vec<u8>> {
    let all = requests();
    let each: Vec<_> = all.iter().map(|request| (0, 1, request.as_slice())).collect();
    let flash: &[(u8, u8, &[u8])] = &[
        (0, 1, &[0x10, 0x02]),
        (0, 1, &[0x27, 0x01]),
        (0, 1, &[0x27, 0x02, 0xA5]),
        (0, 1, &[0x34, 0x00, 0x11, 0x00, 0x04]),
        (0x30, 5, &[]),
        (0, 1, &[0x36, 0x01, 1, 2]),
        (0x20, 1, &[]),
        (0, 1, &[0x36, 0x02, 3, 4]),
        (0x20, 40, &[]),
        (0, 1, &[0x37]),
        (0x20, 1, &[]),
        (0, 200, &[0x11, 0x01]),
    ];
    vec![script(&each), script(flash)]
}

/// An ECU that answers anything, at any time, to whatever was asked.
pub fn client(data: &[u8]) {
    let mut session = ClientSession::new(ClientTiming::default());
    let mut now = Duration::ZERO;
    for step in steps(data) {
        now += step.pause;
        session.handle_timeout(now);
        match step.kind % 4 {
            0 | 1 => session.handle_input(now, step.bytes),
            2 => {
                if let Ok(request) = Request::decode(step.bytes) {
                    let _ = session.request(now, &request, StepLimits::for_request(&request));
                }
            }
            _ => session.handle_sent(now),
        }
        while session.poll_transmit().is_some() {
            session.handle_sent(now);
        }
        let mut ends = 0;
        while let Some(event) = session.poll_event() {
            ends += usize::from(matches!(event, ClientEvent::Failed(_)));
        }
        assert!(ends <= 1, "a request ends once");
    }
}

pub fn client_seeds() -> Vec<Vec<u8>> {
    vec![
        script(&[(2, 0, &[0x22, 0xF1, 0x90]), (0, 1, &[0x7F, 0x22, 0x78]), (0, 100, &[0x62, 0xF1, 0x90, 1])]),
        script(&[
            (2, 0, &[0x36, 1, 2, 3]),
            (0, 1, &[0x7F, 0x36, 0x21]),
            (0, 200, &[0x76, 1]),
            (2, 0, &[0x37]),
            (3, 255, &[]),
        ]),
    ]
}
