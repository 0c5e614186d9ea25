//! May this vehicle get this release, and if so, which bundle for which ECU, with which way back?

use std::collections::BTreeMap;

use pitstop_types::{EcuId, HardwareId};

use crate::model::{Bundle, Ecu, PlanPart, Release, ReleaseKind, ReleaseState, Vehicle};

/// Why a vehicle is not offered a release. The text is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exclusion {
    #[error("not authorised: {0}")]
    NotAuthorised(String),
    #[error("no device is provisioned for it")]
    NotProvisioned,
    #[error("it has not yet reported what it runs")]
    NoReport,
    #[error("the release is {0}")]
    NotPublished(&'static str),
    #[error("none of its ECUs has hardware of this release")]
    NothingForIt,
    #[error("it runs everything of this release already")]
    UpToDate,
    #[error("{0} has no valid software to go back to")]
    NoSoftware(EcuId),
    #[error("{0} did not answer when the vehicle last reported")]
    Silent(EcuId),
    #[error("{0} runs {1}, which this release does not update")]
    FromVersion(EcuId, String),
    #[error("no fallback: {0} runs {1}, of which no bundle is known")]
    NoFallback(EcuId, String),
    #[error("{0} runs release counter {1}, newer than {2}")]
    Downgrade(EcuId, u64, u64),
    #[error("{0} would run {1}, which this release does not go together with")]
    Dependency(EcuId, String),
}

impl Exclusion {
    /// May it pass by itself, by a visit to the workshop or by an operator's word? The vehicle is then still to be waited for. What
    /// the release says of software that the vehicle has proven to run stays so while the campaign lasts.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotAuthorised(_)
            | Self::NotProvisioned
            | Self::NoReport
            | Self::NoSoftware(_)
            | Self::Silent(_)
            | Self::NoFallback(..) => true,
            Self::NotPublished(_)
            | Self::NothingForIt
            | Self::UpToDate
            | Self::FromVersion(..)
            | Self::Downgrade(..)
            | Self::Dependency(..) => false,
        }
    }

    /// Has nothing been heard of the vehicle by which to judge it?
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::NotProvisioned | Self::NoReport)
    }
}

/// What the rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Fitted<'a> {
    pub vehicle: &'a Vehicle,
    pub ecus: &'a [Ecu],
    /// Every bundle listed in the Image repository, by id.
    pub listed: &'a BTreeMap<String, Bundle>,
}

impl Fitted<'_> {
    /// The listed bundle that `ecu` runs, as its last signed report proves.
    fn running(&self, ecu: &Ecu) -> Option<&Bundle> {
        self.listed.values().find(|bundle| ecu.runs(bundle))
    }
}

/// The parts of an update to `release`: one per ECU that differs, each with the bundle it goes back to.
pub fn plan_update(fitted: Fitted<'_>, release: &Release) -> Result<Vec<PlanPart>, Exclusion> {
    may_have_it(fitted.vehicle, release)?;
    // After its list was corrected, what the vehicle has and runs is known with its next manifest; a reason found before that is not
    // there to stay.
    if fitted.ecus.is_empty() || fitted.ecus.iter().any(|ecu| ecu.unreported) {
        return Err(Exclusion::NoReport);
    }
    let targets: BTreeMap<&HardwareId, &Bundle> = release
        .bundles
        .iter()
        .filter_map(|id| fitted.listed.get(id))
        .map(|bundle| (&bundle.hardware, bundle))
        .collect();
    if !fitted.ecus.iter().any(|ecu| targets.contains_key(&ecu.hardware)) {
        return Err(Exclusion::NothingForIt);
    }
    let mut parts = Vec::new();
    for ecu in fitted.ecus {
        if let Some(target) = targets.get(&ecu.hardware) {
            parts.extend(plan_ecu(fitted, release, ecu, target)?);
        }
    }
    check_dependencies(fitted, release, &targets)?;
    if parts.is_empty() { Err(Exclusion::UpToDate) } else { Ok(parts) }
}

fn may_have_it(vehicle: &Vehicle, release: &Release) -> Result<(), Exclusion> {
    if !vehicle.authorised {
        return Err(Exclusion::NotAuthorised(vehicle.authorised_reason.clone()));
    }
    if release.state != ReleaseState::Published {
        return Err(Exclusion::NotPublished(release.state.as_str()));
    }
    if release.kind != ReleaseKind::Update {
        return Err(Exclusion::NotPublished("only for going back"));
    }
    if vehicle.device.is_none() {
        return Err(Exclusion::NotProvisioned);
    }
    if vehicle.manifest_at.is_none() {
        return Err(Exclusion::NoReport);
    }
    Ok(())
}

