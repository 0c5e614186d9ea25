use pitstop_types::{EcuId, EcuReport, UnixSeconds, UpdateEnd, UserChoice};

use crate::effect::duties;
use crate::{Answer, Consent, Direction, Duty, Event, EventKind, Failure, Phase, Record, StepKind, StepState, table};

mod start;

/// Failed orders to one ECU before the update gives up. Two to activate: a second failure is rarely chance, and
/// every try keeps the driver standing. Five to commit or roll back: the alternative is a workshop.
const STAGE_FAILURES: u32 = 3;
const ACTIVATE_FAILURES: u32 = 2;
const SETTLE_FAILURES: u32 = 5;

/// Why an event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{event} is not allowed in phase {phase}")]
    NotAllowed { phase: Phase, event: EventKind },
    #[error("{event} names {ecu}, which is not part of this update")]
    UnknownEcu { ecu: EcuId, event: EventKind },
    #[error("{event} is about attempt {attempt} of {ecu}, which is not what is going on")]
    Stale { ecu: EcuId, attempt: u32, event: EventKind },
    #[error("{duty:?} is not to be done in phase {phase} now")]
    NotDue { phase: Phase, duty: Duty },
    #[error("the update must start by {install_by}, {wanted} is later")]
    TooLate { wanted: UnixSeconds, install_by: UnixSeconds },
    /// A fault in this crate: the code leads where the table does not.
    #[error("{event} leads from {from} to {to}, which the table does not hold")]
    OffTable { from: Phase, event: EventKind, to: Phase },
}

impl Record {
    /// The record after `event`, or why there is none. The driver writes it before it does what it asks.
    pub fn apply(&self, event: &Event, now: UnixSeconds) -> Result<Record, Refused> {
        let kind = event.kind();
        if !table::allows(self.phase, kind) {
            return Err(Refused::NotAllowed { phase: self.phase, event: kind });
        }
        let mut next = self.clone();
        let to = next.act(event)?;
        if !table::leads(self.phase, kind, to) {
            return Err(Refused::OffTable { from: self.phase, event: kind, to });
        }
        next.sequence = next.sequence.saturating_add(1);
        if to != self.phase {
            next.enter(to, now);
        } else if kind == EventKind::Started {
            next.count(to);
        }
        let limit = next.phase.entry_limit().unwrap_or(u32::MAX);
        if kind != EventKind::TooOften && next.entered.get(&next.phase).is_some_and(|times| *times > limit) {
            return next.apply(&Event::TooOften, now);
        }
        Ok(next)
    }

    fn count(&mut self, phase: Phase) {
        let times = self.entered.entry(phase).or_default();
        *times = times.saturating_add(1);
    }

    /// Enters `phase`: counts it, sets what the phase begins with.
    fn enter(&mut self, phase: Phase, now: UnixSeconds) {
        self.phase = phase;
        self.direction = phase.direction();
        self.since = now;
        self.count(phase);
        match phase {
            Phase::Activating | Phase::SwitchingSlot if self.deadline.is_none() => {
                self.deadline = Some(now.saturating_add(i64::from(self.limit_secs)));
            }
            Phase::Committing => {
                self.deadline = None;
                self.renumber();
            }
            Phase::Committed => self.end = Some(UpdateEnd::AllNew),
            _ => {}
        }
        if !matches!(phase, Phase::Deferred | Phase::Scheduled) {
            self.due = None;
        }
        // Write before act: the step that is ordered next says so before anything is asked of the ECU.
        match phase {
            Phase::Activating | Phase::SwitchingSlot => self.order_next(),
            Phase::Undoing => self.order_roll_back(),
            _ => {}
        }
    }

    /// A new attempt number for every step: commits are orders of their own.
    fn renumber(&mut self) {
        for step in &mut self.steps {
            step.order(step.state);
        }
    }

    fn order_next(&mut self) {
        let next = self.next_to_activate().filter(|step| step.state != StepState::Activating).map(|s| s.ecu.clone());
        if let Some(step) = next.and_then(|ecu| self.step_mut(&ecu)) {
            step.order(StepState::Activating);
        }
    }

