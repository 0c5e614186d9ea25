use zbus::DBusError;

/// What a call of Pitstop's services returns.
pub type Result<T> = std::result::Result<T, OtaError>;

macro_rules! errors {
    ($($(#[doc = $doc:literal])* $name:ident => $advice:literal,)*) => {
        /// The named errors, `io.pitstop.Ota1.Error.X`. The text says what happened where; [`OtaError::advice`] says what to do.
        #[derive(Debug, Clone, PartialEq, DBusError)]
        #[zbus(prefix = "io.pitstop.Ota1.Error")]
        pub enum OtaError {
            /// Anything the bus itself answers: no such service, no reply, wrong arguments.
            #[zbus(error)]
            Bus(zbus::Error),
            $($(#[doc = $doc])* $name(String),)*
        }

        impl OtaError {
            /// Names of all errors, without prefix.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Name without prefix (`CheckFailed`); `Bus` for an error of the bus itself.
            pub fn short_name(&self) -> &'static str {
                match self { Self::Bus(_) => "Bus", $(Self::$name(_) => stringify!($name),)* }
            }

            /// What went wrong, with ECU, slot or address.
            pub fn text(&self) -> String {
                match self { Self::Bus(error) => error.to_string(), $(Self::$name(text) => text.clone(),)* }
            }

            /// What whoever meets this error does next.
            pub fn advice(&self) -> &'static str {
                match self { Self::Bus(_) => "check that the service is running", $(Self::$name(_) => $advice,)* }
            }

            /// The error with this name (short, or with prefix) and text; an unknown name is `Internal`, and says so.
            pub fn from_name(name: &str, text: impl Into<String>) -> Self {
                let text = text.into();
                let short = name.strip_prefix(crate::ERROR_PREFIX).map_or(name, |rest| rest.trim_start_matches('.'));
                match short {
                    $(stringify!($name) => Self::$name(text),)*
                    _ => Self::Internal(format!("{name}: {text}")),
                }
            }
        }
    };
}

errors! {
    /// An argument is malformed or out of range.
    InvalidArgument => "correct the call",
    /// vehicle.toml has no such ECU.
    UnknownEcu => "list the ECUs",
    /// No update of this id is known here.
    UnknownUpdate => "look at the manager's status",
    /// No update is running.
    NoUpdate => "check for one",
    /// Not possible in the present phase.
    WrongPhase => "wait, or look at the status",
    /// Other work holds what this needs.
    Busy => "wait until it has ended",
    /// A service this needs is not there yet.
    NotReady => "try again shortly",
    /// What was asked for does not exist.
    NotFound => "check the name",
    /// This vehicle has no certificate yet.
    NotProvisioned => "provision it with a token from the backend",
    /// The backend could not be reached.
    Network => "retried by itself; check the connection",
    /// The backend said no; its reason is in the text.
    BackendRefused => "read the reason",
    /// Data came more slowly than the limit allows.
    Slow => "retried by itself",
    /// More bytes than allowed.
    TooLarge => "nothing was kept; report it to who made the release",
    /// Not enough free space.
    OutOfSpace => "free space on the data partition",
    /// Reading or writing the data partition failed.
    Storage => "check the data partition",
    /// The work was cancelled.
    Cancelled => "start it again if it was not meant",
    /// The TPM did not do what was asked.
    Tpm => "check that the TPM is there",
    /// The wall clock is not known to be right, so nothing that expires can be judged.
    TimeUnknown => "wait for time synchronisation",
    /// Metadata is not signed by enough of the right keys.
    UnmetThreshold => "refused; the backend must sign it properly",
    /// Metadata is past its date: a freeze attack, or a backend that no longer signs.
    MetadataExpired => "refused; check the backend",
    /// Metadata is older than what is trusted already.
    MetadataRollback => "refused; check the backend",
    /// Metadata files do not belong together.
    MixAndMatch => "refused; check the backend",
    /// Director and Image repository do not describe the same target.
    TargetMismatch => "refused; check the release",
    /// Made for other hardware.
    BadHardwareId => "refused; check the release",
    /// Names an ECU that this vehicle does not have, or names one twice.
    BadEcuId => "refused; check the inventory",
    /// Signed for another vehicle.
    Replay => "refused",
    /// Metadata is longer than its limit.
    Oversized => "refused",
    /// Metadata cannot be read.
    MetadataMalformed => "refused; check the backend",
    /// The release counter is below the floor.
    BelowFloor => "refused; only a release with a new counter can bring this software back",
    /// The bundle has another length than was decided.
    LengthMismatch => "refused; nothing was written",
    /// The bundle has another hash than was decided.
    HashMismatch => "refused; nothing was written",
    /// The bundle's form is wrong.
    BadBundle => "refused; nothing was written",
    /// The bundle's signature is wrong or not by a trusted key.
    BadSignature => "refused; nothing was written",
    /// The bundle's manifest is not the one that was decided.
    ManifestMismatch => "refused; nothing was written",
    /// The bundle has not been admitted.
    NotAdmitted => "admit it first",
    /// The step could not be undone: no fallback is known.
    NoFallback => "refused before a byte was fetched; register the present software at the backend",
    /// The ECU or slot runs other software than the order expects.
    UnexpectedSoftware => "refused; the backend needs a new manifest",
    /// The driver has not agreed.
    NoConsent => "ask the driver",
    /// The vehicle is not at standstill with drive inhibit.
    NotSafe => "park the vehicle",
    /// A condition does not hold; the text names it.
    ConditionsNotMet => "wait until it holds",
    /// The ECU does not answer.
    EcuNotResponding => "check wiring and power",
    /// The ECU refused; the negative response code is in the text.
    EcuRefused => "see the code's meaning",
    /// The ECU's check of the new software failed.
    CheckFailed => "undone by itself; check the release",
    /// The ECU could not be programmed.
    FlashFailed => "undone by itself; a workshop may be needed",
    /// The slot could not be written or read back.
    SlotFailed => "undone by itself; check the storage device",
    /// The boot environment could not be read or written.
    BootEnvironment => "check the boot partition",
    /// The answer is for another text than the one shown.
    TextChanged => "show the new text and ask again",
    /// Somebody answered first.
    AlreadyAnswered => "nothing to do",
    /// No order of steps can be made of the decision.
    NotPlannable => "refused; check the release and vehicle.toml",
    /// The boot loader returned to the old slot by itself.
    FellBack => "undone by itself; check the release",
    /// The new slot found itself unfit.
    Unhealthy => "undone by itself; check the release",
    /// The update was not ready to commit in time.
    DeadlinePassed => "undone by itself; see the journal for what took so long",
    /// The same phase was entered again and again.
    TooOften => "given up; see the journal for what failed",
    /// The driver said no.
    Declined => "nothing to do",
    /// A newer update took its place.
    Superseded => "nothing to do",
    /// The time by which it had to start has passed.
    Expired => "nothing to do; the backend offers it again if it is still wanted",
    /// A defect in Pitstop.
    Internal => "report it with the journal",
}

impl OtaError {
    /// Whether the same call may succeed later without anybody doing anything: the other side is away or busy.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Bus(_) => !["InvalidArgs", "UnknownMethod", "UnknownInterface", "AccessDenied"]
                .iter()
                .any(|name| self.is_bus_error(name)),
            Self::Busy(_) | Self::NotReady(_) | Self::Network(_) | Self::Slow(_) => true,
            _ => false,
        }
    }

    /// Whether the object is not there (any more), although its service is.
    pub fn is_gone(&self) -> bool {
        ["UnknownObject", "UnknownInterface", "UnknownMethod"].iter().any(|name| self.is_bus_error(name))
    }

    /// Whether the bus answered with `org.freedesktop.DBus.Error.NAME`.
    pub fn is_bus_error(&self, name: &str) -> bool {
        let found = match self {
            Self::Bus(zbus::Error::MethodError(found, _, _)) => found.to_string(),
            Self::Bus(zbus::Error::FDO(error)) => DBusError::name(&**error).to_string(),
            _ => return false,
        };
        found.strip_prefix("org.freedesktop.DBus.Error.") == Some(name)
    }

    /// The full error name as it goes over the bus.
    pub fn full_name(&self) -> String {
        format!("{}.{}", crate::ERROR_PREFIX, self.short_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_its_own_error_again() {
        for name in OtaError::NAMES {
            let error = OtaError::from_name(name, "text");
            assert_eq!(error.short_name(), *name);
            assert_eq!(OtaError::from_name(&error.full_name(), "text"), error);
            assert_eq!(zbus::DBusError::name(&error).as_str(), error.full_name());
            assert!(!error.advice().is_empty());
        }
        assert_eq!(OtaError::from_name("Nonsense", "x").short_name(), "Internal");
    }
}