fn plan_ecu(fitted: Fitted<'_>, release: &Release, ecu: &Ecu, target: &Bundle) -> Result<Option<PlanPart>, Exclusion> {
    if ecu.silent {
        return Err(Exclusion::Silent(ecu.ecu.clone()));
    }
    let Some(version) = &ecu.version else { return Err(Exclusion::NoSoftware(ecu.ecu.clone())) };
    let running = fitted.running(ecu);
    if running.is_some_and(|running| running.id == target.id) {
        return Ok(None);
    }
    if let Some(allowed) = release.allowed_from.get(&ecu.hardware)
        && !allowed.contains(version)
    {
        return Err(Exclusion::FromVersion(ecu.ecu.clone(), version.to_string()));
    }
    let Some(running) = running else {
        return Err(Exclusion::NoFallback(ecu.ecu.clone(), version.to_string()));
    };
    if running.counter > target.counter {
        return Err(Exclusion::Downgrade(ecu.ecu.clone(), running.counter, target.counter));
    }
    Ok(Some(PlanPart {
        ecu: ecu.ecu.clone(),
        target: target.id.clone(),
        fallback: running.id.clone(),
        from_version: version.to_string(),
        to_version: target.version.to_string(),
    }))
}

fn check_dependencies(
    fitted: Fitted<'_>,
    release: &Release,
    targets: &BTreeMap<&HardwareId, &Bundle>,
) -> Result<(), Exclusion> {
    for need in &release.depends {
        for ecu in fitted.ecus.iter().filter(|ecu| ecu.hardware == need.hardware) {
            let after = targets.get(&ecu.hardware).map(|bundle| &bundle.version).or(ecu.version.as_ref());
            if !after.is_some_and(|version| need.versions.contains(version)) {
                let version = after.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                return Err(Exclusion::Dependency(ecu.ecu.clone(), version));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dependency;
    use pitstop_types::{SoftwareVersion, Vin};

    fn version(text: &str) -> SoftwareVersion {
        SoftwareVersion::new(text).unwrap()
    }
    fn hardware(text: &str) -> HardwareId {
        HardwareId::new(text).unwrap()
    }
    fn bundle(id: &str, hw: &str, ver: &str, counter: u64) -> (String, Bundle) {
        let bundle = Bundle {
            id: id.into(),
            name: id.into(),
            path: format!("{hw}/{ver}.raucb"),
            sha256: format!("sha-{id}"),
            sha512: String::new(),
            length: 1,
            kind: "ecu".into(),
            hardware: hardware(hw),
            version: version(ver),
            counter,
            manifest_hash: String::new(),
            security_floor: None,
            created_at: 0,
        };
        (id.to_owned(), bundle)
    }
    fn ecu(id: &str, hw: &str, ver: Option<&str>) -> Ecu {
        Ecu {
            ecu: EcuId::new(id).unwrap(),
            hardware: hardware(hw),
            serial: String::new(),
            software_number: String::new(),
            version: ver.map(version),
            image_sha256: None,
            silent: false,
            unreported: false,
            updated_at: 0,
        }
    }
    fn vehicle() -> Vehicle {
        let mut vehicle = Vehicle::new(Vin::new("WP0ZZZ99ZTS392124").unwrap(), 0);
        vehicle.device = Some("d-1".into());
        vehicle.manifest_at = Some(1);
        vehicle
    }
    fn release() -> Release {
        Release {
            id: "r".into(),
            name: "r".into(),
            kind: ReleaseKind::Update,
            state: ReleaseState::Published,
            bundles: vec!["bcm2".into(), "adas2".into()],
            facts: None,
            allowed_from: BTreeMap::new(),
            depends: Vec::new(),
            security_floors: BTreeMap::new(),
            created_at: 0,
            published_at: Some(0),
            withdrawn_reason: None,
        }
    }
    fn listed() -> BTreeMap<String, Bundle> {
        [
            bundle("bcm1", "bcm-a1", "1", 1),
            bundle("bcm2", "bcm-a1", "2", 2),
            bundle("bcm3", "bcm-a1", "3", 3),
            bundle("adas1", "adas-a1", "1", 1),
            bundle("adas2", "adas-a1", "2", 2),
        ]
        .into()
    }
    fn plan(vehicle: &Vehicle, ecus: &[Ecu], release: &Release) -> Result<Vec<PlanPart>, Exclusion> {
        plan_update(Fitted { vehicle, ecus, listed: &listed() }, release)
    }

    #[test]
    fn only_ecus_that_differ_are_part_of_it_each_with_its_way_back() {
        let parts = plan(&vehicle(), &[ecu("bcm", "bcm-a1", Some("1")), ecu("adas", "adas-a1", Some("2"))], &release());
        let parts = parts.unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].target.as_str(), parts[0].fallback.as_str()), ("bcm2", "bcm1"));
    }

    #[test]
    fn a_vehicle_that_may_not_or_cannot_have_it_is_excluded_with_the_reason() {
        let ecus = [ecu("bcm", "bcm-a1", Some("1"))];
        let blocked = Vehicle { authorised: false, authorised_reason: "stolen".into(), ..vehicle() };
        assert_eq!(plan(&blocked, &ecus, &release()), Err(Exclusion::NotAuthorised("stolen".into())));
        let silent = Vehicle { manifest_at: None, ..vehicle() };
        assert_eq!(plan(&silent, &ecus, &release()), Err(Exclusion::NoReport));
        let bare = Vehicle { device: None, ..vehicle() };
        assert_eq!(plan(&bare, &ecus, &release()), Err(Exclusion::NotProvisioned));
        let withdrawn = Release { state: ReleaseState::Withdrawn, ..release() };
        assert_eq!(plan(&vehicle(), &ecus, &withdrawn), Err(Exclusion::NotPublished("withdrawn")));
        let initial = Release { kind: ReleaseKind::Initial, ..release() };
        assert!(matches!(plan(&vehicle(), &ecus, &initial), Err(Exclusion::NotPublished(_))));
    }

    #[test]
    fn what_it_runs_decides_too() {
        let case = |ver: Option<&str>, release: &Release| plan(&vehicle(), &[ecu("bcm", "bcm-a1", ver)], release);
        assert!(matches!(case(Some("0.9"), &release()), Err(Exclusion::NoFallback(_, version)) if version == "0.9"));
        assert!(matches!(case(Some("3"), &release()), Err(Exclusion::Downgrade(_, 3, 2))));
        assert!(matches!(case(None, &release()), Err(Exclusion::NoSoftware(_))));
        assert_eq!(case(Some("2"), &release()), Err(Exclusion::UpToDate));
        let mut from = release();
        from.allowed_from.insert(hardware("bcm-a1"), vec![version("1.5")]);
        assert!(matches!(case(Some("1"), &from), Err(Exclusion::FromVersion(_, _))));
        let silent = Ecu { silent: true, ..ecu("bcm", "bcm-a1", Some("1")) };
        assert!(matches!(plan(&vehicle(), &[silent], &release()), Err(Exclusion::Silent(_))));
        assert_eq!(plan(&vehicle(), &[ecu("x", "x-a1", Some("1"))], &release()), Err(Exclusion::NothingForIt));
    }

    #[test]
    fn a_vehicle_whose_list_was_corrected_has_not_yet_reported() {
        assert_eq!(plan(&vehicle(), &[], &release()), Err(Exclusion::NoReport));
        let unreported = |id, hw| Ecu { unreported: true, ..ecu(id, hw, None) };
        let tcu = || ecu("tcu", "tcu-a1", Some("1"));
        assert_eq!(plan(&vehicle(), &[tcu(), unreported("x", "x-a1")], &release()), Err(Exclusion::NoReport));
        let mut needs = release();
        needs.depends = vec![Dependency { hardware: hardware("tpms-a1"), versions: vec![version("7")] }];
        let ecus = [ecu("bcm", "bcm-a1", Some("1")), unreported("tpms", "tpms-a1")];
        assert_eq!(plan(&vehicle(), &ecus, &needs), Err(Exclusion::NoReport));
        assert!(Exclusion::NoReport.may_pass());
    }

    #[test]
    fn a_version_read_back_is_not_proof_when_the_report_names_another_file() {
        let mut reported = ecu("bcm", "bcm-a1", Some("1"));
        reported.image_sha256 = Some("sha-other".into());
        assert!(matches!(plan(&vehicle(), &[reported], &release()), Err(Exclusion::NoFallback(..))));
    }

    #[test]
    fn an_ecu_outside_the_release_must_go_together_with_it() {
        let mut needs = release();
        needs.depends = vec![Dependency { hardware: hardware("tpms-a1"), versions: vec![version("7")] }];
        let with = |ver| [ecu("bcm", "bcm-a1", Some("1")), ecu("tpms", "tpms-a1", Some(ver))];
        assert!(matches!(plan(&vehicle(), &with("6"), &needs), Err(Exclusion::Dependency(..))));
        assert!(plan(&vehicle(), &with("7"), &needs).is_ok());
    }
}
