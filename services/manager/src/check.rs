//! Is there something to do? Manifest to the Director, verification, plan against the vehicle as it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::{EcuDescription, EcuVersions, OtaError, SlotStatus};
use pitstop_lifecycle::plan::{EcuFacts, Plan, TcuFacts, VehicleFacts, plan};
use pitstop_lifecycle::{Failure, PlanRefusal};
use pitstop_types::{Decision, EcuId, HardwareId, SlotName, SoftwareVersion, UpdateId};

use crate::config::Settings;
use crate::ports::Ports;
use crate::tether::Tether;

/// How often a service that is away is asked again within one check, and how long apart.
const TRIES: u32 = 10;
const RETRY: Duration = Duration::from_secs(1);

/// What a check found.
#[derive(Debug)]
pub enum Found {
    /// Nothing is wanted, or everything is as wanted.
    Nothing,
    /// The decision that is being worked on, or was.
    Known(UpdateId),
    /// A new decision and what can be made of it.
    Update(Box<Decision>, Result<Plan, Failure>),
}

/// Whether the error means that what was offered must not be installed, as opposed to trouble on the way.
pub fn is_refusal(error: &OtaError) -> bool {
    !error.is_temporary()
        && !matches!(
            error,
            OtaError::Bus(_)
                | OtaError::NotProvisioned(_)
                | OtaError::BackendRefused(_)
                | OtaError::NotFound(_)
                | OtaError::Storage(_)
                | OtaError::OutOfSpace(_)
                | OtaError::Tpm(_)
                | OtaError::TimeUnknown(_)
                | OtaError::Cancelled(_)
                | OtaError::EcuNotResponding(_)
                | OtaError::Internal(_)
        )
}

macro_rules! with_patience {
    ($tether:expr, $call:expr) => {{
        let mut left = TRIES;
        loop {
            match $call.await {
                Err(error) if error.is_temporary() && !matches!(error, OtaError::Network(_)) && left > 0 => {
                    left -= 1;
                    $tether.pause(RETRY).await?;
                }
                other => break other,
            }
        }
    }};
}

/// One check. `known`: updates that have ended here or are being worked on.
pub async fn check(
    ports: &Ports,
    settings: &Arc<Settings>,
    known: &BTreeSet<UpdateId>,
    tether: &Tether,
) -> Result<Found, OtaError> {
    let manifest = with_patience!(tether, ports.content.collect_manifest(None))?;
    with_patience!(tether, ports.backend.send_manifest(&manifest))?;
    let Some(update) = with_patience!(tether, ports.content.verify(tether))? else { return Ok(Found::Nothing) };
    if known.contains(&update) {
        return Ok(Found::Known(update));
    }
    let decision = with_patience!(tether, ports.content.decision(&update))?;
    decision.check().map_err(|error| OtaError::TargetMismatch(error.to_string()))?;
    let vehicle = vehicle_facts(ports, settings, &decision, tether).await?;
    match plan(&decision, &vehicle) {
        Ok(plan) if plan.steps.is_empty() => Ok(Found::Nothing),
        Ok(plan) => Ok(Found::Update(Box::new(decision), Ok(plan))),
        // An ECU that sleeps is no reason to refuse for good: asked again at the next check.
        Err(PlanRefusal::NotAnswering(ecu)) => Err(OtaError::EcuNotResponding(format!("{ecu} does not answer"))),
        Err(refusal) => Ok(Found::Update(Box::new(decision), Err(refusal.failure()))),
    }
}

async fn vehicle_facts(
    ports: &Ports,
    settings: &Arc<Settings>,
    decision: &Decision,
    tether: &Tether,
) -> Result<VehicleFacts, OtaError> {
    let listed = with_patience!(tether, ports.flasher.list())?;
    let wanted: Vec<EcuId> = decision
        .ecus
        .iter()
        .map(|part| part.ecu.clone())
        .filter(|ecu| listed.iter().any(|found| found.ecu == ecu.as_str()))
        .collect();
    let versions =
        if wanted.is_empty() { Vec::new() } else { with_patience!(tether, ports.flasher.versions(&wanted))? };
    let ecus = listed.iter().filter_map(|ecu| ecu_facts(ecu, &versions, settings.flash_bytes_per_sec)).collect();
    let slots = with_patience!(tether, ports.slots.slots())?;
    Ok(VehicleFacts { ecus, tcu: tcu_facts(&slots) })
}

/// `None`: described in words that this service does not take; the plan then says that the vehicle does not have it.
fn ecu_facts(ecu: &EcuDescription, versions: &[EcuVersions], bytes_per_sec: u32) -> Option<EcuFacts> {
    let found = versions.iter().find(|version| version.ecu == ecu.ecu);
    let answers = found.is_some_and(|version| version.error_name.is_empty());
    // What the ECU itself says counts, where it says something.
    let hardware = found.map(|version| version.hardware.as_str()).filter(|text| !text.is_empty());
    Some(EcuFacts {
        ecu: EcuId::new(ecu.ecu.clone()).ok()?,
        hardware: HardwareId::new(hardware.unwrap_or(&ecu.hardware)).ok()?,
        dual_bank: ecu.banks == "dual",
        via: EcuId::new(ecu.via.clone()).ok(),
        answers,
        version: found.and_then(|version| SoftwareVersion::new(version.version.clone()).ok()),
        bytes_per_sec,
        trial_limit_secs: None,
    })
}

fn tcu_facts(slots: &[SlotStatus]) -> Option<TcuFacts> {
    let booted = slots.iter().find(|slot| slot.booted)?;
    let other = slots.iter().find(|slot| !slot.booted)?;
    Some(TcuFacts {
        hardware: HardwareId::new(booted.hardware.clone()).ok()?,
        booted: SlotName::new(booted.name.clone()).ok()?,
        other: SlotName::new(other.name.clone()).ok()?,
        version: SoftwareVersion::new(booted.version.clone()).ok(),
    })
}