    fn order_roll_back(&mut self) {
        let next = self.next_to_roll_back().filter(|step| step.state != StepState::RollingBack).map(|s| s.ecu.clone());
        if let Some(step) = next.and_then(|ecu| self.step_mut(&ecu)) {
            step.order(StepState::RollingBack);
        }
    }

    /// Takes the event's data in and says where it leads.
    fn act(&mut self, event: &Event) -> Result<Phase, Refused> {
        let kind = event.kind();
        Ok(match event {
            Event::Started(boot) => self.on_started(boot.clone()),
            Event::BundleAdmitted { ecu, role } => {
                let step = self.step_mut(ecu).ok_or_else(|| Refused::UnknownEcu { ecu: ecu.clone(), event: kind })?;
                step.admitted.insert(*role);
                if self.steps.iter().all(crate::Step::is_admitted) { self.after_staging() } else { Phase::Fetching }
            }
            Event::BundleRefused(failure) => self.stop(UpdateEnd::Refused, Some(failure.clone())),
            Event::StepStaged { ecu, attempt } => {
                self.settle(ecu, *attempt, kind, StepState::Waiting, StepState::Staged)?;
                self.after_staging()
            }
            Event::StepActivated { ecu, attempt } => {
                self.settle(ecu, *attempt, kind, StepState::Activating, StepState::Activated)?;
                self.after_activation()
            }
            Event::StepCommitted { ecu, attempt } => {
                self.settle(ecu, *attempt, kind, StepState::Activated, StepState::Committed)?;
                Phase::Committing
            }
            Event::StepRolledBack { ecu, attempt } => {
                self.settle(ecu, *attempt, kind, StepState::RollingBack, StepState::RolledBack)?;
                let slot = self.step(ecu).is_some_and(|step| step.kind == StepKind::Slot);
                if slot && self.runs_new_slot() { Phase::UndoRebooting } else { self.after_roll_back() }
            }
            Event::StepFailed { ecu, attempt, failure, again } => self.on_failed(ecu, *attempt, failure, *again)?,
            Event::Answered(answer) => self.on_answer(answer)?,
            Event::Due if self.phase == Phase::Deferred => Phase::AwaitingConsent,
            Event::Due => Phase::AwaitingConditions,
            Event::Safe if self.phase == Phase::AwaitingUndo => self.after_roll_back_or(Phase::Undoing),
            Event::Safe => self.after_activation(),
            Event::MarkedGood => Phase::Bootable,
            Event::TrialFailed(failure) => self.undo(failure.clone()),
            Event::ReadBack(reports) => self.on_read_back(reports),
            Event::OtherSlotBad => {
                if let Some(tcu) = self.tcu_mut() {
                    tcu.state = StepState::RolledBack;
                }
                Phase::AwaitingUndo
            }
            Event::DutyDone(duty) => self.on_duty(*duty)?,
            Event::Cancelled { .. } | Event::Superseded { .. } | Event::Expired | Event::DeadlinePassed => {
                self.on_end_from_outside(event)
            }
            Event::TooOften => self.give_up(),
        })
    }

    /// Somebody, or the clock, ends what is going on.
    fn on_end_from_outside(&mut self, event: &Event) -> Phase {
        match event {
            Event::Superseded { by } => {
                self.stop(UpdateEnd::Superseded, Some(Failure::new("Superseded", format!("{by} took its place"))))
            }
            Event::Expired => {
                let text = format!("it had to start by {}", self.decision.install_by);
                self.stop(UpdateEnd::Expired, Some(Failure::new("Expired", text)))
            }
            Event::Cancelled { origin } => {
                let failure = Failure::new("Cancelled", format!("cancelled by {origin}"));
                if self.direction == Direction::Prepare {
                    self.stop(UpdateEnd::Cancelled, Some(failure))
                } else {
                    self.undo(failure)
                }
            }
            _ => {
                let text = format!("not ready to commit after {} s", self.limit_secs);
                self.undo(Failure::new("DeadlinePassed", text))
            }
        }
    }

