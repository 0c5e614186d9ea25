use std::time::Duration;

use crate::reader::Reader;
use crate::request::{counted, push_counted};
use crate::{DecodeError, Did, EncodeError, Nrc, ResetType, RoutineAction, RoutineId, ServiceId, SessionType};

const NEGATIVE: u8 = 0x7F;

/// Server timing of a session as the ECU tells it (P2 in steps of 1 ms, P2* in steps of 10 ms, at most 65535 steps).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTiming {
    pub p2: Duration,
    pub p2_star: Duration,
}

/// maxNumberOfBlockLength of a positive 34 or 35: the longest TransferData message, service and counter included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockLength(pub u64);

impl BlockLength {
    /// Data bytes that fit in one block: the message less service and counter. Zero is an unusable answer.
    pub const fn data_bytes(self) -> u64 {
        self.0.saturating_sub(2)
    }
}

/// A response, positive or negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// 50; some servers leave the timing out: keep the configured one then.
    DiagnosticSessionControl { session: SessionType, timing: Option<SessionTiming> },
    /// 51
    EcuReset { reset: ResetType, power_down_time: Option<u8> },
    /// 54
    ClearDiagnosticInformation,
    /// 59
    ReadDtcInformation { report: u8, data: Vec<u8> },
    /// 62: `did data [did data ..]`; lengths are known only to who knows the DIDs, see [`Response::value_of`].
    ReadDataByIdentifier { records: Vec<u8> },
    /// 67; the seed is empty after a key.
    SecurityAccess { level: u8, seed: Vec<u8> },
    /// 68
    CommunicationControl { control: u8 },
    /// 69 00, 69 08 and every other task: return parameter and the rest.
    Authentication { task: u8, result: u8, data: Vec<u8> },
    /// 69 01
    CertificateVerified { result: u8, challenge: Vec<u8>, ephemeral_key: Vec<u8> },
    /// 6E
    WriteDataByIdentifier { did: Did },
    /// 71; `status` is routineInfo and routineStatusRecord together, by the maker's definition.
    RoutineControl { action: RoutineAction, routine: RoutineId, status: Vec<u8> },
    /// 74
    RequestDownload { max_block: BlockLength },
    /// 75
    RequestUpload { max_block: BlockLength },
    /// 76
    TransferData { counter: u8, data: Vec<u8> },
    /// 77
    RequestTransferExit { parameters: Vec<u8> },
    /// 7E
    TesterPresent,
    /// C5
    ControlDtcSetting { setting: u8 },
    /// 7F
    Negative { service: ServiceId, nrc: Nrc },
    /// A positive response of a service not listed here; `service` is the request's.
    Other { service: u8, data: Vec<u8> },
}

impl Response {
    pub fn negative(service: ServiceId, nrc: Nrc) -> Self {
        Self::Negative { service, nrc }
    }

    /// The service that is answered.
    pub fn service(&self) -> ServiceId {
        match self {
            Self::DiagnosticSessionControl { .. } => ServiceId::DiagnosticSessionControl,
            Self::EcuReset { .. } => ServiceId::EcuReset,
            Self::ClearDiagnosticInformation => ServiceId::ClearDiagnosticInformation,
            Self::ReadDtcInformation { .. } => ServiceId::ReadDtcInformation,
            Self::ReadDataByIdentifier { .. } => ServiceId::ReadDataByIdentifier,
            Self::SecurityAccess { .. } => ServiceId::SecurityAccess,
            Self::CommunicationControl { .. } => ServiceId::CommunicationControl,
            Self::Authentication { .. } | Self::CertificateVerified { .. } => ServiceId::Authentication,
            Self::WriteDataByIdentifier { .. } => ServiceId::WriteDataByIdentifier,
            Self::RoutineControl { .. } => ServiceId::RoutineControl,
            Self::RequestDownload { .. } => ServiceId::RequestDownload,
            Self::RequestUpload { .. } => ServiceId::RequestUpload,
            Self::TransferData { .. } => ServiceId::TransferData,
            Self::RequestTransferExit { .. } => ServiceId::RequestTransferExit,
            Self::TesterPresent => ServiceId::TesterPresent,
            Self::ControlDtcSetting { .. } => ServiceId::ControlDtcSetting,
            Self::Negative { service, .. } => *service,
            Self::Other { service, .. } => ServiceId::from(*service),
        }
    }

