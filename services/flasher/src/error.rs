//! From the machine's failures to the contract's named errors.

use pitstop_dbus::OtaError;
use pitstop_flashing::{Failure, PlanError};

/// The named error that says the same.
pub(crate) fn named(failure: &Failure) -> OtaError {
    let text = failure.to_string();
    match failure {
        Failure::Plan(PlanError::WrongHardware { .. }) => OtaError::BadHardwareId(text),
        Failure::Plan(PlanError::NotReplaceable { .. }) | Failure::UnexpectedSoftware { .. } => {
            OtaError::UnexpectedSoftware(text)
        }
        Failure::Plan(PlanError::PackedCheck { .. } | PlanError::SealMissing { .. } | PlanError::DoesNotFit { .. }) => {
            OtaError::BadBundle(text)
        }
        Failure::NotResponding { .. } => OtaError::EcuNotResponding(text),
        Failure::Refused { .. } | Failure::WrongAnswer { .. } | Failure::NoKey { .. } => OtaError::EcuRefused(text),
        Failure::CheckFailed { .. } | Failure::WrongAfter { .. } => OtaError::CheckFailed(text),
        Failure::FlashFailed { .. } => OtaError::FlashFailed(text),
        Failure::Cancelled { .. } => OtaError::Cancelled(text),
        // Whoever kept the gate or read the payload has the better reason; this is for the case that it was lost.
        Failure::Denied { .. } => OtaError::NotSafe(text),
        Failure::Payload { .. } => OtaError::BadBundle(text),
    }
}
