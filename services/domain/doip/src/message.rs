use std::fmt;

/// Address of a tester, an ECU or a functional group (ISO 13400-2, table 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogicalAddress(pub u16);

impl LogicalAddress {
    /// External test equipment: 0E00 to 0FFF.
    pub const fn is_tester(self) -> bool {
        matches!(self.0, 0x0E00..=0x0FFF)
    }

    /// A group of ECUs: E000 to E3FF by standards, E400 to EFFF by the maker.
    pub const fn is_functional(self) -> bool {
        matches!(self.0, 0xE000..=0xEFFF)
    }
}

impl fmt::Display for LogicalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.0)
    }
}

/// First byte of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// 02, the edition of 2012.
    V2012,
    /// 03, the edition of 2019.
    V2019,
    /// FF, only in vehicle identification requests.
    Default,
}

impl ProtocolVersion {
    pub const fn code(self) -> u8 {
        match self {
            Self::V2012 => 0x02,
            Self::V2019 => 0x03,
            Self::Default => 0xFF,
        }
    }

    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x02 => Some(Self::V2012),
            0x03 => Some(Self::V2019),
            0xFF => Some(Self::Default),
            _ => None,
        }
    }

    /// The version of a header, if it is known and its inverse is right.
    pub const fn from_header(version: u8, inverse: u8) -> Option<Self> {
        if inverse == !version { Self::from_code(version) } else { None }
    }

    /// The version of an answer (ISO 13400-2): the asker's own, and 02 to one that asked with FF, which stands in identification
    /// requests only.
    #[must_use]
    pub const fn of_answer(self) -> Self {
        match self {
            Self::Default => Self::V2012,
            known => known,
        }
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// Reserved, or the maker's own.
            Other(u8),
        }

        impl $name {
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code }
            }
        }

        impl From<u8> for $name {
            fn from(code: u8) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Other(other) }
            }
        }
    };
}

codes! {
    /// Generic header negative acknowledge (payload type 0000).
    HeaderNack {
        IncorrectPattern = 0x00,
        UnknownPayloadType = 0x01,
        MessageTooLarge = 0x02,
        OutOfMemory = 0x03,
        InvalidLength = 0x04,
    }
}

codes! {
    /// Routing activation response code.
    ActivationCode {
        UnknownSource = 0x00,
        NoSocketFree = 0x01,
        OtherSourceOnSocket = 0x02,
        SourceActiveElsewhere = 0x03,
        AuthenticationMissing = 0x04,
        ConfirmationRejected = 0x05,
        UnsupportedType = 0x06,
        TlsRequired = 0x07,
        Activated = 0x10,
        ActivatedAfterConfirmation = 0x11,
    }
}

impl ActivationCode {
    /// Whether diagnostic messages are routed after this answer.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Activated)
    }
}

codes! {
    /// Diagnostic message negative acknowledge code (payload type 8003).
    DiagnosticNackCode {
        InvalidSource = 0x02,
        UnknownTarget = 0x03,
        MessageTooLarge = 0x04,
        OutOfMemory = 0x05,
        TargetUnreachable = 0x06,
        UnknownNetwork = 0x07,
        TransportProtocolError = 0x08,
    }
}

/// Vehicle announcement and vehicle identification response (0004).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VehicleAnnouncement {
    pub vin: [u8; 17],
    pub address: LogicalAddress,
    pub eid: [u8; 6],
    pub gid: [u8; 6],
    pub further_action: u8,
    pub sync_status: Option<u8>,
}

macro_rules! payload_types {
    ($($name:ident = $code:literal, $min:literal ..= $max:literal;)*) => {
        /// Payload type of the header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PayloadType { $($name,)* }

        impl PayloadType {
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// Shortest and longest payload of this type, in bytes.
            pub const fn lengths(self) -> (u32, u32) {
                match self { $(Self::$name => ($min, $max),)* }
            }
        }
    };
}

payload_types! {
    HeaderNack = 0x0000, 1..=1;
    VehicleIdRequest = 0x0001, 0..=0;
    VehicleIdRequestByEid = 0x0002, 6..=6;
    VehicleIdRequestByVin = 0x0003, 17..=17;
    Announcement = 0x0004, 32..=33;
    RoutingActivationRequest = 0x0005, 7..=11;
    RoutingActivationResponse = 0x0006, 9..=13;
    AliveCheckRequest = 0x0007, 0..=0;
    AliveCheckResponse = 0x0008, 2..=2;
    EntityStatusRequest = 0x4001, 0..=0;
    EntityStatusResponse = 0x4002, 3..=7;
    PowerModeRequest = 0x4003, 0..=0;
    PowerModeResponse = 0x4004, 1..=1;
    Diagnostic = 0x8001, 5..=0xFFFF_FFFF;
    DiagnosticAck = 0x8002, 5..=0xFFFF_FFFF;
    DiagnosticNack = 0x8003, 5..=0xFFFF_FFFF;
}

