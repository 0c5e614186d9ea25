//! One job on one ECU, without I/O: which request next, and what each answer means.
//!
//! Whoever drives it repeats: take [`Installation::poll_act`], do it, hand the outcome to the `handle_…` method the act names.
//! Polling changes nothing, so the act may be asked for again. The client session below (`pitstop-uds`) already waits through
//! "response pending", repeats after "busy" and keeps the session alive; what arrives here is an answer or its absence.
//!
//! Restarting is always from the job's first step. What was done before is found again in the ECU: its identification, and its
//! check routine, which tells segment by segment what is right already. So a job is idempotent, whenever it was cut.

mod drive;
mod failure;
mod judge;
mod react;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pitstop_bundle::Description;
use pitstop_types::{EcuId, HardwareId, SoftwareVersion};
use pitstop_uds::{Addressing, ClientError, Monotonic, Request, Response, StepLimits};

pub use failure::Failure;

use crate::profile::{Job, Profile, Step};
use crate::{EcuIdentity, Ident, TransferPlan};
use react::Counters;
use write::Writer;

/// What is to be done to which ECU, and what it is expected to be.
#[derive(Debug, Clone)]
pub struct Order {
    pub ecu: EcuId,
    pub job: Job,
    pub hardware: HardwareId,
    /// Version that must run now; `None`: any, also none (rolling back, or going on after a cut).
    pub expected: Option<SoftwareVersion>,
    /// What runs when the job has succeeded (of a dual-bank install: once it is activated).
    pub target: Ident,
    /// Needed for [`Job::Install`].
    pub content: Option<Content>,
    /// A start after a cut: the ECU may be in its bootloader by our own doing, and its hardware was judged.
    pub resumed: bool,
    /// A job before it that did not end was let through to the flash.
    pub erased: bool,
}

/// What an install writes.
#[derive(Debug, Clone)]
pub struct Content {
    pub description: Arc<Description>,
    /// Blank runs per segment, see [`crate::BlankFinder`].
    pub blanks: Arc<Vec<Vec<Range<u64>>>>,
    /// Address of the segment that holds the identity block, if one does.
    pub seal: Option<u32>,
}

/// Something unsafe that needs leave first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The ECU stops working as it does now: its loader starts, or another bank.
    Disrupt,
    /// The first erase. What runs now is lost on a single-bank ECU.
    Erase,
}

/// What the driver of the machine does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask for leave; then [`Installation::handle_permit`].
    Permit(Gate),
    /// Send and wait for the answer; then [`Installation::handle_outcome`]. With `quiet` no positive answer is wanted.
    Send { request: Request, addressing: Addressing, quiet: bool, limits: StepLimits },
    /// Read these bytes of `payload.bin`; then [`Installation::handle_payload`].
    Payload { offset: u64, length: u32 },
    /// Compute the key for a seed; then [`Installation::handle_key`].
    Key { plugin: String, level: u8, seed: Vec<u8> },
    /// Drop the link and make it anew; then [`Installation::handle_reopened`].
    Reopen,
    /// Wait, keeping the session alive; then [`Installation::handle_timeout`].
    Wait(Duration),
    /// The job has ended; nothing more follows.
    End(Result<Success, Failure>),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Response(Response),
    /// Nobody objected to a quiet request.
    Silent,
    /// No answer, or too late, or for too long.
    NoAnswer(ClientError),
    /// The link broke; it is to be reopened before the next request.
    LinkLost(String),
}

/// How a job ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    /// What the ECU said last; of a dual-bank install: before activation.
    pub identity: EcuIdentity,
    /// Nothing had to be done.
    pub already: bool,
}

/// What a job is doing, for progress, and for sharing a bus: only `Transferring` needs it for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Preparing,
    Erasing,
    Transferring,
    Checking,
    Activating,
    Verifying,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Erasing => "erasing",
            Self::Transferring => "transferring",
            Self::Checking => "checking",
            Self::Activating => "activating",
            Self::Verifying => "verifying",
        }
    }
}

