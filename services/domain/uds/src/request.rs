use crate::reader::Reader;
use crate::{
    AddressAndSize, DecodeError, Did, EncodeError, ResetType, RoutineAction, RoutineId, ServiceId, SessionType,
};

/// Bit 7 of a sub-function: suppressPosRspMsgIndicationBit.
pub(crate) const SUPPRESS: u8 = 0x80;

/// A request, without the suppress bit (see [`Request::encode_suppressing`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// 10
    DiagnosticSessionControl { session: SessionType },
    /// 11
    EcuReset { reset: ResetType },
    /// 14; the group has 24 bits, FFFFFF is all groups.
    ClearDiagnosticInformation { group: u32, memory: Option<u8> },
    /// 19; `parameters` depend on the report type.
    ReadDtcInformation { report: u8, parameters: Vec<u8> },
    /// 22, at least one.
    ReadDataByIdentifier { dids: Vec<Did> },
    /// 27: an odd level asks for a seed, an even one brings the key.
    SecurityAccess { level: u8, data: Vec<u8> },
    /// 28; the node only with control types 04 and 05.
    CommunicationControl { control: u8, communication_type: u8, node: Option<u16> },
    /// 29 00
    DeAuthenticate,
    /// 29 01: certificate, and a challenge where the client wants the server to prove itself.
    VerifyCertificate { configuration: u8, certificate: Vec<u8>, challenge: Vec<u8> },
    /// 29 03
    ProofOfOwnership { proof: Vec<u8>, ephemeral_key: Vec<u8> },
    /// 29 08
    AuthenticationConfiguration,
    /// 29, every other task, as it is.
    Authentication { task: u8, data: Vec<u8> },
    /// 2E
    WriteDataByIdentifier { did: Did, data: Vec<u8> },
    /// 31
    RoutineControl { action: RoutineAction, routine: RoutineId, option: Vec<u8> },
    /// 34; data format: high nibble compression, low nibble encryption, 00 = none.
    RequestDownload { data_format: u8, memory: AddressAndSize },
    /// 35
    RequestUpload { data_format: u8, memory: AddressAndSize },
    /// 36
    TransferData { counter: u8, data: Vec<u8> },
    /// 37
    RequestTransferExit { parameters: Vec<u8> },
    /// 3E
    TesterPresent,
    /// 85: setting 01 on, 02 off.
    ControlDtcSetting { setting: u8, option: Vec<u8> },
    /// Any other service, as it is.
    Other { service: u8, data: Vec<u8> },
}

impl Request {
    /// Which service this asks for.
    pub fn service(&self) -> ServiceId {
        match self {
            Self::DiagnosticSessionControl { .. } => ServiceId::DiagnosticSessionControl,
            Self::EcuReset { .. } => ServiceId::EcuReset,
            Self::ClearDiagnosticInformation { .. } => ServiceId::ClearDiagnosticInformation,
            Self::ReadDtcInformation { .. } => ServiceId::ReadDtcInformation,
            Self::ReadDataByIdentifier { .. } => ServiceId::ReadDataByIdentifier,
            Self::SecurityAccess { .. } => ServiceId::SecurityAccess,
            Self::CommunicationControl { .. } => ServiceId::CommunicationControl,
            Self::DeAuthenticate
            | Self::VerifyCertificate { .. }
            | Self::ProofOfOwnership { .. }
            | Self::AuthenticationConfiguration
            | Self::Authentication { .. } => ServiceId::Authentication,
            Self::WriteDataByIdentifier { .. } => ServiceId::WriteDataByIdentifier,
            Self::RoutineControl { .. } => ServiceId::RoutineControl,
            Self::RequestDownload { .. } => ServiceId::RequestDownload,
            Self::RequestUpload { .. } => ServiceId::RequestUpload,
            Self::TransferData { .. } => ServiceId::TransferData,
            Self::RequestTransferExit { .. } => ServiceId::RequestTransferExit,
            Self::TesterPresent => ServiceId::TesterPresent,
            Self::ControlDtcSetting { .. } => ServiceId::ControlDtcSetting,
            Self::Other { service, .. } => ServiceId::from(*service),
        }
    }