impl PayloadType {
    /// Routing activation, alive check and diagnostic messages have no place in a datagram (ISO 13400-2, payload types).
    pub const fn is_tcp_only(self) -> bool {
        matches!(
            self,
            Self::RoutingActivationRequest
                | Self::RoutingActivationResponse
                | Self::AliveCheckRequest
                | Self::AliveCheckResponse
                | Self::Diagnostic
                | Self::DiagnosticAck
                | Self::DiagnosticNack
        )
    }
}

/// A message's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    HeaderNack(HeaderNack),
    VehicleIdRequest,
    VehicleIdRequestByEid([u8; 6]),
    VehicleIdRequestByVin([u8; 17]),
    Announcement(VehicleAnnouncement),
    RoutingActivationRequest {
        source: LogicalAddress,
        activation_type: u8,
        oem: Option<[u8; 4]>,
    },
    RoutingActivationResponse {
        tester: LogicalAddress,
        entity: LogicalAddress,
        code: ActivationCode,
        oem: Option<[u8; 4]>,
    },
    AliveCheckRequest,
    AliveCheckResponse {
        source: LogicalAddress,
    },
    EntityStatusRequest,
    /// Node type 00 gateway, 01 node; sockets at most and now; longest message.
    EntityStatusResponse {
        node_type: u8,
        max_sockets: u8,
        open_sockets: u8,
        max_data_size: Option<u32>,
    },
    PowerModeRequest,
    PowerModeResponse(u8),
    Diagnostic {
        source: LogicalAddress,
        target: LogicalAddress,
        data: Vec<u8>,
    },
    /// `copy`: as much of the acknowledged message as the entity sends back.
    DiagnosticAck {
        source: LogicalAddress,
        target: LogicalAddress,
        code: u8,
        copy: Vec<u8>,
    },
    DiagnosticNack {
        source: LogicalAddress,
        target: LogicalAddress,
        code: DiagnosticNackCode,
        copy: Vec<u8>,
    },
}

/// Why a payload is not of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload of type {kind:?} has {length} bytes, which it cannot have")]
pub struct DecodeError {
    pub kind: PayloadType,
    pub length: usize,
}

impl Message {
    pub const fn payload_type(&self) -> PayloadType {
        match self {
            Self::HeaderNack(_) => PayloadType::HeaderNack,
            Self::VehicleIdRequest => PayloadType::VehicleIdRequest,
            Self::VehicleIdRequestByEid(_) => PayloadType::VehicleIdRequestByEid,
            Self::VehicleIdRequestByVin(_) => PayloadType::VehicleIdRequestByVin,
            Self::Announcement(_) => PayloadType::Announcement,
            Self::RoutingActivationRequest { .. } => PayloadType::RoutingActivationRequest,
            Self::RoutingActivationResponse { .. } => PayloadType::RoutingActivationResponse,
            Self::AliveCheckRequest => PayloadType::AliveCheckRequest,
            Self::AliveCheckResponse { .. } => PayloadType::AliveCheckResponse,
            Self::EntityStatusRequest => PayloadType::EntityStatusRequest,
            Self::EntityStatusResponse { .. } => PayloadType::EntityStatusResponse,
            Self::PowerModeRequest => PayloadType::PowerModeRequest,
            Self::PowerModeResponse(_) => PayloadType::PowerModeResponse,
            Self::Diagnostic { .. } => PayloadType::Diagnostic,
            Self::DiagnosticAck { .. } => PayloadType::DiagnosticAck,
            Self::DiagnosticNack { .. } => PayloadType::DiagnosticNack,
        }
    }