    /// The value in the answer to a request for this one DID.
    pub fn value_of(&self, did: Did) -> Option<&[u8]> {
        let Self::ReadDataByIdentifier { records } = self else { return None };
        records.strip_prefix(&did.0.to_be_bytes())
    }

    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        if let Self::Negative { service, nrc } = self {
            return Ok(vec![NEGATIVE, service.code(), nrc.code()]);
        }
        let mut out = vec![self.service().positive()];
        self.encode_fields(&mut out)?;
        Ok(out)
    }

    fn encode_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::DiagnosticSessionControl { session, timing } => {
                out.push(session.code());
                if let Some(SessionTiming { p2, p2_star }) = timing {
                    out.extend(steps(*p2, 1).to_be_bytes());
                    out.extend(steps(*p2_star, 10).to_be_bytes());
                }
            }
            Self::EcuReset { reset, power_down_time } => {
                out.push(reset.code());
                out.extend(*power_down_time);
            }
            Self::ReadDtcInformation { report: code, data }
            | Self::SecurityAccess { level: code, seed: data }
            | Self::TransferData { counter: code, data } => {
                out.push(*code);
                out.extend_from_slice(data);
            }
            Self::CommunicationControl { control: code } | Self::ControlDtcSetting { setting: code } => out.push(*code),
            Self::Authentication { task, result, data } => {
                out.extend([*task, *result]);
                out.extend_from_slice(data);
            }
            Self::CertificateVerified { result, challenge, ephemeral_key } => {
                out.extend([0x01, *result]);
                push_counted(out, challenge)?;
                push_counted(out, ephemeral_key)?;
            }
            Self::WriteDataByIdentifier { did } => out.extend(did.0.to_be_bytes()),
            Self::RoutineControl { action, routine, status } => {
                out.push(action.code());
                out.extend(routine.0.to_be_bytes());
                out.extend_from_slice(status);
            }
            Self::RequestDownload { max_block } | Self::RequestUpload { max_block } => {
                push_block_length(out, *max_block)
            }
            Self::ReadDataByIdentifier { records: data }
            | Self::RequestTransferExit { parameters: data }
            | Self::Other { data, .. } => out.extend_from_slice(data),
            Self::TesterPresent => out.push(0),
            Self::ClearDiagnosticInformation | Self::Negative { .. } => {}
        }
        Ok(())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&first, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if first == NEGATIVE {
            let mut reader = Reader::new(ServiceId::Other(NEGATIVE), rest);
            let response = Self::Negative { service: reader.u8()?.into(), nrc: reader.u8()?.into() };
            return reader.end().map(|()| response);
        }
        if first & 0x40 == 0 {
            return Err(DecodeError::NotAResponse { found: first });
        }
        let service = ServiceId::from(first & !0x40);
        let mut reader = Reader::new(service, rest);
        let response = Self::decode_fields(service, &mut reader)?;
        reader.end()?;
        Ok(response)
    }

    fn decode_fields(service: ServiceId, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match service {
            ServiceId::DiagnosticSessionControl => {
                Self::DiagnosticSessionControl { session: from.u8()?.into(), timing: session_timing(from)? }
            }
            ServiceId::EcuReset => {
                let reset = from.u8()?.into();
                let power_down_time = if from.is_empty() { None } else { Some(from.u8()?) };
                Self::EcuReset { reset, power_down_time }
            }
            ServiceId::ClearDiagnosticInformation => Self::ClearDiagnosticInformation,
            ServiceId::ReadDtcInformation => {
                Self::ReadDtcInformation { report: from.u8()?, data: from.rest().to_vec() }
            }
            ServiceId::ReadDataByIdentifier => Self::ReadDataByIdentifier { records: from.rest().to_vec() },
            ServiceId::SecurityAccess => Self::SecurityAccess { level: from.u8()?, seed: from.rest().to_vec() },
            ServiceId::CommunicationControl => Self::CommunicationControl { control: from.u8()? },
            ServiceId::Authentication => authentication(from)?,
            ServiceId::WriteDataByIdentifier => Self::WriteDataByIdentifier { did: Did(from.u16()?) },
            ServiceId::RoutineControl => Self::RoutineControl {
                action: from.u8()?.into(),
                routine: RoutineId(from.u16()?),
                status: from.rest().to_vec(),
            },
            ServiceId::RequestDownload => Self::RequestDownload { max_block: block_length(from)? },
            ServiceId::RequestUpload => Self::RequestUpload { max_block: block_length(from)? },
            ServiceId::TransferData => Self::TransferData { counter: from.u8()?, data: from.rest().to_vec() },
            ServiceId::RequestTransferExit => Self::RequestTransferExit { parameters: from.rest().to_vec() },
            ServiceId::TesterPresent => match from.u8()? {
                0 => Self::TesterPresent,
                _ => return Err(from.format("sub-function")),
            },
            ServiceId::ControlDtcSetting => Self::ControlDtcSetting { setting: from.u8()? },
            ServiceId::RequestFileTransfer | ServiceId::Other(_) => {
                Self::Other { service: service.code(), data: from.rest().to_vec() }
            }
        })
    }
}

fn session_timing(from: &mut Reader<'_>) -> Result<Option<SessionTiming>, DecodeError> {
    if from.is_empty() {
        return Ok(None);
    }
    let (p2, p2_star) = (from.u16()?, from.u16()?);
    Ok(Some(SessionTiming {
        p2: Duration::from_millis(u64::from(p2)),
        p2_star: Duration::from_millis(u64::from(p2_star) * 10),
    }))
}

fn authentication(from: &mut Reader<'_>) -> Result<Response, DecodeError> {
    let (task, result) = (from.u8()?, from.u8()?);
    Ok(match task {
        0x01 => Response::CertificateVerified {
            result,
            challenge: counted(from)?.to_vec(),
            ephemeral_key: counted(from)?.to_vec(),
        },
        _ => Response::Authentication { task, result, data: from.rest().to_vec() },
    })
}

fn block_length(from: &mut Reader<'_>) -> Result<BlockLength, DecodeError> {
    // The low nibble is reserved; the high one counts the bytes that follow.
    let bytes = usize::from(from.u8()? >> 4);
    if !(1..=8).contains(&bytes) {
        return Err(from.format("length of the block length"));
    }
    from.uint(bytes).map(BlockLength)
}

fn push_block_length(out: &mut Vec<u8>, BlockLength(length): BlockLength) {
    let wide = length.to_be_bytes();
    let zeros = wide.iter().take(7).take_while(|&&byte| byte == 0).count();
    // At least two bytes: testers in the field take 20 xx xx for granted.
    let (_, kept) = wide.split_at(zeros.min(6));
    out.push((kept.len() as u8) << 4);
    out.extend_from_slice(kept);
}

fn steps(time: Duration, step_ms: u128) -> u16 {
    u16::try_from(time.as_millis() / step_ms).unwrap_or(u16::MAX)
}
