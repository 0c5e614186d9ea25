use pitstop_dbus::OtaError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    #[error("the bus at {address} cannot be reached: {cause}")]
    NoBus { address: String, cause: zbus::Error },
    #[error("{0} is not running")]
    NoService(String),
    #[error("{} ({})", .0.text(), .0.short_name())]
    Refused(OtaError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Nothing(String),
    #[error("{} updates wait for an answer: {}", .0.len(), .0.join(", "))]
    Several(Vec<String>),
    #[error("update {update} ended {end}: {text}")]
    Ended { update: String, end: String, text: String },
    #[error("the hash chain of the history is broken after {0} good entries")]
    BrokenHistory(u64),
}

/// Errors by which the bus says that nobody owns the name, or that a service went away.
const AWAY: [&str; 4] = ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected"];

impl CtlError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(_) | Self::Refused(_) | Self::BrokenHistory(_) => 1,
            Self::Usage(_) | Self::Several(_) => 2,
            Self::NoBus { .. } | Self::NoService(_) => 3,
            Self::Nothing(_) => 4,
            Self::Ended { .. } => 5,
        }
    }

    /// What to do next.
    pub fn advice(&self) -> String {
        match self {
            Self::Start(_) => "check the limits of this shell".to_owned(),
            Self::NoBus { .. } => "check that D-Bus runs, or give the address by --address".to_owned(),
            Self::NoService(service) => match unit(service) {
                Some(unit) => format!("look at 'systemctl status {unit}', or give another bus by --address"),
                None => "look at the journal, or give another bus by --address".to_owned(),
            },
            Self::Refused(error) if error.is_bus_error("AccessDenied") => {
                "run it as root for reading, or as a member of the group pitstop-admin".to_owned()
            }
            Self::Refused(error) => error.advice().to_owned(),
            Self::Usage(_) => "see 'pitstopctl help'".to_owned(),
            Self::Nothing(_) => "see 'pitstopctl status', or ask the backend by 'pitstopctl check'".to_owned(),
            Self::Several(_) => "name one of them".to_owned(),
            Self::Ended { .. } => "see 'pitstopctl history' and the backend's page of this vehicle".to_owned(),
            Self::BrokenHistory(_) => {
                "somebody changed the file, or the disk is damaged: keep it and report it".to_owned()
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "Start",
            Self::NoBus { .. } => "NoBus",
            Self::NoService(_) => "NoService",
            Self::Refused(error) => error.short_name(),
            Self::Usage(_) => "Usage",
            Self::Nothing(_) => "Nothing",
            Self::Several(_) => "Several",
            Self::Ended { .. } => "Ended",
            Self::BrokenHistory(_) => "BrokenHistory",
        }
    }

    pub fn human(&self) -> String {
        format!("pitstopctl: {self}\nWhat to do: {}.\n", self.advice())
    }

    pub fn json(&self) -> String {
        let text = match self {
            Self::Refused(error) => error.text(),
            other => other.to_string(),
        };
        serde_json::json!({"error": {"name": self.name(), "text": text, "advice": self.advice()}}).to_string()
    }

    /// The error of a call to the service `X` (`Manager`).
    pub fn of_call(service: &'static str) -> impl Fn(OtaError) -> Self {
        move |error| {
            let away = matches!(error, OtaError::Bus(zbus::Error::InputOutput(_)))
                || AWAY.iter().any(|away| error.is_bus_error(away));
            if away { Self::NoService(pitstop_dbus::bus_name(service)) } else { Self::Refused(error) }
        }
    }

    /// The error of a property read of the service `X`.
    pub fn of_read(service: &'static str) -> impl Fn(zbus::Error) -> Self {
        move |error| Self::of_call(service)(OtaError::Bus(error))
    }
}

/// The unit behind a bus name.
fn unit(bus_name: &str) -> Option<String> {
    bus_name.rsplit('.').next().map(pitstop_dbus::unit_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let refused = CtlError::Refused(OtaError::NotProvisioned("no certificate".into()));
        assert_eq!(
            refused.human(),
            "pitstopctl: no certificate (NotProvisioned)\nWhat to do: provision it with a token from the backend.\n"
        );
        assert_eq!(
            refused.json(),
            r#"{"error":{"advice":"provision it with a token from the backend","name":"NotProvisioned","text":"no certificate"}}"#
        );
        let away = CtlError::NoService("io.pitstop.Ota1.SelfUpdate".into());
        assert!(away.advice().contains("pitstop-self-update"));
        assert_eq!(away.exit_code(), 3);
    }

    #[test]
    fn a_name_without_owner_is_a_service_that_does_not_run() {
        let error = zbus::Error::from(zbus::fdo::Error::ServiceUnknown("x".into()));
        assert!(matches!(CtlError::of_call("Manager")(OtaError::Bus(error)), CtlError::NoService(_)));
        let denied = CtlError::of_call("Manager")(OtaError::Bus(zbus::fdo::Error::AccessDenied("x".into()).into()));
        assert!(denied.advice().contains("pitstop-admin"), "{}", denied.advice());
        let busy = OtaError::Busy("x".into());
        assert!(matches!(CtlError::of_call("Manager")(busy), CtlError::Refused(_)));
    }
}
