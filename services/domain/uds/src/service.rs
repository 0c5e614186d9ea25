use std::fmt;

macro_rules! services {
    ($($name:ident = $code:literal;)*) => {
        /// Service identifier of a request (ISO 14229-1:2020, table 2), those Pitstop knows; [`ServiceId::Other`] keeps the rest.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ServiceId {
            $($name,)*
            Other(u8),
        }

        impl ServiceId {
            /// The byte of a request.
            pub const fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* Self::Other(code) => code }
            }
        }

        impl From<u8> for ServiceId {
            fn from(code: u8) -> Self {
                match code { $($code => Self::$name,)* other => Self::Other(other) }
            }
        }
    };
}

services! {
    DiagnosticSessionControl = 0x10;
    EcuReset = 0x11;
    ClearDiagnosticInformation = 0x14;
    ReadDtcInformation = 0x19;
    ReadDataByIdentifier = 0x22;
    SecurityAccess = 0x27;
    CommunicationControl = 0x28;
    Authentication = 0x29;
    WriteDataByIdentifier = 0x2E;
    RoutineControl = 0x31;
    RequestDownload = 0x34;
    RequestUpload = 0x35;
    TransferData = 0x36;
    RequestTransferExit = 0x37;
    RequestFileTransfer = 0x38;
    TesterPresent = 0x3E;
    ControlDtcSetting = 0x85;
}

impl ServiceId {
    /// The first byte of a positive response: bit 6 set.
    pub const fn positive(self) -> u8 {
        self.code() | 0x40
    }

    /// Whether the second byte is a sub-function whose bit 7 suppresses the positive response.
    pub const fn has_sub_function(self) -> bool {
        matches!(
            self,
            Self::DiagnosticSessionControl
                | Self::EcuReset
                | Self::ReadDtcInformation
                | Self::SecurityAccess
                | Self::CommunicationControl
                | Self::Authentication
                | Self::RoutineControl
                | Self::TesterPresent
                | Self::ControlDtcSetting
        )
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(code) => write!(f, "service 0x{code:02X}"),
            known => write!(f, "{known:?} (0x{:02X})", known.code()),
        }
    }
}
