use std::fmt;
use std::time::Duration;

use pitstop_uds::{Addressing, Did, Request as UdsRequest, ResetType, RoutineId, ServiceId, SessionType};

use crate::HexBytes;

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub kind: StepKind,
    pub addressing: Addressing,
    /// A server that does not know the request (11, 12, 31, 7E, 7F) is taken as having nothing to do here.
    pub optional: bool,
    /// Overall limit for one request of this step, response-pending included.
    pub limit: Duration,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// 10: enters a session. `reboots`: another program may start and take up to the boot time to answer.
    Session { session: SessionType, reboots: bool },
    /// 22: hardware and running software must be what the order expects.
    Identify,
    /// 31 01: starts a routine; its status record must begin with `status`.
    Routine { routine: RoutineId, option: HexBytes, status: HexBytes },
    /// Any other request; its answer must begin with `expect` (empty: any positive answer).
    Request { request: UdsRequest, expect: HexBytes },
    /// 27 or 29, as the security table says.
    Unlock,
    /// 2E: who wrote this software.
    Fingerprint { did: Did, bytes: HexBytes },
    /// 31 FF00, 34, 36, 37 and 31 0202 as the erase, transfer and check tables say.
    Write,
    /// 11, then waiting until the ECU answers again.
    Reset { reset: ResetType },
    /// 22: the running software must be what the job promises.
    Verify,
}

impl StepKind {
    /// Name in the profile.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Session { .. } => "session",
            Self::Identify => "identify",
            Self::Routine { .. } => "routine",
            Self::Request { .. } => "request",
            Self::Unlock => "unlock",
            Self::Fingerprint { .. } => "fingerprint",
            Self::Write => "write",
            Self::Reset { .. } => "reset",
            Self::Verify => "verify",
        }
    }

    /// Whether the ECU may stop working as it does now. What a raw 10 or 11 does is not known here, so it counts.
    pub(super) fn restarts_software(&self) -> bool {
        match self {
            Self::Session { reboots, .. } => *reboots,
            Self::Request { request, .. } => {
                matches!(request.service(), ServiceId::DiagnosticSessionControl | ServiceId::EcuReset)
            }
            Self::Reset { .. } => true,
            Self::Identify
            | Self::Routine { .. }
            | Self::Unlock
            | Self::Fingerprint { .. }
            | Self::Write
            | Self::Verify => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StepKind::Session { session, reboots } => {
                write!(f, "session 0x{:02X}{}", session.code(), if *reboots { " (reboots)" } else { "" })?;
            }
            StepKind::Routine { routine, option, status } => {
                write!(f, "{routine}")?;
                if !option.is_empty() {
                    write!(f, " with {option}")?;
                }
                write!(f, ", status {status}")?;
            }
            StepKind::Request { request, .. } => {
                write!(f, "request {}", HexBytes::new(request.encode().map_err(|_| fmt::Error)?))?;
            }
            StepKind::Fingerprint { did, bytes } => write!(f, "fingerprint {did} = {bytes}")?,
            StepKind::Reset { reset } => write!(f, "reset 0x{:02X}", reset.code())?,
            plain => f.write_str(plain.name())?,
        }
        if self.addressing == Addressing::Functional {
            f.write_str(", functional")?;
        }
        if self.optional {
            f.write_str(", optional")?;
        }
        Ok(())
    }
}
