//! From the Director's signed targets to a decision: whom they are for, which ECU gets which file, and whether the Image
//! repository lists the very same files.

use std::collections::BTreeMap;

use pitstop_types::{Decision, EcuDecision, EcuId, HardwareId, ReleaseCounter, SoftwareRef, UnixSeconds, Vin};
use serde::Deserialize;
use serde_json::Value;

use crate::checks::at;
use crate::metadata::{
    DirectorCustom, EcuPairing, Order, PairingRole, Repository, Role, ShallMatch, TargetEntry, Targets,
};
use crate::{At, Metadata as _, VerifyError};

/// An update may start at most this long after it was ordered, in seconds: 30 days.
pub const MAX_INSTALL_AHEAD: i64 = 30 * 86_400;

/// The vehicle for which is decided.
#[derive(Debug, Clone)]
pub struct Vehicle {
    pub vin: Vin,
    /// Fitted ECUs, the TCU among them, and their hardware.
    pub ecus: BTreeMap<EcuId, HardwareId>,
    /// An ECU without a floor has floor 0.
    pub floors: BTreeMap<EcuId, ReleaseCounter>,
}

/// The Director's order for this vehicle; its files are not matched yet.
#[derive(Debug, Clone)]
pub(crate) struct Directed {
    order: Order,
    version: u64,
    parts: BTreeMap<EcuId, Part>,
    /// Every path with its entry, to be found in the Image repository.
    entries: BTreeMap<String, TargetEntry>,
    floors: BTreeMap<EcuId, ReleaseCounter>,
}

#[derive(Debug, Clone, Default)]
struct Part {
    target: Option<SoftwareRef>,
    fallback: Option<SoftwareRef>,
}

/// Reads the Director's targets for `vehicle`. `None`: it wants nothing.
pub(crate) fn read(targets: &Targets, vehicle: &Vehicle, now: UnixSeconds) -> Result<Option<Directed>, VerifyError> {
    let at = at(Repository::Director, "targets");
    if targets.vin.as_ref() != Some(&vehicle.vin) {
        return Err(VerifyError::Replay { at });
    }
    let directed = read_order(&at, targets, vehicle)?;
    let Some(order) = directed.as_ref().map(|directed| &directed.order) else { return Ok(None) };
    // Neither kind of order passes for the other.
    if order.update.is_workshop() {
        return Err(VerifyError::malformed(&at, "update ids of this form are for workshops"));
    }
    let install_by = order.install_by;
    if install_by <= now || install_by > now.saturating_add(MAX_INSTALL_AHEAD) {
        return Err(VerifyError::InstallBy { install_by });
    }
    Ok(directed)
}

/// The same for targets that came without a network: made for every vehicle with this hardware, or for this one. Their expiry takes
/// the place of the 30 days.
pub(crate) fn read_offline(targets: &Targets, vehicle: &Vehicle, now: UnixSeconds) -> Result<Directed, VerifyError> {
    let at = at(Repository::Director, Role::OfflineTargets.as_str());
    if targets.vin.as_ref().is_some_and(|vin| *vin != vehicle.vin) {
        return Err(VerifyError::Replay { at });
    }
    let directed = read_order(&at, targets, vehicle)?;
    let directed = directed.ok_or_else(|| VerifyError::malformed(&at, "it orders nothing"))?;
    if !directed.order.update.is_workshop() {
        return Err(VerifyError::malformed(&at, "its update id is not of the form for workshops"));
    }
    match directed.order.install_by {
        install_by if install_by <= now => Err(VerifyError::InstallBy { install_by }),
        _ => Ok(directed),
    }
}

fn read_order(at: &At, targets: &Targets, vehicle: &Vehicle) -> Result<Option<Directed>, VerifyError> {
    if targets.delegations.is_some() {
        return Err(VerifyError::malformed(at, "the Director must not delegate"));
    }
    let order = match (&targets.order, targets.targets.is_empty()) {
        (None, true) => return Ok(None),
        (Some(order), false) => order.clone(),
        _ => return Err(VerifyError::malformed(at, "it has targets without x-pitstop, or x-pitstop without targets")),
    };
    let mut directed = Directed {
        order,
        version: targets.version(),
        parts: BTreeMap::new(),
        entries: targets.targets.clone(),
        floors: BTreeMap::new(),
    };
    for (path, entry) in &targets.targets {
        directed.add(vehicle, path, entry)?;
    }
    Ok(Some(directed))
}

impl Directed {
    fn add(&mut self, vehicle: &Vehicle, path: &str, entry: &TargetEntry) -> Result<(), VerifyError> {
        let at = at(Repository::Director, "targets");
        let custom = DirectorCustom::deserialize(&entry.custom)
            .map_err(|error| VerifyError::malformed(&at, format!("target {path}: {error}")))?;
        check_shall_match(path, &custom.shall_match)?;
        if custom.ecus.is_empty() {
            return Err(VerifyError::malformed(&at, format!("target {path} is for no ECU")));
        }
        for (ecu, pairing) in &custom.ecus {
            let software = pair(vehicle, path, entry, &custom.shall_match, ecu, pairing)?;
            let role = pairing.role.unwrap_or(custom.role);
            self.place(ecu, role, software, custom.shall_match.security_floor)?;
        }
        Ok(())
    }

    fn place(
        &mut self,
        ecu: &EcuId,
        role: PairingRole,
        software: SoftwareRef,
        floor: Option<ReleaseCounter>,
    ) -> Result<(), VerifyError> {
        let part = self.parts.entry(ecu.clone()).or_default();
        let (target, fallback) = match role {
            PairingRole::Target => (true, false),
            PairingRole::Fallback => (false, true),
            PairingRole::Both => (true, true),
        };
        let twice = (target && part.target.is_some()) || (fallback && part.fallback.is_some());
        if twice {
            return Err(bad_ecu(ecu, "it is given two targets, or two fallbacks"));
        }
        if fallback {
            part.fallback = Some(software.clone());
        }
        if target {
            part.target = Some(software);
            if let Some(floor) = floor {
                self.floors.insert(ecu.clone(), floor);
            }
        }
        Ok(())
    }

