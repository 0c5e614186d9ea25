use pitstop_dbus::OtaError;
use pitstop_dbus::access::ADMIN_GROUP;

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
    /// The bus does not let this user make the call, however well the service runs.
    #[error("{text} (AccessDenied)")]
    Denied { service: &'static str, text: String },
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

/// The group of screens. At the HMI service it may do what pitstopctl does there.
const SCREEN_GROUP: &str = "pitstop-hmi-client";

/// Errors by which the bus says that nobody owns the name, or that a service went away.
const AWAY: [&str; 4] = ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected"];

impl CtlError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(OtaError::NoUpdate(_)) => 4,
            Self::Start(_) | Self::Refused(_) | Self::Denied { .. } | Self::BrokenHistory(_) => 1,
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
            Self::Refused(error) => error.advice().to_owned(),
            Self::Denied { service: "Hmi", .. } => {
                format!("run it as root, or as a member of the group {ADMIN_GROUP} or {SCREEN_GROUP}")
            }
            Self::Denied { .. } => format!("run it as root, or as a member of the group {ADMIN_GROUP}"),
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
            Self::Denied { .. } => "AccessDenied",
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
            Self::Denied { text, .. } => text.clone(),
            other => other.to_string(),
        };
        serde_json::json!({"error": {"name": self.name(), "text": text, "advice": self.advice()}}).to_string()
    }

    /// The error of a call to the service `X` (`Manager`).
    pub fn of_call(service: &'static str) -> impl Fn(OtaError) -> Self {
        move |error| {
            if error.is_bus_error("AccessDenied") {
                return Self::Denied { service, text: error.text() };
            }
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
    use pitstop_dbus::access::{Access, Caller, TABLE};

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
        let busy = OtaError::Busy("x".into());
        assert!(matches!(CtlError::of_call("Manager")(busy), CtlError::Refused(_)));
    }

    #[test]
    fn without_an_update_there_is_nothing_to_do_it_to() {
        let cancel = CtlError::of_call("Manager")(OtaError::NoUpdate("no update is running".into()));
        assert_eq!((cancel.exit_code(), cancel.name()), (4, "NoUpdate"));
        assert_eq!(CtlError::Refused(OtaError::UnknownUpdate("u-1".into())).exit_code(), 1);
    }

    #[test]
    fn whoever_the_bus_refuses_learns_of_the_groups() {
        let denied =
            |service| CtlError::of_call(service)(OtaError::Bus(zbus::fdo::Error::AccessDenied("x".into()).into()));
        let manager = denied("Manager");
        assert_eq!((manager.exit_code(), manager.name()), (1, "AccessDenied"));
        assert_eq!(manager.advice(), "run it as root, or as a member of the group pitstop-admin");
        assert!(manager.json().contains(r#""name":"AccessDenied""#) && manager.human().contains("(AccessDenied)"));
        assert!(denied("Hmi").advice().ends_with("pitstop-admin or pitstop-hmi-client"));
    }

    #[test]
    fn the_groups_named_may_do_all_that_is_asked_of_a_service() {
        let table = Access::parse(TABLE).unwrap();
        let caller = |group: &str| {
            let is = |who: &Caller| matches!(who, Caller::Group(name) if name == group);
            table.callers.iter().find(|(_, who)| is(who)).unwrap().0.clone()
        };
        let (admin, screen) = (caller(ADMIN_GROUP), caller(SCREEN_GROUP));
        for (service, interface, members) in [
            ("Manager", "Manager", &["Check", "Cancel", "GetStatus", "GetHistory", "ExportHistory", "GetRefusals"][..]),
            ("BackendLink", "BackendLink", &["Provision", "GetStatus"]),
            ("Flasher", "Flasher", &["ListEcus", "ReadVersions"]),
            ("SelfUpdate", "SelfUpdate", &["GetSlots"]),
            ("VehicleState", "VehicleState", &["Evaluate", "GetSignals"]),
            ("Hmi", "Prompts", &["ListPrompts", "ListNotices"]),
            ("Hmi", "Prompt", &["Answer"]),
            ("Hmi", "Notice", &["Acknowledge"]),
        ] {
            for member in members {
                assert!(table.allows(&admin, service, interface, member), "{interface}.{member}");
                assert!(service != "Hmi" || table.allows(&screen, service, interface, member), "{interface}.{member}");
            }
        }
    }
}
