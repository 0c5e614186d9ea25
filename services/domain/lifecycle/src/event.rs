use std::fmt;

use pitstop_types::{Digest, EcuId, EcuReport, SlotName, UnixSeconds, UpdateId, UserChoice};
use serde::{Deserialize, Serialize};

/// Which of an ECU's two bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// What it shall run.
    Target,
    /// What it runs now and goes back to.
    Fallback,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Fallback => "fallback",
        }
    }
}

/// What went wrong, as the one who saw it named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Error name without its prefix, `PowerTooLow`; it is in `dbus-interfaces` with what to do.
    pub error: String,
    pub text: String,
    #[serde(default)]
    pub ecu: Option<EcuId>,
}

impl Failure {
    pub fn new(error: &str, text: impl Into<String>) -> Self {
        Self { error: error.to_owned(), text: text.into(), ecu: None }
    }

    pub fn of(mut self, ecu: &EcuId) -> Self {
        self.ecu = Some(ecu.clone());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ecu {
            Some(ecu) => write!(f, "{}: {}: {}", ecu, self.error, self.text),
            None => write!(f, "{}: {}", self.error, self.text),
        }
    }
}

/// The driver's answer with what it binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub choice: UserChoice,
    /// When it was given.
    pub at: UnixSeconds,
    /// Who gave it: `hmi`, `pitstopctl`, `phone` ...
    pub origin: String,
    /// Digest of the text that was shown.
    pub prompt: Digest,
    /// When to ask again, if the choice is "later".
    pub ask_again_at: UnixSeconds,
}

/// One start of the TCU as self-update saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The slot that runs.
    pub slot: SlotName,
    /// Differs from boot to boot, not from start to start of a service.
    pub boot_id: String,
    pub at: UnixSeconds,
    /// What is known about why a slot that was tried was left; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What is done once on the way out, in any order within its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// Release floors are raised where the decision says so.
    Floors,
    /// The drive inhibit is released.
    Inhibit,
    /// The end, with the signed manifest, is in the outbox.
    Report,
    /// The history has its entry.
    History,
    /// The driver is told.
    Notice,
    /// Prompt, admitted bundles, cache and lease are released.
    Release,
    #[serde(other)]
    Unknown,
}

/// What can happen to an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The machine was started; what runs is compared with the record. The first event after every start.
    Started(Boot),
    BundleAdmitted {
        ecu: EcuId,
        role: Role,
    },
    /// Admission or fetching refused for good.
    BundleRefused(Failure),
    StepStaged {
        ecu: EcuId,
        attempt: u32,
    },
    StepActivated {
        ecu: EcuId,
        attempt: u32,
    },
    StepCommitted {
        ecu: EcuId,
        attempt: u32,
    },
    StepRolledBack {
        ecu: EcuId,
        attempt: u32,
    },
    /// `again`: it may go better the next time.
    StepFailed {
        ecu: EcuId,
        attempt: u32,
        failure: Failure,
        again: bool,
    },
    Answered(Answer),
    /// The time of a deferred or scheduled update has come.
    Due,
    /// Conditions hold and the drive inhibit is acknowledged.
    Safe,
    /// The trial slot found itself healthy and is marked good.
    MarkedGood,
    /// The trial slot found itself unfit.
    TrialFailed(Failure),
    /// All planned ECUs were asked for their versions; who did not answer is absent.
    ReadBack(Vec<EcuReport>),
    /// The slot that failed to start is marked bad, durably.
    OtherSlotBad,
    DutyDone(Duty),
    Cancelled {
        origin: String,
    },
    Superseded {
        by: UpdateId,
    },
    /// `install_by` has passed.
    Expired,
    /// The update's own time limit has passed, between the first change and the commit.
    DeadlinePassed,
    /// A phase was entered too often. Made by the machine itself.
    TooOften,
}

/// An event without its data: the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    Started,
    BundleAdmitted,
    BundleRefused,
    StepStaged,
    StepActivated,
    StepCommitted,
    StepRolledBack,
    StepFailed,
    AnsweredNow,
    AnsweredAt,
    AnsweredLater,
    AnsweredNo,
    Due,
    Safe,
    MarkedGood,
    TrialFailed,
    ReadBack,
    OtherSlotBad,
    DutyDone,
    Cancelled,
    Superseded,
    Expired,
    DeadlinePassed,
    TooOften,
}

impl EventKind {
    pub const ALL: [Self; 24] = [
        Self::Started,
        Self::BundleAdmitted,
        Self::BundleRefused,
        Self::StepStaged,
        Self::StepActivated,
        Self::StepCommitted,
        Self::StepRolledBack,
        Self::StepFailed,
        Self::AnsweredNow,
        Self::AnsweredAt,
        Self::AnsweredLater,
        Self::AnsweredNo,
        Self::Due,
        Self::Safe,
        Self::MarkedGood,
        Self::TrialFailed,
        Self::ReadBack,
        Self::OtherSlotBad,
        Self::DutyDone,
        Self::Cancelled,
        Self::Superseded,
        Self::Expired,
        Self::DeadlinePassed,
        Self::TooOften,
    ];
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Started(_) => EventKind::Started,
            Self::BundleAdmitted { .. } => EventKind::BundleAdmitted,
            Self::BundleRefused(_) => EventKind::BundleRefused,
            Self::StepStaged { .. } => EventKind::StepStaged,
            Self::StepActivated { .. } => EventKind::StepActivated,
            Self::StepCommitted { .. } => EventKind::StepCommitted,
            Self::StepRolledBack { .. } => EventKind::StepRolledBack,
            Self::StepFailed { .. } => EventKind::StepFailed,
            Self::Answered(answer) => match answer.choice {
                UserChoice::Now => EventKind::AnsweredNow,
                UserChoice::At { .. } => EventKind::AnsweredAt,
                UserChoice::Later => EventKind::AnsweredLater,
                UserChoice::No => EventKind::AnsweredNo,
            },
            Self::Due => EventKind::Due,
            Self::Safe => EventKind::Safe,
            Self::MarkedGood => EventKind::MarkedGood,
            Self::TrialFailed(_) => EventKind::TrialFailed,
            Self::ReadBack(_) => EventKind::ReadBack,
            Self::OtherSlotBad => EventKind::OtherSlotBad,
            Self::DutyDone(_) => EventKind::DutyDone,
            Self::Cancelled { .. } => EventKind::Cancelled,
            Self::Superseded { .. } => EventKind::Superseded,
            Self::Expired => EventKind::Expired,
            Self::DeadlinePassed => EventKind::DeadlinePassed,
            Self::TooOften => EventKind::TooOften,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}
