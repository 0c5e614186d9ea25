//! Why something did not work, as the page shows it: in an answer that was refused, and in place of the screen.

use pitstop_dbus::OtaError;
use serde::Serialize;

/// A named error in the form that every program here prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub name: &'static str,
    pub text: String,
    /// What to do next.
    pub advice: String,
}

impl From<&OtaError> for Failure {
    fn from(error: &OtaError) -> Self {
        // The bus refuses whoever is not in the group of screens, however well the service runs.
        let (name, advice) = if error.is_bus_error("AccessDenied") {
            ("AccessDenied", format!("run it as root, or as a member of the group {}", crate::SCREEN_GROUP))
        } else {
            (error.short_name(), error.advice().to_owned())
        };
        Self { name, text: error.text(), advice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_the_bus_refuses_learns_of_the_group() {
        let denied = Failure::from(&OtaError::Bus(zbus::fdo::Error::AccessDenied("no".into()).into()));
        assert_eq!(denied.name, "AccessDenied");
        assert!(denied.advice.contains("pitstop-hmi-client"), "{}", denied.advice);
        let changed = OtaError::TextChanged("other".into());
        let shown = Failure::from(&changed);
        assert_eq!(
            (shown.name, shown.text.as_str(), shown.advice.as_str()),
            ("TextChanged", "other", changed.advice())
        );
    }
}