    pub(crate) fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::HeaderNack(code) => out.push(code.code()),
            Self::VehicleIdRequestByEid(eid) => out.extend(eid),
            Self::VehicleIdRequestByVin(vin) => out.extend(vin),
            Self::Announcement(vehicle) => {
                out.extend(vehicle.vin);
                out.extend(vehicle.address.0.to_be_bytes());
                out.extend(vehicle.eid.into_iter().chain(vehicle.gid));
                out.push(vehicle.further_action);
                out.extend(vehicle.sync_status);
            }
            Self::RoutingActivationRequest { source, activation_type, oem } => {
                out.extend(source.0.to_be_bytes());
                out.push(*activation_type);
                out.extend([0; 4]);
                out.extend(oem.iter().flatten());
            }
            Self::RoutingActivationResponse { tester, entity, code, oem } => {
                out.extend(tester.0.to_be_bytes());
                out.extend(entity.0.to_be_bytes());
                out.push(code.code());
                out.extend([0; 4]);
                out.extend(oem.iter().flatten());
            }
            Self::AliveCheckResponse { source } => out.extend(source.0.to_be_bytes()),
            Self::EntityStatusResponse { node_type, max_sockets, open_sockets, max_data_size } => {
                out.extend([*node_type, *max_sockets, *open_sockets]);
                out.extend(max_data_size.iter().flat_map(|size| size.to_be_bytes()));
            }
            Self::PowerModeResponse(mode) => out.push(*mode),
            Self::Diagnostic { source, target, data } => {
                push_addresses(out, *source, *target);
                out.extend_from_slice(data);
            }
            Self::DiagnosticAck { source, target, code, copy } => {
                push_addresses(out, *source, *target);
                out.push(*code);
                out.extend_from_slice(copy);
            }
            Self::DiagnosticNack { source, target, code, copy } => {
                push_addresses(out, *source, *target);
                out.push(code.code());
                out.extend_from_slice(copy);
            }
            Self::VehicleIdRequest | Self::AliveCheckRequest | Self::EntityStatusRequest | Self::PowerModeRequest => {}
        }
    }

    /// Reads the payload of a message of this type.
    pub fn decode_payload(kind: PayloadType, payload: &[u8]) -> Result<Self, DecodeError> {
        let error = DecodeError { kind, length: payload.len() };
        let mut fields = Fields(payload);
        let message = Self::decode_fields(kind, &mut fields).ok_or(error)?;
        if fields.0.is_empty() { Ok(message) } else { Err(error) }
    }

    fn decode_fields(kind: PayloadType, from: &mut Fields<'_>) -> Option<Self> {
        Some(match kind {
            PayloadType::HeaderNack => Self::HeaderNack(from.u8()?.into()),
            PayloadType::VehicleIdRequest => Self::VehicleIdRequest,
            PayloadType::VehicleIdRequestByEid => Self::VehicleIdRequestByEid(from.array()?),
            PayloadType::VehicleIdRequestByVin => Self::VehicleIdRequestByVin(from.array()?),
            PayloadType::Announcement => Self::Announcement(VehicleAnnouncement {
                vin: from.array()?,
                address: from.address()?,
                eid: from.array()?,
                gid: from.array()?,
                further_action: from.u8()?,
                sync_status: from.u8(),
            }),
            PayloadType::RoutingActivationRequest => {
                let (source, activation_type) = (from.address()?, from.u8()?);
                from.array::<4>()?;
                Self::RoutingActivationRequest { source, activation_type, oem: from.array() }
            }
            PayloadType::RoutingActivationResponse => {
                let (tester, entity, code) = (from.address()?, from.address()?, from.u8()?.into());
                from.array::<4>()?;
                Self::RoutingActivationResponse { tester, entity, code, oem: from.array() }
            }
            PayloadType::AliveCheckRequest => Self::AliveCheckRequest,
            PayloadType::AliveCheckResponse => Self::AliveCheckResponse { source: from.address()? },
            PayloadType::EntityStatusRequest => Self::EntityStatusRequest,
            PayloadType::EntityStatusResponse => Self::EntityStatusResponse {
                node_type: from.u8()?,
                max_sockets: from.u8()?,
                open_sockets: from.u8()?,
                max_data_size: from.array().map(u32::from_be_bytes),
            },
            PayloadType::PowerModeRequest => Self::PowerModeRequest,
            PayloadType::PowerModeResponse => Self::PowerModeResponse(from.u8()?),
            PayloadType::Diagnostic => {
                let (source, target, data) = (from.address()?, from.address()?, from.rest());
                if data.is_empty() {
                    return None;
                }
                Self::Diagnostic { source, target, data }
            }
            PayloadType::DiagnosticAck => Self::DiagnosticAck {
                source: from.address()?,
                target: from.address()?,
                code: from.u8()?,
                copy: from.rest(),
            },
            PayloadType::DiagnosticNack => Self::DiagnosticNack {
                source: from.address()?,
                target: from.address()?,
                code: from.u8()?.into(),
                copy: from.rest(),
            },
        })
    }
}

fn push_addresses(out: &mut Vec<u8>, source: LogicalAddress, target: LogicalAddress) {
    out.extend(source.0.to_be_bytes());
    out.extend(target.0.to_be_bytes());
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn address(&mut self) -> Option<LogicalAddress> {
        self.array().map(u16::from_be_bytes).map(LogicalAddress)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}