    /// The request's bytes, positive response wanted.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![self.service().code()];
        self.encode_fields(&mut out)?;
        Ok(out)
    }

    /// The same with the positive response suppressed, where the service has a sub-function; otherwise like [`Self::encode`].
    pub fn encode_suppressing(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = self.encode()?;
        if self.service().has_sub_function()
            && let Some(sub_function) = out.get_mut(1)
        {
            *sub_function |= SUPPRESS;
        }
        Ok(out)
    }

    fn encode_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::DiagnosticSessionControl { session } => out.push(session.code()),
            Self::EcuReset { reset } => out.push(reset.code()),
            Self::ClearDiagnosticInformation { group, memory } => {
                let [high, group @ ..] = group.to_be_bytes();
                if high != 0 {
                    return Err(EncodeError::DoesNotFit { bytes: 3 });
                }
                out.extend(group.into_iter().chain(*memory));
            }
            Self::ReadDtcInformation { report: code, parameters: data }
            | Self::SecurityAccess { level: code, data }
            | Self::Authentication { task: code, data }
            | Self::ControlDtcSetting { setting: code, option: data } => {
                out.push(code & !SUPPRESS);
                out.extend_from_slice(data);
            }
            Self::ReadDataByIdentifier { dids } => out.extend(dids.iter().flat_map(|did| did.0.to_be_bytes())),
            Self::CommunicationControl { control, communication_type, node } => {
                out.extend([control & !SUPPRESS, *communication_type]);
                out.extend(node.iter().flat_map(|node| node.to_be_bytes()));
            }
            Self::DeAuthenticate => out.push(0x00),
            Self::VerifyCertificate { configuration, certificate, challenge } => {
                out.extend([0x01, *configuration]);
                push_counted(out, certificate)?;
                push_counted(out, challenge)?;
            }
            Self::ProofOfOwnership { proof, ephemeral_key } => {
                out.push(0x03);
                push_counted(out, proof)?;
                push_counted(out, ephemeral_key)?;
            }
            Self::AuthenticationConfiguration => out.push(0x08),
            Self::WriteDataByIdentifier { did, data } => {
                out.extend(did.0.to_be_bytes());
                out.extend_from_slice(data);
            }
            Self::RoutineControl { action, routine, option } => {
                out.push(action.code());
                out.extend(routine.0.to_be_bytes());
                out.extend_from_slice(option);
            }
            Self::RequestDownload { data_format, memory } | Self::RequestUpload { data_format, memory } => {
                out.push(*data_format);
                memory.encode_into(out)?;
            }
            Self::TransferData { counter, data } => {
                out.push(*counter);
                out.extend_from_slice(data);
            }
            Self::RequestTransferExit { parameters: data } | Self::Other { data, .. } => out.extend_from_slice(data),
            Self::TesterPresent => out.push(0x00),
        }
        Ok(())
    }

    /// Reads a request; bit 7 of a sub-function is dropped (ask [`Request::suppresses_response`] for it).
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&first, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let service = ServiceId::from(first);
        let mut reader = Reader::new(service, rest);
        let request = Self::decode_fields(service, &mut reader)?;
        reader.end()?;
        Ok(request)
    }

    /// Whether the bytes ask for silence instead of a positive response.
    pub fn suppresses_response(bytes: &[u8]) -> bool {
        match bytes {
            [service, sub_function, ..] => ServiceId::from(*service).has_sub_function() && sub_function & SUPPRESS != 0,
            _ => false,
        }
    }

    fn decode_fields(service: ServiceId, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match service {
            ServiceId::DiagnosticSessionControl => Self::DiagnosticSessionControl { session: from.u8()?.into() },
            ServiceId::EcuReset => Self::EcuReset { reset: from.u8()?.into() },
            ServiceId::ClearDiagnosticInformation => {
                let group = from.uint(3)? as u32;
                let memory = if from.is_empty() { None } else { Some(from.u8()?) };
                Self::ClearDiagnosticInformation { group, memory }
            }
            ServiceId::ReadDtcInformation => {
                Self::ReadDtcInformation { report: sub_function(from)?, parameters: from.rest().to_vec() }
            }
            ServiceId::ReadDataByIdentifier => Self::ReadDataByIdentifier { dids: dids(from)? },
            ServiceId::SecurityAccess => {
                Self::SecurityAccess { level: sub_function(from)?, data: from.rest().to_vec() }
            }
            ServiceId::CommunicationControl => {
                let (control, communication_type) = (sub_function(from)?, from.u8()?);
                let node = if from.is_empty() { None } else { Some(from.u16()?) };
                Self::CommunicationControl { control, communication_type, node }
            }
            ServiceId::Authentication => authentication(from)?,
            ServiceId::WriteDataByIdentifier => {
                Self::WriteDataByIdentifier { did: Did(from.u16()?), data: from.rest().to_vec() }
            }
            ServiceId::RoutineControl => Self::RoutineControl {
                action: from.u8()?.into(),
                routine: RoutineId(from.u16()?),
                option: from.rest().to_vec(),
            },
            ServiceId::RequestDownload => {
                Self::RequestDownload { data_format: from.u8()?, memory: from.address_and_size()? }
            }
            ServiceId::RequestUpload => {
                Self::RequestUpload { data_format: from.u8()?, memory: from.address_and_size()? }
            }
            ServiceId::TransferData => Self::TransferData { counter: from.u8()?, data: from.rest().to_vec() },
            ServiceId::RequestTransferExit => Self::RequestTransferExit { parameters: from.rest().to_vec() },
            ServiceId::TesterPresent => match sub_function(from)? {
                0 => Self::TesterPresent,
                _ => return Err(from.format("sub-function")),
            },
            ServiceId::ControlDtcSetting => {
                Self::ControlDtcSetting { setting: sub_function(from)?, option: from.rest().to_vec() }
            }
            ServiceId::RequestFileTransfer | ServiceId::Other(_) => {
                Self::Other { service: service.code(), data: from.rest().to_vec() }
            }
        })
    }
}