    /// A step's order succeeded: from `from` to `to`, if it is the order that is going on.
    fn settle(
        &mut self,
        ecu: &EcuId,
        attempt: u32,
        event: EventKind,
        from: StepState,
        to: StepState,
    ) -> Result<(), Refused> {
        let step = self.step_mut(ecu).ok_or_else(|| Refused::UnknownEcu { ecu: ecu.clone(), event })?;
        if step.attempt != attempt || step.state != from {
            return Err(Refused::Stale { ecu: ecu.clone(), attempt, event });
        }
        step.state = to;
        step.failures = 0;
        Ok(())
    }

    fn after_staging(&self) -> Phase {
        let pending = self.steps.iter().any(|step| step.is_staged_ahead() && step.state == StepState::Waiting);
        if pending { Phase::Staging } else { Phase::AwaitingConsent }
    }

    fn after_activation(&mut self) -> Phase {
        match self.next_to_activate().map(|step| step.kind) {
            Some(StepKind::Slot) => Phase::SwitchingSlot,
            Some(_) => {
                if self.phase == Phase::Activating {
                    self.order_next();
                }
                Phase::Activating
            }
            None if self.tcu().is_some() => Phase::Rebooting,
            None => Phase::Bootable,
        }
    }

    fn after_roll_back(&mut self) -> Phase {
        let phase = self.after_roll_back_or(Phase::Undoing);
        if phase == Phase::Undoing {
            self.order_roll_back();
        }
        phase
    }

    fn after_roll_back_or(&self, phase: Phase) -> Phase {
        if self.next_to_roll_back().is_some() { phase } else { Phase::Undone }
    }

    fn on_failed(&mut self, ecu: &EcuId, attempt: u32, failure: &Failure, again: bool) -> Result<Phase, Refused> {
        let event = EventKind::StepFailed;
        let phase = self.phase;
        let step = self.step_mut(ecu).ok_or_else(|| Refused::UnknownEcu { ecu: ecu.clone(), event })?;
        let expected = match phase {
            Phase::Staging => StepState::Waiting,
            Phase::Activating | Phase::SwitchingSlot => StepState::Activating,
            Phase::Committing => StepState::Activated,
            _ => StepState::RollingBack,
        };
        if step.attempt != attempt || step.state != expected {
            return Err(Refused::Stale { ecu: ecu.clone(), attempt, event });
        }
        step.failure = Some(failure.clone());
        step.failures = step.failures.saturating_add(1);
        let limit = match phase {
            Phase::Staging => STAGE_FAILURES,
            Phase::Activating | Phase::SwitchingSlot => ACTIVATE_FAILURES,
            _ => SETTLE_FAILURES,
        };
        if again && step.failures < limit {
            step.attempt = step.attempt.saturating_add(1);
            return Ok(phase);
        }
        match phase {
            // Only an inactive bank or slot was written: everything runs what it ran before.
            Phase::Staging => Ok(self.stop(UpdateEnd::AllOld, Some(failure.clone().of(ecu)))),
            Phase::Activating | Phase::SwitchingSlot => Ok(self.undo(failure.clone().of(ecu))),
            _ => {
                step.state = StepState::Stuck;
                self.blame(failure.clone().of(ecu));
                Ok(if phase == Phase::Committing { phase } else { self.after_roll_back() })
            }
        }
    }

    fn on_answer(&mut self, answer: &Answer) -> Result<Phase, Refused> {
        if let UserChoice::At { unix_secs } = answer.choice
            && unix_secs >= self.decision.install_by
        {
            return Err(Refused::TooLate { wanted: unix_secs, install_by: self.decision.install_by });
        }
        let consent =
            Consent { choice: answer.choice, at: answer.at, origin: answer.origin.clone(), prompt: answer.prompt };
        self.answers.push(consent.clone());
        self.consent = matches!(answer.choice, UserChoice::Now | UserChoice::At { .. }).then_some(consent);
        Ok(match answer.choice {
            UserChoice::Now => Phase::AwaitingConditions,
            UserChoice::At { unix_secs } => {
                self.due = Some(unix_secs);
                Phase::Scheduled
            }
            UserChoice::Later => {
                self.due = Some(answer.ask_again_at);
                Phase::Deferred
            }
            UserChoice::No => {
                let text = format!("declined by {}", answer.origin);
                self.stop(UpdateEnd::Declined, Some(Failure::new("Declined", text)))
            }
        })
    }

