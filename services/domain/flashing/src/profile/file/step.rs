use pitstop_uds::{Addressing, Did, Request, ResetType, RoutineId, SessionType};
use serde::Deserialize;

use super::wait;
use crate::HexBytes;
use crate::profile::{MAX_STEPS, ProfileError, Step, StepKind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStep {
    step: FileKind,
    #[serde(default = "on")]
    on: bool,
    #[serde(default)]
    addressing: FileAddressing,
    #[serde(default)]
    optional: bool,
    limit_ms: Option<u32>,
    session: Option<u8>,
    reboots: Option<bool>,
    routine: Option<u16>,
    option: Option<HexBytes>,
    status: Option<HexBytes>,
    bytes: Option<HexBytes>,
    expect: Option<HexBytes>,
    did: Option<u16>,
    reset: Option<u8>,
}

fn on() -> bool {
    true
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileKind {
    Session,
    Identify,
    Routine,
    Request,
    Unlock,
    Fingerprint,
    Write,
    Reset,
    Verify,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileAddressing {
    #[default]
    Physical,
    Functional,
}

/// A minute: longer than any single answer but an erase, which has its own limit.
const DEFAULT_STEP_LIMIT_MS: u32 = 60_000;

pub(super) fn read_steps(job: &'static str, steps: Vec<FileStep>) -> Result<Vec<Step>, ProfileError> {
    if steps.len() > MAX_STEPS {
        return Err(ProfileError::Job { job, problem: "too many steps" });
    }
    let numbered = steps.into_iter().enumerate().filter(|(_, step)| step.on);
    numbered
        .map(|(at, step)| step.check().map_err(|problem| ProfileError::Step { job, number: at + 1, problem }))
        .collect()
}

impl FileStep {
    fn check(self) -> Result<Step, &'static str> {
        if self.foreign_key() {
            return Err("it has a key that belongs to another kind of step");
        }
        let limit = wait("limit_ms", self.limit_ms.unwrap_or(DEFAULT_STEP_LIMIT_MS))
            .map_err(|_| "limit_ms is from 1 ms to half an hour")?;
        let addressing = match self.addressing {
            FileAddressing::Physical => Addressing::Physical,
            FileAddressing::Functional => Addressing::Functional,
        };
        if addressing == Addressing::Functional && !matches!(self.step, FileKind::Session | FileKind::Request) {
            return Err("only session and request steps can be functional");
        }
        let (optional, kind) = (self.optional, self.kind()?);
        if optional && matches!(kind, StepKind::Write | StepKind::Identify | StepKind::Verify | StepKind::Unlock) {
            return Err("this kind of step cannot be optional");
        }
        Ok(Step { kind, addressing, optional, limit })
    }

    /// Whether a key is there that this kind of step does not read.
    fn foreign_key(&self) -> bool {
        let is = |kinds: &[FileKind]| kinds.contains(&self.step);
        (self.session.is_some() || self.reboots.is_some()) && !is(&[FileKind::Session])
            || (self.routine.is_some() || self.option.is_some() || self.status.is_some()) && !is(&[FileKind::Routine])
            || self.bytes.is_some() && !is(&[FileKind::Request, FileKind::Fingerprint])
            || self.expect.is_some() && !is(&[FileKind::Request])
            || self.did.is_some() && !is(&[FileKind::Fingerprint])
            || self.reset.is_some() && !is(&[FileKind::Reset])
    }

    fn kind(self) -> Result<StepKind, &'static str> {
        Ok(match self.step {
            FileKind::Session => StepKind::Session {
                session: SessionType::from(
                    self.session.filter(|s| (1..0x80).contains(s)).ok_or("session is from 0x01 to 0x7F")?,
                ),
                reboots: self.reboots.unwrap_or(false),
            },
            FileKind::Identify => StepKind::Identify,
            FileKind::Routine => StepKind::Routine {
                routine: RoutineId(self.routine.ok_or("it needs routine")?),
                option: self.option.unwrap_or_default(),
                status: self.status.unwrap_or_default(),
            },
            FileKind::Request => {
                let bytes = self.bytes.filter(|bytes| !bytes.is_empty()).ok_or("it needs bytes")?;
                // 34, 36 and 37 belong to the write step, which knows what was consented to.
                if matches!(bytes.as_slice().first(), Some(0x34..=0x38)) {
                    return Err("transfers belong to the write step");
                }
                let request = Request::decode(bytes.as_slice()).map_err(|_| "its bytes are not a UDS request")?;
                StepKind::Request { request, expect: self.expect.unwrap_or_default() }
            }
            FileKind::Unlock => StepKind::Unlock,
            FileKind::Fingerprint => StepKind::Fingerprint {
                did: Did(self.did.ok_or("it needs did")?),
                bytes: self.bytes.filter(|bytes| !bytes.is_empty()).ok_or("it needs bytes")?,
            },
            FileKind::Write => StepKind::Write,
            FileKind::Reset => StepKind::Reset { reset: ResetType::from(self.reset.unwrap_or(1)) },
            FileKind::Verify => StepKind::Verify,
        })
    }
}
