use pitstop_types::{EcuId, SoftwareVersion};
use pitstop_uds::{Nrc, ServiceId};

use crate::plan::PlanError;

/// Why a job on an ECU ended without success. The text tells the driver of a workshop what happened; `Display` names ECU and step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("ECU {ecu} runs {found}, the order expects {expected}")]
    UnexpectedSoftware { ecu: EcuId, expected: SoftwareVersion, found: String },
    #[error("ECU {ecu} does not answer: {what}")]
    NotResponding { ecu: EcuId, what: String },
    #[error("ECU {ecu} refused step {step}: {service}, {nrc}")]
    Refused { ecu: EcuId, step: String, service: ServiceId, nrc: Nrc },
    #[error("ECU {ecu} answered step {step} with {found}")]
    WrongAnswer { ecu: EcuId, step: String, found: String },
    #[error("ECU {ecu}: the check of the segment at {address:#x} answered {status}")]
    CheckFailed { ecu: EcuId, address: u32, status: String },
    #[error("ECU {ecu}: writing the segment at {address:#x} failed, {what}")]
    FlashFailed { ecu: EcuId, address: u32, what: String },
    #[error("ECU {ecu} runs {found} after the job, not {expected}")]
    WrongAfter { ecu: EcuId, expected: SoftwareVersion, found: String },
    #[error("ECU {ecu}: no key for its seed, {what}")]
    NoKey { ecu: EcuId, what: String },
    /// The gate said no; whoever keeps it knows why.
    #[error("ECU {ecu}: not permitted now")]
    Denied { ecu: EcuId },
    #[error("ECU {ecu}: the payload could not be read")]
    Payload { ecu: EcuId },
    #[error("ECU {ecu}: cancelled")]
    Cancelled { ecu: EcuId },
}