fn sub_function(from: &mut Reader<'_>) -> Result<u8, DecodeError> {
    Ok(from.u8()? & !SUPPRESS)
}

fn dids(from: &mut Reader<'_>) -> Result<Vec<Did>, DecodeError> {
    let mut dids = vec![Did(from.u16()?)];
    while !from.is_empty() {
        dids.push(Did(from.u16()?));
    }
    Ok(dids)
}

fn authentication(from: &mut Reader<'_>) -> Result<Request, DecodeError> {
    Ok(match sub_function(from)? {
        0x00 => Request::DeAuthenticate,
        0x01 => Request::VerifyCertificate {
            configuration: from.u8()?,
            certificate: counted(from)?.to_vec(),
            challenge: counted(from)?.to_vec(),
        },
        0x03 => Request::ProofOfOwnership { proof: counted(from)?.to_vec(), ephemeral_key: counted(from)?.to_vec() },
        0x08 => Request::AuthenticationConfiguration,
        task => Request::Authentication { task, data: from.rest().to_vec() },
    })
}

/// A field after its length in two bytes.
pub(crate) fn counted<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = from.u16()?;
    from.bytes(usize::from(length))
}

pub(crate) fn push_counted(out: &mut Vec<u8>, field: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(field.len()).map_err(|_| EncodeError::FieldTooLong { length: field.len() })?;
    out.extend(length.to_be_bytes());
    out.extend_from_slice(field);
    Ok(())
}