    fn on_read_back(&mut self, reports: &[EcuReport]) -> Phase {
        let undone = self.phase == Phase::Undone;
        self.found = reports.iter().map(|report| (report.ecu.clone(), report.version.clone())).collect();
        self.found.retain(|ecu, _| self.steps.iter().any(|step| step.ecu == *ecu));
        let runs = |ecu: &EcuId| reports.iter().find(|report| report.ecu == *ecu).and_then(|r| r.version.clone());
        let wrong = self.steps.iter().find_map(|step| {
            let wanted = if undone { &step.fallback.version } else { &step.target.version };
            let found = runs(&step.ecu);
            (found.as_ref() != Some(wanted)).then(|| (step.ecu.clone(), wanted.clone(), found))
        });
        let failure = wrong.map(|(ecu, wanted, found)| {
            let found = found.map_or_else(|| "nothing".to_owned(), |version| version.to_string());
            Failure::new("UnexpectedSoftware", format!("reads back {found} in place of {wanted}")).of(&ecu)
        });
        match (failure, undone) {
            (None, false) => Phase::Committing,
            (Some(failure), false) => self.undo(failure),
            (None, true) => self.stop(UpdateEnd::AllOld, None),
            (Some(failure), true) => {
                self.reason = Some(failure);
                self.stop(UpdateEnd::NeedsWorkshop, None)
            }
        }
    }

    fn on_duty(&mut self, duty: Duty) -> Result<Phase, Refused> {
        let due = match self.phase {
            // Floors last: raised earlier they could lock out the software that an unfinished commit still needs.
            Phase::Committing => duty == Duty::Floors && self.next_to_commit().is_none(),
            phase => duties(phase).contains(&duty),
        };
        if !due {
            return Err(Refused::NotDue { phase: self.phase, duty });
        }
        self.done.insert(duty);
        let all = duties(self.phase).iter().all(|duty| self.done.contains(duty));
        Ok(match self.phase {
            Phase::Committing if self.steps.iter().any(|step| step.state == StepState::Stuck) => {
                self.stop(UpdateEnd::NeedsWorkshop, None)
            }
            Phase::Committing => Phase::Committed,
            Phase::Reported if all => Phase::Ended,
            Phase::Committed | Phase::Stopped if all => Phase::Reported,
            phase => phase,
        })
    }

    fn give_up(&mut self) -> Phase {
        let failure = Failure::new("TooOften", format!("{} was entered too often", self.phase));
        match self.phase.direction() {
            Direction::Prepare => self.stop(UpdateEnd::AllOld, Some(failure)),
            Direction::Forward => self.undo(failure),
            Direction::Back if self.phase != Phase::Undone => {
                self.blame(failure);
                for step in self.steps.iter_mut().filter(|step| step.state.changed()) {
                    step.state = StepState::Stuck;
                }
                Phase::Undone
            }
            Direction::Back | Direction::Final => self.stop(UpdateEnd::NeedsWorkshop, Some(failure)),
        }
    }

    fn stop(&mut self, end: UpdateEnd, reason: Option<Failure>) -> Phase {
        self.end = Some(end);
        self.deadline = None;
        if let Some(reason) = reason {
            self.blame(reason);
        }
        Phase::Stopped
    }

    fn undo(&mut self, reason: Failure) -> Phase {
        self.deadline = None;
        self.blame(reason);
        Phase::AwaitingUndo
    }

    /// The first reason counts: what follows is its consequence.
    fn blame(&mut self, failure: Failure) {
        self.reason.get_or_insert(failure);
    }
}
