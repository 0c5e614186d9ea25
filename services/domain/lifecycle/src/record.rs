use std::collections::{BTreeMap, BTreeSet};

use pitstop_types::{
    Decision, Digest, EcuId, SlotName, SoftwareRef, SoftwareVersion, UnixSeconds, UpdateEnd, UserChoice,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Boot, Direction, Duty, Failure, Phase, Plan, Role};

/// Format of the record this release writes.
pub const FORMAT: u32 = 1;
/// Oldest format whose readers can act on what this release writes. Raised only by a release whose predecessor
/// reads the new format already: until the trial slot is committed, the previous release may have to read it.
pub const READABLE_FROM: u32 = 1;
/// Starts kept in the record, newest last.
const MAX_BOOTS: usize = 32;

/// All that is remembered of the running update. Written whole before what it announces is done.
///
/// Fields that this release does not know are kept when it writes the record back ([`Record::extra`]), so that a
/// fall-back to it and a later return to the newer release lose nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// A reader whose own format is smaller leaves the record alone.
    pub readable_from: u32,
    /// Counts transitions, from 1.
    pub sequence: u64,
    pub phase: Phase,
    pub direction: Direction,
    /// When the phase was entered.
    pub since: UnixSeconds,
    pub started: UnixSeconds,
    pub decision: Decision,
    /// In the order in which they are activated.
    pub steps: Vec<Step>,
    /// The TCU's slots, if the TCU changes.
    #[serde(default)]
    pub slots: Option<SlotPair>,
    /// Seconds from the first change until everything must be ready to commit.
    pub limit_secs: u32,
    #[serde(default)]
    pub consent: Option<Consent>,
    /// Every answer in order; the last one counts.
    #[serde(default)]
    pub answers: Vec<Consent>,
    /// Time the present phase waits for ([`Phase::Deferred`], [`Phase::Scheduled`]).
    #[serde(default)]
    pub due: Option<UnixSeconds>,
    /// Between the first change and the commit: after it the update is undone.
    #[serde(default)]
    pub deadline: Option<UnixSeconds>,
    /// How often each phase was entered, starts in the middle included.
    #[serde(default)]
    pub entered: BTreeMap<Phase, u32>,
    #[serde(default)]
    pub boots: Vec<Boot>,
    #[serde(default)]
    pub done: BTreeSet<Duty>,
    /// What the last reading back found; `None`: in its bootloader. Who did not answer is absent.
    #[serde(default)]
    pub found: BTreeMap<EcuId, Option<SoftwareVersion>>,
    #[serde(default)]
    pub end: Option<UpdateEnd>,
    /// What decided that the update does not end as all new.
    #[serde(default)]
    pub reason: Option<Failure>,
    /// What a newer release wrote and this one does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The slots when the update was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPair {
    pub old: SlotName,
    pub new: SlotName,
}

/// One answer of the driver, kept as evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    pub choice: UserChoice,
    pub at: UnixSeconds,
    pub origin: String,
    /// Digest of the text that was shown.
    pub prompt: Digest,
}

/// How an ECU takes new software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The other bank is written in the background, then switched to.
    DualBank,
    /// The only bank is overwritten.
    SingleBank,
    /// The TCU: the other slot is written in the background, then started.
    Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Waiting,
    Staged,
    /// Ordered: from here on it counts as changed, whether the order arrived or not.
    Activating,
    Activated,
    Committed,
    RollingBack,
    RolledBack,
    /// Given up: could not be committed, or not be rolled back.
    Stuck,
    /// A newer release's word; counts as changed.
    #[serde(other)]
    Unknown,
}

impl StepState {
    /// Whether the ECU may run, or be about to run, something else than before.
    pub fn changed(self) -> bool {
        !matches!(self, Self::Waiting | Self::Staged | Self::RolledBack | Self::Stuck)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Activated => "activated",
            Self::Committed => "committed",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::Stuck | Self::Unknown => "failed",
        }
    }
}

