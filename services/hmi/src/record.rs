use pitstop_types::{Digest, PromptFacts, UnixSeconds, UpdateEnd, UpdateId, UserChoice};
use serde::{Deserialize, Serialize};

/// A prompt as it is stored. Read by older releases too, so unknown fields are let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    pub update: UpdateId,
    pub facts: PromptFacts,
    pub digest: Digest,
    /// Order of asking, unique; for lists "oldest first".
    pub number: u64,
    /// Wall clock when it was asked, `None` if it was not known.
    pub asked_at: Option<UnixSeconds>,
    pub state: PromptState,
    /// The present answer. It stays when the prompt is withdrawn and goes when it is asked again.
    pub answer: Option<Answer>,
    /// `answered_at` of the answer that asking again, or another text, took out of use; `None`: there was none.
    #[serde(default)]
    pub answered_before: Option<UnixSeconds>,
}

impl Prompt {
    /// `answered_at` of the newest answer to this update's prompt, whether it counts or not.
    pub fn last_answered_at(&self) -> Option<UnixSeconds> {
        self.answer.as_ref().map(|answer| answer.answered_at).max(self.answered_before)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptState {
    /// To be shown.
    Open,
    Answered,
    Withdrawn,
}

/// What the driver said, bound to what was on the screen (UN R156 7.2.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    pub choice: UserChoice,
    pub origin: Origin,
    /// Wall clock of the answer, 0 if it was not known; but later than that of the update's answer before, by which two are told
    /// apart: a clock that is unset or was set back does not make an answer the older one.
    pub answered_at: UnixSeconds,
    /// Digest of the text that was shown.
    pub text_digest: Digest,
}

/// Through what the driver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Hmi,
    CommandLine,
}

/// How an update ended, until the driver has seen it (UN R156 7.2.2.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub update: UpdateId,
    pub end: UpdateEnd,
    pub text: String,
    pub number: u64,
    pub at: Option<UnixSeconds>,
    pub acknowledged: bool,
}

/// One line of the consent log: everything that an auditor asks of one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    pub update: UpdateId,
    #[serde(flatten)]
    pub answer: Answer,
}

impl PromptState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Answered => "answered",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hmi => "hmi",
            Self::CommandLine => "command-line",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Hmi, Self::CommandLine].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// The choice's word on the bus, and the time that goes with it (0 for all but "at").
pub fn choice_words(choice: UserChoice) -> (&'static str, UnixSeconds) {
    match choice {
        UserChoice::Now => ("now", 0),
        UserChoice::At { unix_secs } => ("at", unix_secs),
        UserChoice::Later => ("later", 0),
        UserChoice::No => ("no", 0),
    }
}

/// Digest of the text of a prompt: SHA-256 over purpose, changes, expected seconds in decimal, unavailable functions and
/// instructions, each followed by a zero byte (which no D-Bus string holds), so that a screen can compute it itself.
pub fn text_digest(facts: &PromptFacts) -> Digest {
    let seconds = facts.expected_secs.to_string();
    let parts = [&facts.purpose, &facts.changes, &seconds, &facts.unavailable, &facts.instructions];
    Digest::of(&parts.iter().flat_map(|part| part.bytes().chain([0])).collect::<Vec<_>>())
}
