//! An ECU in memory, as simple as a peer can be, with faults to switch on. What a real server checks is tested against `ecu-sim`.

use std::collections::BTreeMap;

use pitstop_bundle::{Description, Segment, description::After};
use pitstop_types::SoftwareVersion;
use pitstop_uds::{BlockLength, ClientError, Did, Nrc, Request, Response, SessionType};

use super::*;

pub const SEAL: u32 = 0x1_F000;
pub const FIRMWARE: u32 = 0x1_0000;

/// What happens at the n-th request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Nrc(u8),
    /// The request arrives and is carried out, the answer is lost.
    AnswerLost,
    RequestLost,
    LinkLost,
    /// The ECU restarts instead of answering.
    Reset,
}

pub struct FakeEcu {
    pub banks: [BTreeMap<u32, u8>; 2],
    pub active: usize,
    pub dual: bool,
    pub loader: bool,
    pub session: u8,
    pub unlocked: bool,
    pub hardware: &'static str,
    pub check_fails: bool,
    /// Requests that are answered after 51, before the ECU goes down.
    pub reset_delay: usize,
    /// What its loader gives for number and version, in place of a refusal; and it tells no hardware.
    pub placeholder: Option<&'static str>,
    pub erases: usize,
    pub requests: usize,
    pub faults: BTreeMap<usize, Fault>,
    pub log: Vec<String>,
    transfer: Option<(u32, u32, u8)>,
    trial: bool,
    going_down: Option<usize>,
}

/// Software in two segments: firmware with a blank run, and the seal that names it.
pub fn software(version: &str, size: usize) -> (Description, Vec<u8>) {
    let seed = version.bytes().map(u32::from).sum::<u32>();
    let mut firmware: Vec<u8> = (0..size as u32).map(|i| (i.wrapping_mul(seed) >> 3) as u8 & 0x7F).collect();
    firmware[size / 2..size / 2 + 200].fill(0xFF);
    let mut seal = b"PSID".to_vec();
    seal.extend(version.bytes());
    seal.resize(64, 0);
    let segments = vec![Segment::of(FIRMWARE, 0, &firmware).unwrap(), Segment::of(SEAL, size as u64, &seal).unwrap()];
    let after = After { software_number: "PS-1".into(), version: SoftwareVersion::new(version).unwrap() };
    let description = Description { format: 1, segments, expect: Default::default(), after };
    (description, [firmware, seal].concat())
}

impl FakeEcu {
    pub fn running(version: &str, dual: bool) -> Self {
        let (description, payload) = software(version, 3000);
        let mut bank = BTreeMap::new();
        for segment in &description.segments {
            for i in 0..segment.length {
                bank.insert(segment.address + i, payload[(segment.offset + u64::from(i)) as usize]);
            }
        }
        Self {
            banks: [bank, BTreeMap::new()],
            active: 0,
            dual,
            loader: false,
            session: 1,
            unlocked: false,
            hardware: "x-a1",
            check_fails: false,
            reset_delay: 0,
            placeholder: None,
            going_down: None,
            erases: 0,
            requests: 0,
            faults: BTreeMap::new(),
            log: Vec::new(),
            transfer: None,
            trial: false,
        }
    }

    fn target_bank(&self) -> usize {
        if self.dual { 1 - self.active } else { 0 }
    }

