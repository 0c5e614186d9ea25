//! The machine's inputs and outputs.

use std::time::Duration;

use pitstop_uds::{Addressing, Monotonic, Request, ResetType, Response, RoutineAction, SessionType, StepLimits};

use super::write::Written;
use super::{Act, Failure, Gate, Installation, Outcome, Phase, State, StepState, Success};
use crate::profile::{Job, Security, Step, StepKind};
use crate::{Banks, EcuIdentity};

/// Pause between two questions to an ECU that is starting.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// Room for one probe, link set-up included.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

impl StepState {
    /// Where a step begins.
    pub(super) fn start(step: Option<&Step>) -> Self {
        match step.map(|step| &step.kind) {
            Some(StepKind::Identify | StepKind::Verify) => Self::Read(0),
            Some(StepKind::Unlock) => Self::Seed,
            Some(StepKind::Write) => Self::Write,
            _ => Self::Plain,
        }
    }
}

impl Installation {
    /// What is to be done now.
    pub fn poll_act(&self) -> Act {
        match &self.state {
            State::Gate => Act::Permit(Gate::Disrupt),
            State::Recover | State::Leave(_) => {
                self.send(Request::DiagnosticSessionControl { session: SessionType::Default }, PROBE_LIMIT)
            }
            State::Reopen { .. } => Act::Reopen,
            State::Probe { .. } => self.probe(),
            State::Pause { time, .. } => Act::Wait(*time),
            State::Step(at) => self.step_act(at),
            State::Ended(result) => Act::End((**result).clone()),
        }
    }

    /// Answers [`Act::Permit`].
    pub fn handle_permit(&mut self, granted: bool) {
        if !granted {
            self.state = self.fail(Failure::Denied { ecu: self.order.ecu.clone() });
            return;
        }
        match (&self.state, &mut self.writer) {
            (State::Gate, _) => {
                self.permitted = true;
                self.state = self.next_step();
            }
            (State::Step(StepState::Write), Some(writer)) => {
                (self.erased, self.whole) = (true, false);
                writer.handle_permit();
            }
            _ => {}
        }
    }

    /// Answers [`Act::Send`].
    pub fn handle_outcome(&mut self, now: Monotonic, outcome: Outcome) {
        self.heard |= matches!(outcome, Outcome::Response(_));
        let state = std::mem::replace(&mut self.state, State::Recover);
        self.state = match state {
            // Whatever it answered: a server in its default session has no transfer open and nothing unlocked.
            State::Recover => self.starting(now),
            State::Leave(result) => State::Ended(result),
            State::Probe { until } => match outcome {
                Outcome::Response(_) => self.answers_again(),
                Outcome::NoAnswer(_) | Outcome::LinkLost(_) | Outcome::Silent if now < until => reopen_later(until),
                Outcome::NoAnswer(error) => self.lost(error.to_string()),
                Outcome::LinkLost(what) => self.lost(what),
                Outcome::Silent => self.lost(String::new()),
            },
            State::Step(at) => {
                self.state = State::Step(at);
                self.step_outcome(now, outcome)
            }
            other => other,
        };
        self.stop_if_cancelled();
    }

    /// Answers [`Act::Reopen`]; `Err` says why there is no link.
    pub fn handle_reopened(&mut self, now: Monotonic, result: Result<(), String>) {
        let State::Reopen { until, boot } = self.state else { return };
        self.state = match result {
            Ok(()) if boot => State::Probe { until },
            Ok(()) => State::Step(StepState::start(self.step())),
            Err(_) if now < until => reopen_later(until),
            Err(what) => self.lost(what),
        };
    }

