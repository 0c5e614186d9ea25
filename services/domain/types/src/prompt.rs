use serde::{Deserialize, Serialize};

/// What UN R156 7.2.2.2 wants the driver told before an update: all five, none empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptFacts {
    /// Why: purpose and criticality.
    pub purpose: String,
    /// What changes for the driver.
    pub changes: String,
    /// Expected time to install, in seconds, 1 to 86 400.
    pub expected_secs: u32,
    /// What will not work meanwhile.
    pub unavailable: String,
    /// What to do, and what not to.
    pub instructions: String,
}

/// Which of the five facts is missing or out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptFactsError {
    #[error("the driver's information lacks its {0}")]
    Missing(&'static str),
    #[error("the driver's information has a {0} of more than 2000 bytes")]
    TooLong(&'static str),
    #[error("the expected time is {0} s; 1 to 86400 s are allowed")]
    Time(u32),
}

impl PromptFacts {
    /// Refuses facts that are absent, blank or too long to show.
    pub fn check(&self) -> Result<(), PromptFactsError> {
        for (name, text) in [
            ("purpose", &self.purpose),
            ("changes", &self.changes),
            ("unavailable functions", &self.unavailable),
            ("instructions", &self.instructions),
        ] {
            if text.trim().is_empty() {
                return Err(PromptFactsError::Missing(name));
            }
            if text.len() > 2000 {
                return Err(PromptFactsError::TooLong(name));
            }
        }
        if self.expected_secs == 0 || self.expected_secs > 86_400 {
            return Err(PromptFactsError::Time(self.expected_secs));
        }
        Ok(())
    }
}

/// The driver's answer to a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "choice")]
pub enum UserChoice {
    Now,
    /// At a wall-clock time.
    At {
        unix_secs: i64,
    },
    /// Ask again later.
    Later,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> PromptFacts {
        PromptFacts {
            purpose: "Safety".into(),
            changes: "Brakes".into(),
            expected_secs: 600,
            unavailable: "Driving".into(),
            instructions: "Park".into(),
        }
    }

    #[test]
    fn every_one_of_the_five_facts_is_needed() {
        assert_eq!(facts().check(), Ok(()));
        assert!(PromptFacts { purpose: " ".into(), ..facts() }.check().is_err());
        assert!(PromptFacts { changes: String::new(), ..facts() }.check().is_err());
        assert!(PromptFacts { expected_secs: 0, ..facts() }.check().is_err());
        assert!(PromptFacts { unavailable: String::new(), ..facts() }.check().is_err());
        assert!(PromptFacts { instructions: "x".repeat(2001), ..facts() }.check().is_err());
    }
}