    pub fn version(&self) -> Option<String> {
        let bank = &self.banks[self.active];
        let seal: Vec<u8> = (0..64).filter_map(|i| bank.get(&(SEAL + i)).copied()).collect();
        let text = seal.strip_prefix(b"PSID")?;
        (seal.len() == 64 && !self.check_fails_now())
            .then(|| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    }

    fn check_fails_now(&self) -> bool {
        self.check_fails && self.loader
    }

    pub fn holds(&self, bank: usize, description: &Description, payload: &[u8]) -> bool {
        let byte = |at: u32| self.banks[bank].get(&at).copied().unwrap_or(0xFF);
        description
            .segments
            .iter()
            .all(|s| (0..s.length).all(|i| byte(s.address + i) == payload[(s.offset + u64::from(i)) as usize]))
    }

    pub fn restart(&mut self) {
        (self.session, self.unlocked, self.transfer) = (1, false, None);
        self.loader = self.version().is_none();
    }

    pub fn ask(&mut self, request: &Request) -> Outcome {
        self.requests += 1;
        let fault = self.faults.remove(&self.requests).unwrap_or(Fault::None);
        let service = request.service();
        let lost = Outcome::NoAnswer(ClientError::NoAnswer { service, times: 1 });
        if let Some(left) = self.going_down.take() {
            if left == 0 {
                self.restart();
                return lost;
            }
            self.going_down = Some(left - 1);
        }
        match fault {
            Fault::None => self.answer(request),
            Fault::Nrc(code) => {
                // A server that suspends or fails a transfer has ended it (ISO 14229-1, TransferData).
                if matches!(code, 0x70..=0x72) {
                    self.transfer = None;
                }
                Outcome::Response(Response::negative(service, Nrc::from(code)))
            }
            Fault::AnswerLost => {
                self.answer(request);
                lost
            }
            Fault::RequestLost => lost,
            Fault::LinkLost => Outcome::LinkLost("cut".into()),
            Fault::Reset => {
                self.restart();
                lost
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Outcome {
        self.log.push(line(request));
        let result = self.serve(request);
        Outcome::Response(result.unwrap_or_else(|nrc| Response::negative(request.service(), nrc)))
    }

    fn serve(&mut self, request: &Request) -> Result<Response, Nrc> {
        let programming =
            |ecu: &Self| if ecu.session == 2 { Ok(()) } else { Err(Nrc::ServiceNotSupportedInActiveSession) };
        match request {
            Request::DiagnosticSessionControl { session } => {
                (self.session, self.unlocked, self.transfer) = (session.code(), false, None);
                self.loader |= *session == SessionType::Programming && !self.dual;
                if *session == SessionType::Default {
                    self.loader = self.version().is_none();
                }
                Ok(Response::DiagnosticSessionControl { session: *session, timing: None })
            }
            Request::TesterPresent => Ok(Response::TesterPresent),
            Request::ReadDataByIdentifier { dids } => self.read(dids[0]),
            Request::SecurityAccess { level, data } if data.is_empty() => {
                programming(self)?;
                let seed = if self.unlocked { vec![0; 4] } else { vec![1, 2, 3, 4] };
                Ok(Response::SecurityAccess { level: *level, seed })
            }
            Request::SecurityAccess { level, data } => {
                self.unlocked = *data == [4, 3, 2, 1];
                if self.unlocked {
                    Ok(Response::SecurityAccess { level: *level, seed: vec![] })
                } else {
                    Err(Nrc::InvalidKey)
                }
            }
            Request::WriteDataByIdentifier { did, .. } => Ok(Response::WriteDataByIdentifier { did: *did }),
            Request::ControlDtcSetting { setting, .. } => Ok(Response::ControlDtcSetting { setting: *setting }),
            Request::CommunicationControl { .. } => Err(Nrc::ServiceNotSupported),
            Request::EcuReset { reset } => {
                if self.reset_delay == 0 {
                    self.restart();
                } else {
                    self.going_down = Some(self.reset_delay);
                }
                Ok(Response::EcuReset { reset: *reset, power_down_time: None })
            }
            Request::RoutineControl { action, routine, option } => {
                let status = vec![self.routine(routine.0, option)?];
                Ok(Response::RoutineControl { action: *action, routine: *routine, status })
            }
            Request::RequestDownload { memory, .. } => {
                programming(self)?;
                if !self.unlocked {
                    return Err(Nrc::SecurityAccessDenied);
                }
                if self.transfer.is_some() {
                    return Err(Nrc::ConditionsNotCorrect);
                }
                self.transfer = Some((memory.address as u32, memory.size as u32, 0));
                Ok(Response::RequestDownload { max_block: BlockLength(258) })
            }
            Request::TransferData { counter, data } => self.block(*counter, data),
            Request::RequestTransferExit { .. } => match self.transfer {
                Some((_, 0, _)) => {
                    self.transfer = None;
                    Ok(Response::RequestTransferExit { parameters: vec![] })
                }
                _ => Err(Nrc::RequestSequenceError),
            },
            _ => Err(Nrc::ServiceNotSupported),
        }
    }

    fn read(&self, did: Did) -> Result<Response, Nrc> {
        let version = self.version().filter(|_| !self.loader);
        let value = match (did.0, self.placeholder.filter(|_| self.loader)) {
            (0xF191, Some(_)) => return Err(Nrc::RequestOutOfRange),
            (0xF188 | 0xF189, Some(text)) => text.as_bytes().to_vec(),
            (did, _) => match did {
                0xF191 => self.hardware.as_bytes().to_vec(),
                0xF188 => version.map(|_| b"PS-1".to_vec()).ok_or(Nrc::RequestOutOfRange)?,
                0xF189 => version.map(String::into_bytes).ok_or(Nrc::RequestOutOfRange)?,
                _ => b"S1".to_vec(),
            },
        };
        Ok(Response::ReadDataByIdentifier { records: [&did.0.to_be_bytes()[..], &value].concat() })
    }

    fn routine(&mut self, routine: u16, option: &[u8]) -> Result<u8, Nrc> {
        let word = |at: usize| u32::from_be_bytes(option[at..at + 4].try_into().unwrap());
        if routine == 0x0203 {
            return Ok(0);
        }
        if self.session != 2 || !self.unlocked {
            return Err(Nrc::SecurityAccessDenied);
        }
        let bank = self.target_bank();
        match routine {
            0xFF00 => {
                self.erases += 1;
                let (address, size) = (word(1), word(5));
                self.banks[bank].retain(|at, _| *at < address || *at >= address + size);
            }
            0x0202 => {
                let (address, size) = (word(0), word(4));
                let bytes: Vec<u8> =
                    (address..address + size).map(|at| self.banks[bank].get(&at).copied().unwrap_or(0xFF)).collect();
                return Ok(u8::from(self.check_fails || crc32fast::hash(&bytes) != word(8)));
            }
            0xFF01 => {}
            0xF010 => (self.active, self.trial) = (1 - self.active, true),
            0xF012 if self.trial => (self.active, self.trial) = (1 - self.active, false),
            0xF012 => {}
            0xF011 => self.trial = false,
            _ => return Err(Nrc::RequestOutOfRange),
        }
        Ok(0)
    }

    fn block(&mut self, counter: u8, data: &[u8]) -> Result<Response, Nrc> {
        let bank = self.target_bank();
        let Some((address, left, last)) = &mut self.transfer else { return Err(Nrc::RequestSequenceError) };
        let answer = Ok(Response::TransferData { counter, data: vec![] });
        if counter == *last && self.log.len() > 1 {
            return answer;
        }
        if counter != last.wrapping_add(1) {
            return Err(Nrc::WrongBlockSequenceCounter);
        }
        *left = left.checked_sub(data.len() as u32).ok_or(Nrc::TransferDataSuspended)?;
        for byte in data {
            // Flash takes a byte once per erase.
            assert!(self.banks[bank].insert(*address, *byte).is_none(), "written twice at {address:#x}");
            *address += 1;
        }
        *last = counter;
        answer
    }
}

/// One request for the trace; a block's data is only counted.
fn line(request: &Request) -> String {
    match request {
        Request::TransferData { counter, data } => format!("36 {counter:02X} +{} bytes", data.len()),
        other => crate::HexBytes::new(other.encode().unwrap()).to_string(),
    }
}
