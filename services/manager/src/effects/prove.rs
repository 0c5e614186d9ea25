//! What the new software, or the old one again, is held against.

use std::collections::BTreeMap;
use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Event, Failure, Phase, Record};
use pitstop_types::{EcuId, EcuReport, HardwareId, SoftwareVersion};

use super::{FIRST_PAUSE, GIVE_UP, LONGEST_PAUSE, Performer, Result};
use crate::tether::Tether;

/// Between two readings of versions that are not as expected: an ECU that was reset needs some seconds.
const READ_AGAIN: Duration = Duration::from_secs(2);

impl Performer {
    /// The trial slot's own check: everything an update needs must answer. The backend is not among it, and neither
    /// is the network: a garage without reception is no fault of the new software.
    pub(super) async fn mark_good(&self, record: &Record, tether: &Tether) -> Result<Event> {
        let began = tokio::time::Instant::now();
        loop {
            let trouble = match self.sick().await {
                Some(trouble) => trouble,
                None => match self.ports.slots.mark_good(&record.decision.update).await {
                    Ok(()) => return Ok(Event::MarkedGood),
                    Err(error) => format!("marking the slot good: {}", error.text()),
                },
            };
            if began.elapsed() >= self.settings.health {
                return Ok(Event::TrialFailed(Failure::new("Unhealthy", trouble)));
            }
            tether.pause(FIRST_PAUSE).await?;
        }
    }

    /// What does not answer, if anything.
    async fn sick(&self) -> Option<String> {
        if let Err(error) = self.ports.slots.slots().await {
            return Some(format!("self-update: {}", error.text()));
        }
        if let Err(error) = self.ports.flasher.list().await {
            return Some(format!("flasher: {}", error.text()));
        }
        if let Err(error) = self.ports.vehicle.unsafe_because().await {
            return Some(format!("vehicle-state: {}", error.text()));
        }
        None
    }

    /// Versions of all planned ECUs, read until they are as wanted or the time for it is over.
    pub(super) async fn read_back(&self, record: &Record, tether: &Tether) -> Result<Vec<EcuReport>> {
        let back = record.phase == Phase::Undone;
        let wanted: BTreeMap<EcuId, SoftwareVersion> = record
            .steps
            .iter()
            .map(|step| (step.ecu.clone(), if back { &step.fallback } else { &step.target }.version.clone()))
            .collect();
        let began = tokio::time::Instant::now();
        loop {
            let reports = self.read_once(wanted.keys(), tether).await?;
            let right = wanted.iter().all(|(ecu, version)| {
                reports.iter().any(|report| report.ecu == *ecu && report.version.as_ref() == Some(version))
            });
            if right || began.elapsed() >= self.settings.read_back {
                return Ok(reports);
            }
            tether.pause(READ_AGAIN).await?;
        }
    }

    async fn read_once(&self, ecus: impl Iterator<Item = &EcuId>, tether: &Tether) -> Result<Vec<EcuReport>> {
        let (tcu, others): (Vec<EcuId>, Vec<EcuId>) = ecus.cloned().partition(EcuId::is_tcu);
        let mut reports = Vec::new();
        if !others.is_empty() {
            let versions = patiently!(tether, self.ports.flasher.versions(&others))?;
            reports.extend(versions.into_iter().filter(|found| found.error_name.is_empty()).filter_map(|found| {
                Some(EcuReport {
                    ecu: EcuId::new(found.ecu).ok()?,
                    hardware: HardwareId::new(found.hardware).ok()?,
                    version: SoftwareVersion::new(found.version).ok(),
                    software_number: found.software_number,
                    serial: found.serial,
                })
            }));
        }
        if let Some(ecu) = tcu.into_iter().next() {
            let slots = patiently!(tether, self.ports.slots.slots())?;
            reports.extend(slots.into_iter().filter(|slot| slot.booted).filter_map(|slot| {
                let hardware = HardwareId::new(slot.hardware).ok()?;
                let version = SoftwareVersion::new(slot.version).ok();
                let ecu = ecu.clone();
                Some(EcuReport { ecu, hardware, version, software_number: String::new(), serial: String::new() })
            }));
        }
        Ok(reports)
    }

    /// A boot environment that cannot be written must not keep the update from ending: then it needs a workshop.
    pub(super) async fn mark_other_bad(&self, record: &Record, tether: &Tether) -> Result<Event> {
        let began = tokio::time::Instant::now();
        loop {
            match patiently!(tether, self.ports.slots.mark_other_bad(&record.decision.update)) {
                Ok(()) => return Ok(Event::OtherSlotBad),
                Err(error @ OtaError::Cancelled(_)) => return Err(error),
                Err(error) if began.elapsed() >= GIVE_UP => {
                    log::error!("the other slot cannot be marked bad: {}: {}", error.short_name(), error.text());
                    return Ok(Event::TooOften);
                }
                Err(_) => tether.pause(FIRST_PAUSE * 4).await?,
            }
        }
    }
}
