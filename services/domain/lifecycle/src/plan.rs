//! From a decision and the vehicle as it is to the steps of an update. Pure and printable.
//!
//! What could not be undone is refused here, before a byte is fetched.

use std::collections::BTreeSet;
use std::fmt;

use pitstop_types::{Decision, EcuDecision, EcuId, HardwareId, SlotName, SoftwareRef, SoftwareVersion};

use crate::{Failure, SlotPair, Step, StepKind, StepState};

/// Least time between the first change and the commit, in seconds: below ten minutes an ECU that restarts slowly,
/// and a TCU that checks its file system, would use it up without anything being wrong.
const MIN_LIMIT_SECS: u32 = 600;
/// Switching banks: reset, start, read back. UDS ECUs announce a power-down time of at most 254 s in practice; 20 s is usual.
const SWITCH_SECS: u32 = 20;
/// Restart of a TCU with its own checks.
const REBOOT_SECS: u32 = 120;
/// Sessions, security, erase and check around a transfer.
const FLASH_OVERHEAD_SECS: u32 = 10;

/// The vehicle as it was found just now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VehicleFacts {
    pub ecus: Vec<EcuFacts>,
    pub tcu: Option<TcuFacts>,
}

/// One ECU other than the TCU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcuFacts {
    pub ecu: EcuId,
    pub hardware: HardwareId,
    pub dual_bank: bool,
    /// The gateway it lies behind.
    pub via: Option<EcuId>,
    pub answers: bool,
    /// `None`: it is in its bootloader.
    pub version: Option<SoftwareVersion>,
    /// Rate at which it is flashed, for the estimate.
    pub bytes_per_sec: u32,
    /// After this an uncommitted bank goes back by itself.
    pub trial_limit_secs: Option<u32>,
}

/// The TCU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcuFacts {
    pub hardware: HardwareId,
    pub booted: SlotName,
    pub other: SlotName,
    pub version: Option<SoftwareVersion>,
}

/// What will be done, in the order of activation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub slots: Option<SlotPair>,
    /// Seconds from the first change until everything must be ready to commit.
    pub limit_secs: u32,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    #[error("the decision names {0}, which this vehicle does not have")]
    UnknownEcu(EcuId),
    #[error("{ecu} is hardware {found}, the decision is for {wanted}")]
    Hardware { ecu: EcuId, found: HardwareId, wanted: HardwareId },
    #[error("{0} does not answer")]
    NotAnswering(EcuId),
    #[error("{0} would change without a fallback to go back to")]
    NoFallback(EcuId),
    #[error("{ecu} runs {found}, its fallback is {fallback}: undoing would not restore it")]
    FallbackDiffers { ecu: EcuId, found: SoftwareVersion, fallback: SoftwareVersion },
    #[error("{0} lies behind itself")]
    ViaLoop(EcuId),
    #[error("the update takes {needed} s, but {ecu} gives up its trial after {limit} s")]
    TrialTooShort { ecu: EcuId, needed: u32, limit: u32 },
}

impl PlanRefusal {
    /// Error name on the bus.
    pub fn error(&self) -> &'static str {
        match self {
            Self::UnknownEcu(_) => "UnknownEcu",
            Self::Hardware { .. } => "BadHardwareId",
            Self::NotAnswering(_) => "EcuNotResponding",
            Self::NoFallback(_) => "NoFallback",
            Self::FallbackDiffers { .. } => "UnexpectedSoftware",
            Self::ViaLoop(_) | Self::TrialTooShort { .. } => "NotPlannable",
        }
    }

    pub fn failure(&self) -> Failure {
        Failure::new(self.error(), self.to_string())
    }
}

/// Plans `decision` for `vehicle`. A plan without steps: everything is as decided already.
pub fn plan(decision: &Decision, vehicle: &VehicleFacts) -> Result<Plan, PlanRefusal> {
    let mut steps = Vec::new();
    let mut slots = None;
    for part in &decision.ecus {
        if part.ecu.is_tcu() {
            let tcu = vehicle.tcu.as_ref().ok_or_else(|| PlanRefusal::UnknownEcu(part.ecu.clone()))?;
            check_hardware(part, &tcu.hardware)?;
            if tcu.version.as_ref() != Some(&part.target.version) {
                slots = Some(SlotPair { old: tcu.booted.clone(), new: tcu.other.clone() });
                steps.push(step(part, StepKind::Slot, tcu.version.clone(), 0)?);
            }
        } else {
            let facts = find(vehicle, &part.ecu)?;
            check_hardware(part, &facts.hardware)?;
            if !facts.answers {
                return Err(PlanRefusal::NotAnswering(part.ecu.clone()));
            }
            if facts.version.as_ref() != Some(&part.target.version) {
                let kind = if facts.dual_bank { StepKind::DualBank } else { StepKind::SingleBank };
                steps.push(step(part, kind, facts.version.clone(), facts.bytes_per_sec)?);
            }
        }
    }
    let steps = order(steps, vehicle)?;
    let limit_secs = limit(&steps, vehicle)?;
    Ok(Plan { steps, slots, limit_secs })
}

fn find<'a>(vehicle: &'a VehicleFacts, ecu: &EcuId) -> Result<&'a EcuFacts, PlanRefusal> {
    vehicle.ecus.iter().find(|facts| facts.ecu == *ecu).ok_or_else(|| PlanRefusal::UnknownEcu(ecu.clone()))
}