    /// The paths that the Image repository must list.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Compares what the Image repository says of `path`: length, hashes and everything under `shall_match`.
    pub(crate) fn compare(&self, path: &str, image: &TargetEntry) -> Result<(), VerifyError> {
        let Some(director) = self.entries.get(path) else { return Err(VerifyError::OutOfOrder) };
        let differs = |what: &str| Err(VerifyError::mismatch(path, format!("the repositories differ in its {what}")));
        if director.length != image.length {
            return differs("length");
        }
        if director.hashes != image.hashes {
            return differs("hashes");
        }
        let section = |entry: &TargetEntry| entry.custom.get("shall_match").filter(|value| value.is_object()).cloned();
        let (Some(ordered), Some(listed)) = (section(director), section(image)) else {
            return differs("shall_match section");
        };
        if ordered != listed {
            return differs(&differing(&ordered, &listed));
        }
        Ok(())
    }

    /// The decision, after every path was compared, and the floors it raises at its commit.
    pub(crate) fn decide(
        self,
        vehicle: &Vehicle,
        image_version: u64,
    ) -> Result<(Decision, BTreeMap<EcuId, ReleaseCounter>), VerifyError> {
        let mut ecus = Vec::new();
        for (ecu, part) in self.parts {
            let target = part.target.ok_or_else(|| bad_ecu(&ecu, "it is given a fallback and no target"))?;
            for software in std::iter::once(&target).chain(&part.fallback) {
                check_floor(vehicle, &ecu, software)?;
            }
            check_not_older(&ecu, &target, part.fallback.as_ref())?;
            ecus.push(EcuDecision { ecu, target, fallback: part.fallback });
        }
        let decision = Decision {
            vin: vehicle.vin.clone(),
            update: self.order.update,
            campaign: self.order.campaign,
            install_by: self.order.install_by,
            facts: self.order.facts,
            conditions: self.order.conditions,
            director_targets_version: self.version,
            image_targets_version: image_version,
            ecus,
        };
        let at = at(Repository::Director, "targets");
        decision.check().map_err(|error| VerifyError::malformed(&at, error.to_string()))?;
        Ok((decision, self.floors))
    }
}

fn pair(
    vehicle: &Vehicle,
    path: &str,
    entry: &TargetEntry,
    shall: &ShallMatch,
    ecu: &EcuId,
    pairing: &EcuPairing,
) -> Result<SoftwareRef, VerifyError> {
    let Some(fitted) = vehicle.ecus.get(ecu) else {
        return Err(bad_ecu(ecu, "this vehicle does not have it"));
    };
    if pairing.hardware_id != *fitted || !shall.hardware_ids.contains(fitted) {
        let stated: Vec<_> = shall.hardware_ids.iter().map(HardwareId::as_str).collect();
        return Err(VerifyError::BadHardwareId {
            path: path.to_owned(),
            ecu: ecu.clone(),
            stated: format!("{} ({})", pairing.hardware_id, stated.join(", ")),
            fitted: fitted.clone(),
        });
    }
    Ok(SoftwareRef {
        name: path.to_owned(),
        length: entry.length,
        sha256: entry.hashes.sha256,
        sha512: entry.hashes.sha512.clone(),
        version: shall.sw_version.clone(),
        hardware: fitted.clone(),
        counter: shall.release_counter,
        manifest_hash: shall.rauc_manifest_hash,
    })
}

fn check_shall_match(path: &str, shall: &ShallMatch) -> Result<(), VerifyError> {
    if shall.format != ShallMatch::FORMAT {
        return Err(VerifyError::mismatch(path, format!("format {:?} is not taken", shall.format)));
    }
    if shall.security_floor.is_some_and(|floor| floor > shall.release_counter) {
        return Err(VerifyError::mismatch(path, "its floor is above its own release counter"));
    }
    Ok(())
}

fn check_floor(vehicle: &Vehicle, ecu: &EcuId, software: &SoftwareRef) -> Result<(), VerifyError> {
    let floor = vehicle.floors.get(ecu).copied().unwrap_or(ReleaseCounter(0));
    if software.counter < floor {
        return Err(VerifyError::ImageRollback { ecu: ecu.clone(), counter: software.counter, floor });
    }
    Ok(())
}

/// Floors rise seldom; between them whoever holds the Director's online keys could order an old image back that is still listed
/// (Uptane standard, "Verify the image": release counter not lower). Who brings a fleet back releases with a higher counter.
///
/// The fallback stands for what the ECU runs: both repositories name it, and an ECU that runs anything else is left alone.
fn check_not_older(ecu: &EcuId, target: &SoftwareRef, fallback: Option<&SoftwareRef>) -> Result<(), VerifyError> {
    match fallback.map(|fallback| fallback.counter) {
        Some(running) if target.counter < running => {
            Err(VerifyError::OlderImage { ecu: ecu.clone(), counter: target.counter, running })
        }
        _ => Ok(()),
    }
}

fn bad_ecu(ecu: &EcuId, text: &str) -> VerifyError {
    VerifyError::BadEcuId { ecu: ecu.to_string(), text: text.to_owned() }
}

/// Names the first field in which two sections differ.
fn differing(ordered: &Value, listed: &Value) -> String {
    let names =
        |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = names(ordered);
    all.extend(names(listed));
    all.into_iter().find(|name| ordered.get(name) != listed.get(name)).unwrap_or_default()
}