/// One ECU's part of the update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub ecu: EcuId,
    pub kind: StepKind,
    /// What it runs when the update was planned; `None`: it is in its bootloader.
    #[serde(default)]
    pub before: Option<SoftwareVersion>,
    pub target: SoftwareRef,
    pub fallback: SoftwareRef,
    /// Estimate for the part for which the vehicle must stand, and for undoing it.
    pub activate_secs: u32,
    pub roll_back_secs: u32,
    pub state: StepState,
    #[serde(default)]
    pub admitted: BTreeSet<Role>,
    /// Numbers the orders to this ECU, from 1; another number is another operation.
    pub attempt: u32,
    /// Failures in the present state.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub failure: Option<Failure>,
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Record {
    /// The record of an update that is about to begin.
    pub fn new(decision: Decision, plan: Plan, now: UnixSeconds) -> Self {
        Self {
            format: FORMAT,
            readable_from: READABLE_FROM,
            sequence: 1,
            phase: Phase::Fetching,
            direction: Phase::Fetching.direction(),
            since: now,
            started: now,
            decision,
            steps: plan.steps,
            slots: plan.slots,
            limit_secs: plan.limit_secs,
            consent: None,
            answers: Vec::new(),
            due: None,
            deadline: None,
            entered: BTreeMap::from([(Phase::Fetching, 1)]),
            boots: Vec::new(),
            done: BTreeSet::new(),
            found: BTreeMap::new(),
            end: None,
            reason: None,
            extra: BTreeMap::new(),
        }
    }

    /// The record of a decision that the plan refuses: nothing will be touched, the end is only reported.
    pub fn refused(decision: Decision, reason: Failure, now: UnixSeconds) -> Self {
        let mut record = Self::new(decision, Plan::default(), now);
        record.phase = Phase::Stopped;
        record.direction = Phase::Stopped.direction();
        record.entered = BTreeMap::from([(Phase::Stopped, 1)]);
        record.end = Some(UpdateEnd::Refused);
        record.reason = Some(reason);
        record
    }

    /// Whether this release may act on the record.
    pub fn readable(&self) -> bool {
        self.readable_from <= FORMAT
    }

    pub fn step(&self, ecu: &EcuId) -> Option<&Step> {
        self.steps.iter().find(|step| step.ecu == *ecu)
    }

    pub fn step_mut(&mut self, ecu: &EcuId) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.ecu == *ecu)
    }

    /// The TCU's step, if the TCU changes.
    pub fn tcu(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.kind == StepKind::Slot)
    }

    pub(crate) fn tcu_mut(&mut self) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.kind == StepKind::Slot)
    }

    /// The boot in which the record was last told [`crate::Event::Started`].
    pub fn boot(&self) -> Option<&Boot> {
        self.boots.last()
    }

    /// Whether the new slot of this update runs now.
    pub fn runs_new_slot(&self) -> bool {
        match (&self.slots, self.boot()) {
            (Some(slots), Some(boot)) => boot.slot == slots.new,
            _ => false,
        }
    }

    /// The step that is to be activated now: the first that is not yet.
    pub fn next_to_activate(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.state != StepState::Activated)
    }

    /// The step that is to be committed now.
    pub fn next_to_commit(&self) -> Option<&Step> {
        self.steps.iter().find(|step| !matches!(step.state, StepState::Committed | StepState::Stuck))
    }

    /// The step that is to be rolled back now: the last that may have changed.
    pub fn next_to_roll_back(&self) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.state.changed())
    }

    pub(crate) fn remember(&mut self, boot: Boot) {
        if self.boots.len() >= MAX_BOOTS {
            self.boots.remove(0);
        }
        self.boots.push(boot);
    }
}

impl Step {
    /// Gives the next order: another attempt, no failures yet.
    pub(crate) fn order(&mut self, state: StepState) {
        self.state = state;
        self.attempt = self.attempt.saturating_add(1);
        self.failures = 0;
    }

    /// Whether the bank or slot is written while the vehicle is in use.
    pub fn is_staged_ahead(&self) -> bool {
        self.kind != StepKind::SingleBank
    }

    pub fn is_admitted(&self) -> bool {
        self.admitted.contains(&Role::Target) && self.admitted.contains(&Role::Fallback)
    }

    pub fn bundle(&self, role: Role) -> &SoftwareRef {
        match role {
            Role::Target => &self.target,
            Role::Fallback => &self.fallback,
        }
    }
}
