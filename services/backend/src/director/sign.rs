//! Signing the Director's three online roles for one vehicle.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use pitstop_types::{EcuId, ReleaseCounter};
use pitstop_uptane::{
    DirectorTarget, EcuPairing, ImageTarget, Order, PairingRole, ShallMatch, SignedFile, Snapshot, Targets, Time,
    Timestamp, sign,
};

use super::{Case, under_way};
use crate::backend::Backend;
use crate::error::Error;
use crate::model::{Assignment, Bundle, MetaFile, Role};
use crate::store::Change;

impl Backend {
    /// Signs targets that order what is under way and nothing else; returns their version. Every manifest is answered with fresh
    /// files: what a vehicle verifies is never older than its own report.
    pub(super) async fn sign_for(&self, case: &mut Case) -> Result<u64, Error> {
        let last = self.repo.director_file(&case.vehicle.vin, Role::Targets, None).await?;
        let wanted = under_way(&case.assignments).cloned();
        let version = last.map_or(0, |last| last.version).saturating_add(1);
        let version =
            NonZeroU64::new(version).ok_or_else(|| Error::Conflict("metadata versions are used up".into()))?;
        let expires = self.time_after(self.settings.lifetimes.director_secs)?;
        let targets = self.director_targets(case, wanted.as_ref(), version, expires).await?;
        let keys = &self.director_keys;
        let failed = "signing for a vehicle";
        let targets = sign(&targets, &[&keys.targets]).map_err(Error::internal(failed))?;
        let snapshot = Snapshot::new(version, expires, [("targets", &targets)]).map_err(Error::internal(failed))?;
        let snapshot = sign(&snapshot, &[&keys.snapshot]).map_err(Error::internal(failed))?;
        let timestamp = Timestamp::new(version, expires, &snapshot).map_err(Error::internal(failed))?;
        let timestamp = sign(&timestamp, &[&keys.timestamp]).map_err(Error::internal(failed))?;
        for (role, file) in [(Role::Targets, targets), (Role::Snapshot, snapshot), (Role::Timestamp, timestamp)] {
            case.changes.push(Change::AddDirectorFile(case.vehicle.vin.clone(), stored(role, file, expires)));
        }
        self.metrics.targets_signed.add(1);
        Ok(version.get())
    }

    async fn director_targets(
        &self,
        case: &Case,
        wanted: Option<&Assignment>,
        version: NonZeroU64,
        expires: Time,
    ) -> Result<Targets, Error> {
        let vin = case.vehicle.vin.clone();
        let Some(assignment) = wanted else { return Ok(Targets::director(version, expires, vin, None)) };
        let campaign = self.repo.campaign(&assignment.campaign).await?.ok_or(Error::NotFound("campaign"))?;
        let release = self.need_release(&campaign.spec.release).await?;
        let order = Order {
            update: assignment.id.clone(),
            campaign: assignment.campaign.clone(),
            install_by: assignment.install_by.unwrap_or_default(),
            facts: release.facts.ok_or_else(|| Error::Conflict("the release lacks the driver's information".into()))?,
            conditions: campaign.spec.signed_conditions(),
        };
        let mut targets = Targets::director(version, expires, vin, Some(order));
        for (bundle, mut ecus) in pairings(assignment, &case.listed)? {
            let role = common_role(&ecus);
            ecus.values_mut().filter(|pairing| pairing.role == Some(role)).for_each(|pairing| pairing.role = None);
            let target = DirectorTarget { image: image_target(bundle)?, ecus, role };
            targets.list_director(&bundle.path, target).map_err(Error::internal("listing a bundle for a vehicle"))?;
        }
        Ok(targets)
    }
}

/// What one path is for, by ECU.
type Pairings = BTreeMap<EcuId, EcuPairing>;

/// Every bundle of the plan with the ECUs it is for; a path stands once, whatever it is for each of them.
fn pairings<'b>(
    assignment: &Assignment,
    listed: &'b BTreeMap<String, Bundle>,
) -> Result<Vec<(&'b Bundle, Pairings)>, Error> {
    let mut by_id: BTreeMap<&String, Pairings> = BTreeMap::new();
    for part in &assignment.plan {
        for (id, role) in [(&part.target, PairingRole::Target), (&part.fallback, PairingRole::Fallback)] {
            let bundle = listed.get(id).ok_or(Error::NotFound("bundle of the assignment"))?;
            let pairing = EcuPairing { hardware_id: bundle.hardware.clone(), role: Some(role) };
            by_id
                .entry(id)
                .or_default()
                .entry(part.ecu.clone())
                // The ECU keeps its software: what it gets is also what it goes back to.
                .and_modify(|both| both.role = Some(PairingRole::Both))
                .or_insert(pairing);
        }
    }
    Ok(by_id.into_iter().filter_map(|(id, ecus)| Some((listed.get(id)?, ecus))).collect())
}

/// The path's role: the first ECU's. Only ECUs for which it is something else name theirs.
fn common_role(ecus: &Pairings) -> PairingRole {
    ecus.values().find_map(|pairing| pairing.role).unwrap_or(PairingRole::Target)
}

/// A bundle as both repositories list it.
pub(crate) fn image_target(bundle: &Bundle) -> Result<ImageTarget, Error> {
    let digest = |text: &str| text.parse().map_err(Error::internal("reading a stored digest"));
    Ok(ImageTarget {
        length: bundle.length,
        sha256: digest(&bundle.sha256)?,
        sha512: Some(bundle.sha512.clone()),
        shall_match: ShallMatch {
            hardware_ids: vec![bundle.hardware.clone()],
            release_counter: ReleaseCounter(bundle.counter),
            format: ShallMatch::FORMAT.to_owned(),
            rauc_manifest_hash: digest(&bundle.manifest_hash)?,
            sw_version: bundle.version.clone(),
            security_floor: bundle.security_floor.map(ReleaseCounter),
        },
    })
}

pub(crate) fn stored(role: Role, file: SignedFile, expires: Time) -> MetaFile {
    MetaFile { role, version: file.version, expires: expires.unix(), bytes: file.bytes }
}