/// The machine. See the module's text.
#[derive(Debug)]
pub struct Installation {
    order: Order,
    profile: Arc<Profile>,
    state: State,
    /// Index of the current step.
    at: usize,
    identity: EcuIdentity,
    writer: Option<Writer>,
    /// Flash of this ECU was touched by this job.
    erased: bool,
    /// Every segment was found right since the last erase.
    whole: bool,
    /// The hardware was read and is the ordered one.
    known: bool,
    permitted: bool,
    /// Rolling back an ECU that runs the old software already: what was chosen for its next start is taken back, without a reset.
    stays: bool,
    /// The ECU has answered at least once.
    heard: bool,
    /// Once the ECU answers, what was left open is ended before the first step.
    recovering: bool,
    cancel: bool,
    counters: Counters,
    trouble: Option<Failure>,
}

#[derive(Debug)]
enum State {
    /// The ECU is identified and is to be changed: leave for a job that disrupts it.
    Gate,
    /// Ends what an interrupted try left open: the default session closes transfers and locks.
    Recover,
    /// The ECU may be starting: reopen and ask until it answers.
    Reopen {
        until: Monotonic,
        boot: bool,
    },
    Probe {
        until: Monotonic,
    },
    /// Goes on with `then`.
    Pause {
        time: Duration,
        then: Box<State>,
    },
    /// The current step's request.
    Step(StepState),
    /// Back to the default session, then the end.
    Leave(Box<Result<Success, Failure>>),
    Ended(Box<Result<Success, Failure>>),
}

/// Where within a step.
#[derive(Debug)]
enum StepState {
    /// Steps of one request.
    Plain,
    /// Identify and verify: which DID is being asked.
    Read(usize),
    Seed,
    Key {
        seed: Vec<u8>,
    },
    SendKey {
        key: Vec<u8>,
    },
    Write,
}

impl Installation {
    /// A job on one ECU. An install without content, or a job the profile has no steps for, ends at once.
    pub fn new(order: Order, profile: Arc<Profile>) -> Self {
        let counters = Counters::new(&profile.retry);
        let disrupts = match order.job {
            Job::Install => profile.banks == crate::Banks::Single,
            Job::Activate | Job::RollBack => true,
            Job::Commit => false,
        };
        let mut this = Self {
            order,
            profile,
            state: State::Recover,
            at: 0,
            identity: EcuIdentity::default(),
            writer: None,
            erased: false,
            whole: false,
            known: false,
            permitted: !disrupts,
            stays: false,
            heard: false,
            recovering: false,
            cancel: false,
            counters,
            trouble: None,
        };
        this.begin();
        this
    }

    /// What is going on now.
    pub fn phase(&self) -> Phase {
        use crate::profile::StepKind;
        if let (State::Step(StepState::Write), Some(writer)) = (&self.state, &self.writer) {
            return writer.phase();
        }
        if matches!(self.state, State::Leave(_) | State::Ended(_)) {
            return Phase::Verifying;
        }
        let written = self.writer.as_ref().is_some_and(Writer::is_done);
        match self.step().map(|step| &step.kind) {
            Some(StepKind::Verify) => Phase::Verifying,
            Some(StepKind::Routine { .. } | StepKind::Reset { .. }) if self.order.job != Job::Install => {
                Phase::Activating
            }
            _ if written => Phase::Verifying,
            _ => Phase::Preparing,
        }
    }

    /// What made the job start again since this was asked last: for the log, the job goes on by itself.
    pub fn take_trouble(&mut self) -> Option<Failure> {
        self.trouble.take()
    }

    /// Bytes sent, and to send in all; zero in all: not known yet.
    pub fn progress(&self) -> (u64, u64) {
        self.writer.as_ref().map_or((0, 0), Writer::progress)
    }

    /// The plan, once the ECU has been identified.
    pub fn plan(&self) -> Option<&TransferPlan> {
        self.writer.as_ref().map(Writer::plan)
    }

    /// Asks for an end at the next safe point. After the first erase of a single-bank ECU there is none: it would be left without software.
    /// Nor is there one once a change of bank was permitted.
    pub fn cancel(&mut self) {
        self.cancel = true;
        // Not only at the next outcome: the next act may be a gate, behind which there is no such point any more.
        self.stop_if_cancelled();
    }

    fn step(&self) -> Option<&Step> {
        self.profile.steps(self.order.job).get(self.at)
    }
}

#[cfg(test)]
mod tests;
