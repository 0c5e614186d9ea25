use std::fmt;

macro_rules! nrcs {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Negative response code (ISO 14229-1:2020, table A.1). Codes without a name here are kept as they are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Nrc {
            $(#[doc = $text] $name,)*
            /// A code this table does not name: reserved, or the maker's own.
            Unknown(u8),
        }

        impl Nrc {
            /// The code on the wire.
            pub const fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* Self::Unknown(code) => code }
            }

            /// A few words for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown(_) => "unknown code" }
            }
        }

        impl From<u8> for Nrc {
            fn from(code: u8) -> Self {
                match code { $($code => Self::$name,)* other => Self::Unknown(other) }
            }
        }
    };
}

nrcs! {
    GeneralReject = 0x10, "general reject";
    ServiceNotSupported = 0x11, "service not supported";
    SubFunctionNotSupported = 0x12, "sub-function not supported";
    IncorrectMessageLengthOrInvalidFormat = 0x13, "incorrect message length or format";
    ResponseTooLong = 0x14, "response too long";
    BusyRepeatRequest = 0x21, "busy, repeat request";
    ConditionsNotCorrect = 0x22, "conditions not correct";
    RequestSequenceError = 0x24, "request sequence error";
    NoResponseFromSubnetComponent = 0x25, "no response from subnet component";
    FailurePreventsExecution = 0x26, "a failure prevents execution";
    RequestOutOfRange = 0x31, "request out of range";
    SecurityAccessDenied = 0x33, "security access denied";
    AuthenticationRequired = 0x34, "authentication required";
    InvalidKey = 0x35, "invalid key";
    ExceededNumberOfAttempts = 0x36, "exceeded number of attempts";
    RequiredTimeDelayNotExpired = 0x37, "required time delay not expired";
    CertificateInvalidTimePeriod = 0x50, "certificate: invalid time period";
    CertificateInvalidSignature = 0x51, "certificate: invalid signature";
    CertificateInvalidChainOfTrust = 0x52, "certificate: invalid chain of trust";
    CertificateInvalidType = 0x53, "certificate: invalid type";
    CertificateInvalidFormat = 0x54, "certificate: invalid format";
    CertificateInvalidContent = 0x55, "certificate: invalid content";
    CertificateInvalidScope = 0x56, "certificate: invalid scope";
    CertificateInvalidRevoked = 0x57, "certificate: revoked";
    OwnershipVerificationFailed = 0x58, "ownership verification failed";
    ChallengeCalculationFailed = 0x59, "challenge calculation failed";
    SettingAccessRightsFailed = 0x5A, "setting access rights failed";
    SessionKeyCreationFailed = 0x5B, "session key creation failed";
    ConfigurationDataUsageFailed = 0x5C, "configuration data usage failed";
    DeauthenticationFailed = 0x5D, "de-authentication failed";
    UploadDownloadNotAccepted = 0x70, "upload or download not accepted";
    TransferDataSuspended = 0x71, "transfer data suspended";
    GeneralProgrammingFailure = 0x72, "general programming failure";
    WrongBlockSequenceCounter = 0x73, "wrong block sequence counter";
    RequestCorrectlyReceivedResponsePending = 0x78, "response pending";
    SubFunctionNotSupportedInActiveSession = 0x7E, "sub-function not supported in active session";
    ServiceNotSupportedInActiveSession = 0x7F, "service not supported in active session";
    VoltageTooHigh = 0x92, "voltage too high";
    VoltageTooLow = 0x93, "voltage too low";
    ResourceTemporarilyNotAvailable = 0x94, "resource temporarily not available";
}

/// What a client sensibly does after a negative response. The counts and pauses belong to the flash profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Go on waiting with P2*; not an error ([`crate::ClientSession`] does this itself).
    Wait,
    /// The same request again after a short pause, bounded ([`crate::ClientSession`] does this itself).
    RepeatSoon,
    /// A condition of the vehicle must change first (voltage, speed, ignition).
    ConditionMustChange,
    /// Unlock (27 or 29) once more, then the same request once.
    Unlock,
    /// The ECU's session fell back or its sequence was lost: enter the session again and restart this phase.
    RestartPhase,
    /// Transfer broken: erase and send this segment again, bounded.
    RestartSegment,
    /// The server expects another block counter: if our last block went unanswered it was taken.
    ResyncBlock,
    /// Wait the delay the server demands (10 s is usual), then one try.
    WaitDelay,
    /// Repeating cannot help: the order is wrong for this ECU.
    GiveUp,
}

impl Nrc {
    /// The usual reaction of a tester, by code (the reference table of the project, after ISO 14229-1 annex A).
    pub const fn reaction(self) -> Reaction {
        match self {
            Self::RequestCorrectlyReceivedResponsePending => Reaction::Wait,
            Self::BusyRepeatRequest | Self::ResourceTemporarilyNotAvailable => Reaction::RepeatSoon,
            Self::ConditionsNotCorrect | Self::VoltageTooHigh | Self::VoltageTooLow => Reaction::ConditionMustChange,
            Self::SecurityAccessDenied | Self::AuthenticationRequired => Reaction::Unlock,
            Self::RequestSequenceError
            | Self::SubFunctionNotSupportedInActiveSession
            | Self::ServiceNotSupportedInActiveSession => Reaction::RestartPhase,
            Self::UploadDownloadNotAccepted | Self::TransferDataSuspended | Self::GeneralProgrammingFailure => {
                Reaction::RestartSegment
            }
            Self::WrongBlockSequenceCounter => Reaction::ResyncBlock,
            Self::RequiredTimeDelayNotExpired => Reaction::WaitDelay,
            _ => Reaction::GiveUp,
        }
    }
}

impl fmt::Display for Nrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.text(), self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_way_there_and_back() {
        for code in 0..=u8::MAX {
            assert_eq!(Nrc::from(code).code(), code);
        }
    }

    #[test]
    fn an_unnamed_code_keeps_its_number_in_text() {
        assert_eq!(Nrc::from(0xF1), Nrc::Unknown(0xF1));
        assert_eq!(Nrc::Unknown(0xF1).to_string(), "unknown code (0xF1)");
    }
}