fn check_hardware(part: &EcuDecision, found: &HardwareId) -> Result<(), PlanRefusal> {
    if part.target.hardware == *found {
        return Ok(());
    }
    Err(PlanRefusal::Hardware { ecu: part.ecu.clone(), found: found.clone(), wanted: part.target.hardware.clone() })
}

fn step(part: &EcuDecision, kind: StepKind, before: Option<SoftwareVersion>, rate: u32) -> Result<Step, PlanRefusal> {
    let fallback = part.fallback.clone().ok_or_else(|| PlanRefusal::NoFallback(part.ecu.clone()))?;
    if let Some(found) = &before
        && *found != fallback.version
    {
        return Err(PlanRefusal::FallbackDiffers {
            ecu: part.ecu.clone(),
            found: found.clone(),
            fallback: fallback.version,
        });
    }
    let flash = |bundle: &SoftwareRef| {
        let secs = bundle.length.div_ceil(u64::from(rate.max(1)));
        u32::try_from(secs).unwrap_or(u32::MAX).saturating_add(FLASH_OVERHEAD_SECS)
    };
    let (activate_secs, roll_back_secs) = match kind {
        StepKind::DualBank => (SWITCH_SECS, SWITCH_SECS),
        StepKind::SingleBank => (flash(&part.target), flash(&fallback)),
        StepKind::Slot => (REBOOT_SECS, REBOOT_SECS),
    };
    Ok(Step {
        ecu: part.ecu.clone(),
        kind,
        before,
        target: part.target.clone(),
        fallback,
        activate_secs,
        roll_back_secs,
        state: StepState::Waiting,
        admitted: BTreeSet::new(),
        attempt: 1,
        failures: 0,
        failure: None,
        extra: Default::default(),
    })
}

/// Dual-bank switches first, single-bank ECUs last because costliest to undo, what lies behind a gateway before the
/// gateway (while it restarts, nobody behind it can be reached), the TCU after all.
fn order(mut waiting: Vec<Step>, vehicle: &VehicleFacts) -> Result<Vec<Step>, PlanRefusal> {
    let mut ordered: Vec<Step> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let gateways: BTreeSet<&EcuId> = waiting.iter().filter_map(|step| via(vehicle, &step.ecu)).collect();
        let unblocks = |step: &Step| via(vehicle, &step.ecu).is_some_and(|gate| waiting.iter().any(|s| s.ecu == *gate));
        let best = waiting
            .iter()
            .enumerate()
            .filter(|(_, step)| !gateways.contains(&step.ecu))
            .min_by_key(|(_, step)| (step.kind, !unblocks(step), step.ecu.clone()))
            .map(|(at, _)| at);
        match (best, waiting.first()) {
            (Some(at), _) => ordered.push(waiting.remove(at)),
            (None, Some(first)) => return Err(PlanRefusal::ViaLoop(first.ecu.clone())),
            (None, None) => break,
        }
    }
    Ok(ordered)
}

fn via<'a>(vehicle: &'a VehicleFacts, ecu: &EcuId) -> Option<&'a EcuId> {
    vehicle.ecus.iter().find(|facts| facts.ecu == *ecu).and_then(|facts| facts.via.as_ref())
}

/// Three times the estimate, but shorter than any ECU's own trial limit: were an ECU to go back by itself first,
/// the vehicle would be a mixture that nobody decided.
fn limit(steps: &[Step], vehicle: &VehicleFacts) -> Result<u32, PlanRefusal> {
    let needed = steps.iter().fold(0u32, |sum, step| sum.saturating_add(step.activate_secs));
    let mut limit = needed.saturating_mul(3).max(MIN_LIMIT_SECS);
    for step in steps.iter().filter(|step| step.kind == StepKind::DualBank) {
        let facts = vehicle.ecus.iter().find(|facts| facts.ecu == step.ecu);
        if let Some(trial) = facts.and_then(|facts| facts.trial_limit_secs) {
            // A minute for committing.
            let usable = trial.saturating_sub(60);
            if usable < needed {
                return Err(PlanRefusal::TrialTooShort { ecu: step.ecu.clone(), needed, limit: trial });
            }
            limit = limit.min(usable);
        }
    }
    Ok(limit)
}

impl Plan {
    /// Seconds for which the vehicle must stand, if all goes well.
    pub fn standing_secs(&self) -> u32 {
        self.steps.iter().fold(0, |sum: u32, step| sum.saturating_add(step.activate_secs))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps.iter().filter(|step| step.is_staged_ahead()) {
            writeln!(f, "in the background: {} writes {} beside what runs", step.ecu, step.target.version)?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            let verb = match step.kind {
                StepKind::DualBank => "switches bank",
                StepKind::SingleBank => "is overwritten",
                StepKind::Slot => "starts its other slot",
            };
            let before = step.before.as_ref().map_or("bootloader", SoftwareVersion::as_str);
            writeln!(
                f,
                "{number}. {} {verb}: {before} -> {}, about {} s; rolled back to {} in about {} s",
                step.ecu, step.target.version, step.activate_secs, step.fallback.version, step.roll_back_secs
            )?;
        }
        if let Some(slots) = &self.slots {
            writeln!(f, "slots: {} -> {}", slots.old, slots.new)?;
        }
        writeln!(f, "stands for about {} s; undone after {} s", self.standing_secs(), self.limit_secs)
    }
}