    /// Answers [`Act::Wait`].
    pub fn handle_timeout(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Recover);
        self.state = match state {
            State::Pause { then, .. } => *then,
            other => other,
        };
        self.stop_if_cancelled();
    }

    /// Answers [`Act::Payload`]; `None`: it could not be read, or did not match its hash tree.
    pub fn handle_payload(&mut self, bytes: Option<Vec<u8>>) {
        match (bytes, &mut self.writer) {
            (Some(bytes), Some(writer)) => writer.handle_payload(bytes),
            _ => self.state = self.fail(Failure::Payload { ecu: self.order.ecu.clone() }),
        }
    }

    /// Answers [`Act::Key`]; `Err` says why there is no key.
    pub fn handle_key(&mut self, key: Result<Vec<u8>, String>) {
        self.state = match key {
            Ok(key) => State::Step(StepState::SendKey { key }),
            Err(what) => self.fail(Failure::NoKey { ecu: self.order.ecu.clone(), what }),
        };
    }

    /// The first step; after a cut, what the earlier try left open is ended first.
    pub(super) fn begin(&mut self) {
        self.at = 0;
        self.state = if self.order.resumed { State::Recover } else { State::Step(StepState::start(self.step())) };
    }

    pub(super) fn next_step(&mut self) -> State {
        self.at += 1;
        match self.step() {
            Some(Step { kind: StepKind::Reset { .. }, .. }) if self.stays => self.next_step(),
            Some(step) => State::Step(StepState::start(Some(step))),
            None => self.succeeded(self.stays),
        }
    }

    pub(super) fn succeeded(&self, already: bool) -> State {
        State::Leave(Box::new(Ok(Success { identity: self.identity.clone(), already })))
    }

    /// Between two requests, where stopping leaves the ECU with software, and the software it runs.
    pub(super) fn stop_if_cancelled(&mut self) {
        let harmless = match self.order.job {
            Job::Install => !self.erased || self.profile.banks == Banks::Dual,
            // Once another bank is chosen the next power cycle starts it, with a reset from here or without.
            Job::Activate | Job::RollBack => !self.permitted,
            Job::Commit => true,
        };
        if self.cancel && harmless && matches!(self.state, State::Gate | State::Step(_) | State::Pause { .. }) {
            self.state = self.fail(Failure::Cancelled { ecu: self.order.ecu.clone() });
        }
    }

    fn send(&self, request: Request, total: Duration) -> Act {
        let limits = StepLimits::for_request(&request).within(total);
        Act::Send { request, addressing: Addressing::Physical, quiet: false, limits }
    }

    /// One question without repeats: an ECU that is starting is asked again after a pause.
    fn probe(&self) -> Act {
        let limits = StepLimits { total: PROBE_LIMIT, repeats: 0 };
        Act::Send { request: Request::TesterPresent, addressing: Addressing::Physical, quiet: false, limits }
    }

    fn step_act(&self, at: &StepState) -> Act {
        let Some(step) = self.step() else { return self.probe() };
        match at {
            StepState::Plain => self.plain_act(step),
            StepState::Read(number) => {
                let dids = EcuIdentity::dids(&self.profile.identification);
                self.send(
                    Request::ReadDataByIdentifier { dids: dids.get(*number).copied().into_iter().collect() },
                    step.limit,
                )
            }
            StepState::Seed => self.send(Request::SecurityAccess { level: self.level(), data: Vec::new() }, step.limit),
            StepState::Key { seed } => {
                let plugin = match &self.profile.security {
                    Security::SeedKey { plugin, .. } => plugin.clone(),
                    Security::None => String::new(),
                };
                Act::Key { plugin, level: self.level(), seed: seed.clone() }
            }
            StepState::SendKey { key } => {
                self.send(Request::SecurityAccess { level: self.level() + 1, data: key.clone() }, step.limit)
            }
            StepState::Write => match &self.writer {
                Some(writer) => writer.act(&self.profile),
                None => self.probe(),
            },
        }
    }

    fn plain_act(&self, step: &Step) -> Act {
        let request = match &step.kind {
            StepKind::Session { session, .. } => Request::DiagnosticSessionControl { session: *session },
            StepKind::Routine { routine, option, .. } => Request::RoutineControl {
                action: RoutineAction::Start,
                routine: *routine,
                option: option.as_slice().to_vec(),
            },
            StepKind::Request { request, .. } => request.clone(),
            StepKind::Fingerprint { did, bytes } => {
                Request::WriteDataByIdentifier { did: *did, data: bytes.as_slice().to_vec() }
            }
            StepKind::Reset { reset } => Request::EcuReset { reset: *reset },
            StepKind::Identify | StepKind::Verify | StepKind::Unlock | StepKind::Write => Request::TesterPresent,
        };
        let limits = StepLimits::for_request(&request).within(step.limit);
        let quiet = step.addressing == Addressing::Functional;
        Act::Send { request, addressing: step.addressing, quiet, limits }
    }

    fn level(&self) -> u8 {
        match self.profile.security {
            Security::SeedKey { level, .. } => level,
            Security::None => 0x11,
        }
    }

    fn step_outcome(&mut self, now: Monotonic, outcome: Outcome) -> State {
        if matches!(self.state, State::Step(StepState::Write)) {
            return self.write_outcome(now, outcome);
        }
        let Some(kind) = self.step().map(|step| step.kind.clone()) else { return self.succeeded(false) };
        match outcome {
            Outcome::Silent => self.next_step(),
            // Closing the connection right after 11, or after a 10 that starts other software, is what ISO 14229-5 asks for.
            Outcome::NoAnswer(_) | Outcome::LinkLost(_) if restarts_ecu(&kind) => self.booted(now),
            Outcome::NoAnswer(error) => self.lost_at(now, error.to_string()),
            Outcome::LinkLost(what) => self.lost_at(now, what),
            Outcome::Response(response) => self.step_response(now, &kind, response),
        }
    }

    /// The link or the ECU went away in the middle: back to the first step once it answers.
    fn lost_at(&mut self, now: Monotonic, what: String) -> State {
        match self.lost(what) {
            State::Recover => {
                self.at = 0;
                self.recovering = true;
                self.starting(now)
            }
            ended => ended,
        }
    }

    /// The ECU may be starting: reopen the link and ask until it answers.
    fn starting(&self, now: Monotonic) -> State {
        State::Reopen { until: now + self.profile.timing.boot, boot: true }
    }

    fn answers_again(&mut self) -> State {
        if std::mem::take(&mut self.recovering) { State::Recover } else { State::Step(StepState::start(self.step())) }
    }

    /// On with the next step once the ECU answers again.
    fn booted(&mut self, now: Monotonic) -> State {
        match self.next_step() {
            State::Step(_) => self.starting(now),
            ended => ended,
        }
    }

    fn step_response(&mut self, now: Monotonic, kind: &StepKind, response: Response) -> State {
        match (&self.state, response) {
            (State::Step(StepState::Read(number)), response) => {
                let number = *number;
                self.read(number, &response)
            }
            (_, Response::Negative { service, nrc }) => match self.refused(service, nrc) {
                State::Recover => self.recover(),
                state => state,
            },
            (State::Step(StepState::Seed), Response::SecurityAccess { seed, .. }) => self.seed(seed),
            (State::Step(StepState::SendKey { .. }), _) => self.next_step(),
            (_, response) => match kind {
                StepKind::Routine { status, .. } => self.routine_answer(status, &response),
                StepKind::Request { expect, .. } => self.request_answer(expect, &response),
                kind if restarts_ecu(kind) => self.booted(now),
                _ => self.next_step(),
            },
        }
    }

    pub(super) fn recover(&mut self) -> State {
        self.at = 0;
        State::Recover
    }

    fn write_outcome(&mut self, now: Monotonic, outcome: Outcome) -> State {
        let Some(writer) = &mut self.writer else { return self.fail(Failure::Payload { ecu: self.order.ecu.clone() }) };
        let ecu = &self.order.ecu;
        self.whole &= writer.phase() != Phase::Erasing;
        match writer.handle_outcome(&self.profile, ecu, &mut self.counters, outcome) {
            Written::More => State::Step(StepState::Write),
            Written::Done => {
                self.whole = true;
                self.next_step()
            }
            Written::Reopen => State::Reopen { until: now + self.profile.timing.boot, boot: false },
            Written::Wait(time) => State::Pause { time, then: Box::new(State::Step(StepState::Write)) },
            Written::Lost(what) => self.lost_at(now, what),
            Written::Restart { service, nrc } => {
                let failure = self.refusal(service, nrc);
                match self.restart_or(failure) {
                    State::Recover => self.recover(),
                    state => state,
                }
            }
            Written::Failed(failure) => self.fail(failure),
        }
    }
}

fn reopen_later(until: Monotonic) -> State {
    State::Pause { time: PROBE_PAUSE, then: Box::new(State::Reopen { until, boot: true }) }
}

/// After a positive answer to these the ECU goes away for a while.
fn restarts_ecu(kind: &StepKind) -> bool {
    match kind {
        StepKind::Reset { reset } => *reset != ResetType::Other(0x04),
        StepKind::Session { reboots, .. } => *reboots,
        _ => false,
    }
}
