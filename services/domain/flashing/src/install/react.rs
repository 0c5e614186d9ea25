//! What is done about an answer that is not the wanted one, within the profile's bounds.

use std::time::Duration;

use pitstop_uds::{Nrc, Reaction, ServiceId};

use super::{Failure, Installation, State, StepState};
use crate::profile::Retry;

/// Delay after too many wrong keys where the ECU does not say: 10 s is usual (ISO 14229-1, SecurityAccess, delay timer).
const SECURITY_DELAY: Duration = Duration::from_secs(10);

/// Times that it is waited for, per start of the job.
const DELAYS: u32 = 1;

/// What is left of each bound.
#[derive(Debug)]
pub(super) struct Counters {
    restarts: u32,
    pub(super) rewrites: u32,
    conditions: u32,
    /// A wrong key is tried once more, with a new seed.
    keys: u32,
    delays: u32,
    /// Unanswered transfers of the same block.
    pub(super) silence: u32,
}

impl Counters {
    pub(super) fn new(retry: &Retry) -> Self {
        Self {
            restarts: retry.restarts,
            rewrites: retry.rewrites,
            conditions: retry.conditions,
            keys: 1,
            delays: DELAYS,
            silence: retry.silence,
        }
    }
}

/// Takes one from a bound; `false` when none is left.
pub(super) fn take(left: &mut u32) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

impl Installation {
    /// A negative response to a request that is not part of a transfer.
    pub(super) fn refused(&mut self, service: ServiceId, nrc: Nrc) -> State {
        if self.step().is_some_and(|step| step.optional) && says_unknown(nrc) {
            return self.next_step();
        }
        let wrong_key = matches!(self.state, State::Step(StepState::SendKey { .. }));
        match nrc.reaction() {
            Reaction::ConditionMustChange if take(&mut self.counters.conditions) => {
                self.pause(self.profile.retry.conditions_pause, StepState::start(self.step()))
            }
            // The usual reason of 37 after power-up: the delay of a failed try runs still.
            Reaction::WaitDelay if take(&mut self.counters.delays) => {
                self.pause(SECURITY_DELAY, StepState::start(self.step()))
            }
            Reaction::Unlock | Reaction::RestartPhase | Reaction::RestartSegment => {
                let failure = self.refusal(service, nrc);
                self.restart_or(failure)
            }
            _ if wrong_key && nrc == Nrc::InvalidKey && take(&mut self.counters.keys) => State::Step(StepState::Seed),
            _ => self.fail(self.refusal(service, nrc)),
        }
    }

    /// From the job's first step again, while the bound allows.
    pub(super) fn restart_or(&mut self, failure: Failure) -> State {
        if !take(&mut self.counters.restarts) {
            return self.fail(failure);
        }
        self.trouble = Some(failure);
        // The delay of 37 runs after each start of the ECU.
        self.counters.delays = DELAYS;
        State::Recover
    }

    /// No answer or no link: reopen, ask until it answers, and start again.
    pub(super) fn lost(&mut self, what: String) -> State {
        let failure = Failure::NotResponding { ecu: self.order.ecu.clone(), what };
        // An ECU that never answered gets one boot time, not one per restart: it may simply not be there.
        if !self.heard && self.counters.restarts < self.profile.retry.restarts {
            return State::Ended(Box::new(Err(failure)));
        }
        self.restart_or(failure)
    }

    pub(super) fn fail(&self, failure: Failure) -> State {
        State::Leave(Box::new(Err(failure)))
    }

    pub(super) fn refusal(&self, service: ServiceId, nrc: Nrc) -> Failure {
        Failure::Refused { ecu: self.order.ecu.clone(), step: self.step_text(), service, nrc }
    }

    pub(super) fn step_text(&self) -> String {
        self.step().map_or_else(String::new, |step| step.kind.name().to_owned())
    }

    fn pause(&self, time: Duration, then: StepState) -> State {
        State::Pause { time, then: Box::new(State::Step(then)) }
    }
}

/// The server does not know the request here, as opposed to knowing and refusing it.
pub(super) fn says_unknown(nrc: Nrc) -> bool {
    matches!(
        nrc,
        Nrc::ServiceNotSupported
            | Nrc::SubFunctionNotSupported
            | Nrc::RequestOutOfRange
            | Nrc::SubFunctionNotSupportedInActiveSession
            | Nrc::ServiceNotSupportedInActiveSession
    )
}
