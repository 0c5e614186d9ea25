//! What the answers of a step mean: whether the ECU is the one expected, and did what was asked.

use pitstop_uds::Response;

use super::write::Writer;
use super::{Failure, Installation, State, StepState};
use crate::profile::{Job, Security, StepKind};
use crate::{Banks, EcuIdentity, HexBytes, PlanInput, TransferPlan};

impl Installation {
    /// Zero seed: unlocked already (ISO 14229-1, SecurityAccess).
    pub(super) fn seed(&mut self, seed: Vec<u8>) -> State {
        if self.profile.security == Security::None || seed.iter().all(|byte| *byte == 0) {
            return self.next_step();
        }
        State::Step(StepState::Key { seed })
    }

    pub(super) fn routine_answer(&mut self, wanted: &HexBytes, response: &Response) -> State {
        match response {
            Response::RoutineControl { status, .. } if status.starts_with(wanted.as_slice()) => self.next_step(),
            Response::RoutineControl { status, .. } => {
                self.wrong_answer(&format!("status {}", HexBytes::new(status.clone())))
            }
            other => self.wrong_answer(&format!("{other:?}")),
        }
    }

    pub(super) fn request_answer(&mut self, expect: &HexBytes, response: &Response) -> State {
        let bytes = response.encode().unwrap_or_default();
        if bytes.starts_with(expect.as_slice()) {
            self.next_step()
        } else {
            self.wrong_answer(&HexBytes::new(bytes).to_string())
        }
    }

    fn wrong_answer(&self, found: &str) -> State {
        self.fail(Failure::WrongAnswer { ecu: self.order.ecu.clone(), step: self.step_text(), found: found.to_owned() })
    }

    /// One identification value came; after the last one they are judged.
    pub(super) fn read(&mut self, number: usize, response: &Response) -> State {
        let ids = self.profile.identification;
        let dids = EcuIdentity::dids(&ids);
        if number == 0 {
            self.identity = EcuIdentity::default();
        }
        if let Some(did) = dids.get(number) {
            self.identity.take(&ids, *did, response);
        }
        if number + 1 < dids.len() {
            return State::Step(StepState::Read(number + 1));
        }
        match self.step().map(|step| &step.kind) {
            Some(StepKind::Verify) => self.verified(),
            _ => self.identified(),
        }
    }

    fn verified(&mut self) -> State {
        if self.identity.runs(&self.order.target) {
            return self.next_step();
        }
        // A reset that never arrived looks the same, and one that comes some time after its answer. So the job starts again, bounded;
        // what was checked and runs by then is success.
        let (ecu, expected) = (self.order.ecu.clone(), self.order.target.version.clone());
        let failure = Failure::WrongAfter { ecu, expected, found: self.running_text() };
        match self.restart_or(failure) {
            State::Recover => self.recover(),
            state => state,
        }
    }

    fn identified(&mut self) -> State {
        // Some loaders do not tell their hardware. Whoever brought the ECU there has asked it before.
        if self.identity.hardware.is_empty() && (self.known || self.order.resumed) {
            self.identity.hardware = self.order.hardware.to_string();
        }
        self.known = self.identity.hardware == self.order.hardware.as_str();
        if !self.known {
            return self.fail(Failure::Plan(crate::PlanError::WrongHardware {
                ecu: self.order.ecu.clone(),
                expected: self.order.hardware.clone(),
                found: self.identity.hardware.clone(),
            }));
        }
        let runs_target = self.identity.runs(&self.order.target);
        if runs_target && self.version_suffices() {
            return self.succeeded(true);
        }
        // The other bank may be chosen for the next start still: a cut between activating and the reset. Asked anew at each start
        // of the job: the ECU may have started into that bank meanwhile.
        self.stays = runs_target && self.order.job == Job::RollBack;
        let ready = self.check_expected(runs_target).and_then(|()| self.prepare_writer());
        match ready {
            Ok(()) if !self.permitted => State::Gate,
            Ok(()) => self.next_step(),
            Err(failure) => self.fail(failure),
        }
    }

    /// Whether an ECU that names the wanted software has all of it: what a cut try had reached already is success, whoever reached
    /// it. Where what runs was erased, the name may have come before the rest, so all segments must have been asked since.
    fn version_suffices(&self) -> bool {
        match self.order.job {
            Job::Install => self.whole || !self.is_erased(),
            Job::Activate => true,
            Job::Commit | Job::RollBack => false,
        }
    }

    /// What runs may be gone, wholly or partly: this job, or one before it that was cut, was let through to its flash.
    fn is_erased(&self) -> bool {
        self.profile.banks == Banks::Single && (self.erased || self.order.erased)
    }

    /// The ECU may be in its loader because this job, or one before it that was cut, brought it there.
    fn may_be_in_loader(&self) -> bool {
        (self.profile.banks == Banks::Single && self.permitted) || self.order.resumed
    }

    fn check_expected(&self, runs_target: bool) -> Result<(), Failure> {
        let fits = match (&self.order.expected, &self.identity.version) {
            _ if self.order.job == Job::Commit => runs_target,
            _ if self.stays => true,
            (None, _) => true,
            // A loader may call what is half there anything.
            _ if self.is_erased() => true,
            (Some(expected), Some(found)) => expected == found,
            (Some(_), None) => self.may_be_in_loader(),
        };
        if fits {
            return Ok(());
        }
        let expected = match self.order.job {
            Job::Commit => &self.order.target.version,
            _ => self.order.expected.as_ref().unwrap_or(&self.order.target.version),
        };
        Err(Failure::UnexpectedSoftware {
            ecu: self.order.ecu.clone(),
            expected: expected.clone(),
            found: self.running_text(),
        })
    }

    fn running_text(&self) -> String {
        self.identity.version.as_ref().map_or_else(|| "its bootloader".to_owned(), ToString::to_string)
    }

    fn prepare_writer(&mut self) -> Result<(), Failure> {
        let Some(content) = &self.order.content else { return Ok(()) };
        if self.order.job == Job::Install {
            let plan = TransferPlan::new(&PlanInput {
                ecu: &self.order.ecu,
                hardware: &self.order.hardware,
                description: &content.description,
                blanks: &content.blanks,
                seal: content.seal,
                profile: &self.profile,
                identity: &self.identity,
                erased: self.is_erased(),
                right: &[],
            })?;
            self.writer = Some(Writer::new(plan, &self.profile, self.erased));
        }
        Ok(())
    }
}
