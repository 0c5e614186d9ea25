//! Orders in, jobs out.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use pitstop_dbus::{EcuDescription, EcuVersions, OtaError};
use pitstop_flashing::Job as MachineJob;
use pitstop_flashing::vehicle::{Address, Ecu};
use pitstop_flashing::{Banks, EcuIdentity, Ident, Order, Outcome, Profile, Vehicle};
use pitstop_runtime::ResultData;
use pitstop_store::Storage;
use pitstop_types::{EcuId, SoftwareVersion, UpdateId};
use pitstop_uds::{Addressing, Request as UdsRequest, StepLimits};

use crate::job::{Job, Watcher, look_through};
use crate::lanes::Lanes;
use crate::ports::{Bundles, Keys, Links, Role, Safety, Software};
use crate::record::{Records, Touched};

/// Verbs of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Stage,
    Activate,
    Commit,
    RollBack,
}

impl Verb {
    /// Kind of its operation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Commit => "commit",
            Self::RollBack => "roll-back",
        }
    }
}

/// An order, its arguments checked.
#[derive(Debug, Clone)]
pub struct Request {
    pub verb: Verb,
    pub update: UpdateId,
    pub ecu: EcuId,
    /// Version the ECU must run now; `None`: it is known to have none.
    pub expected: Option<SoftwareVersion>,
}

/// What the service is built from.
pub struct Parts {
    pub vehicle: Vehicle,
    /// By name, as `vehicle.toml` names them.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    pub links: Arc<dyn Links>,
    pub bundles: Arc<dyn Bundles>,
    pub safety: Arc<dyn Safety>,
    pub keys: Arc<dyn Keys>,
    pub storage: Arc<dyn Storage>,
}

/// The flasher behind its bus object.
pub struct Flasher {
    parts: Parts,
    lanes: Lanes,
    records: Records,
}

/// What a verb means for a bank layout.
struct Meaning {
    job: MachineJob,
    role: Role,
    disrupts: bool,
}

impl Flasher {
    /// Refuses a vehicle whose ECUs name profiles that are not there or do not fit their banks.
    pub fn new(parts: Parts) -> Result<Self, OtaError> {
        for ecu in parts.vehicle.ecus.values() {
            let Some(profile) = parts.profiles.get(&ecu.profile) else {
                return Err(OtaError::InvalidArgument(format!("ECU {}: there is no profile {}", ecu.id, ecu.profile)));
            };
            if profile.banks != ecu.banks {
                return Err(OtaError::InvalidArgument(format!(
                    "ECU {}: profile {} is for other banks",
                    ecu.id, ecu.profile
                )));
            }
        }
        let (lanes, records) = (Lanes::new(&parts.vehicle), Records::new(parts.storage.clone()));
        Ok(Self { parts, lanes, records })
    }

    /// The ECU with this id. Errors: `InvalidArgument`, `UnknownEcu`.
    pub fn ecu(&self, id: &str) -> Result<&Ecu, OtaError> {
        let id = EcuId::new(id).map_err(|e| OtaError::InvalidArgument(e.to_string()))?;
        self.parts.vehicle.ecus.get(&id).ok_or_else(|| OtaError::UnknownEcu(format!("vehicle.toml has no ECU {id}")))
    }

    pub fn list(&self) -> Vec<EcuDescription> {
        self.parts.vehicle.ecus.values().map(describe).collect()
    }

    /// Asks the ECUs now, all at once. Errors: `InvalidArgument`, `UnknownEcu`; an ECU that does not answer has its error in its row.
    pub async fn read_versions(&self, ids: &[String]) -> Result<Vec<EcuVersions>, OtaError> {
        let ecus = match ids {
            [] => self.parts.vehicle.ecus.values().collect(),
            ids => ids.iter().map(|id| self.ecu(id)).collect::<Result<Vec<_>, _>>()?,
        };
        Ok(join_all(ecus.into_iter().map(|ecu| self.versions_of(ecu))).await)
    }

    async fn versions_of(&self, ecu: &Ecu) -> EcuVersions {
        let row = EcuVersions { ecu: ecu.id.to_string(), hardware: ecu.hardware.to_string(), ..EcuVersions::default() };
        match self.identify(ecu).await {
            Ok(found) => EcuVersions {
                hardware: found.hardware,
                version: found.version.map(String::from).unwrap_or_default(),
                software_number: found.software_number,
                serial: found.serial,
                ..row
            },
            Err(error) => {
                log::warn!("reading ECU {}: {error}", ecu.id);
                EcuVersions { error_name: error.full_name(), ..row }
            }
        }
    }

    async fn identify(&self, ecu: &Ecu) -> Result<EcuIdentity, OtaError> {
        let busy = || OtaError::Busy(format!("ECU {} is in other work", ecu.id));
        let _lane = self.lanes.try_enter(ecu).ok_or_else(busy)?;
        let profile = self.profile(ecu)?;
        let mut link = self.open(ecu, &profile).await?;
        let mut identity = EcuIdentity::default();
        for did in EcuIdentity::dids(&profile.identification) {
            let request = UdsRequest::ReadDataByIdentifier { dids: vec![did] };
            let mut limits = StepLimits::for_request(&request);
            limits.repeats = 1;
            match link.ask(&request, Addressing::Physical, false, limits).await {
                Outcome::Response(response) => identity.take(&profile.identification, did, &response),
                other => return Err(OtaError::EcuNotResponding(format!("ECU {}: {other:?}", ecu.id))),
            }
        }
        Ok(identity)
    }

    /// Carries an order out.
    pub(crate) async fn carry_out(&self, request: &Request, watcher: &dyn Watcher) -> Result<ResultData, OtaError> {
        let ecu = self.ecu(request.ecu.as_str())?;
        let Some(meaning) = meaning(request.verb, ecu.banks) else { return Ok(ResultData::new()) };
        let profile = self.profile(ecu)?;
        watcher.phase("waiting").await;
        let mut lane = self.lanes.enter(ecu, meaning.disrupts).await;
        watcher.phase("opening").await;
        let mut software = self.parts.bundles.open(&request.update, &ecu.id, meaning.role).await?;
        check_for(ecu, &software)?;
        let order = self.order(request, ecu, &meaning, &mut software, &profile).await?;
        let mut link = self.open(ecu, &profile).await?;
        let job = Job {
            update: &request.update,
            ecu: &ecu.id,
            touched: Touched {
                update: request.update.clone(),
                verb: request.verb.as_str().to_owned(),
                digest: software.digest.clone(),
                erased: false,
            },
            needs_consent: request.verb != Verb::RollBack,
            disrupts: meaning.disrupts,
            safety: &*self.parts.safety,
            keys: &*self.parts.keys,
            records: &self.records,
            watcher,
        };
        let end = job.run(order, profile, link.as_mut(), &mut lane, Some(software)).await;
        let what = end
            .as_ref()
            .map_or_else(|error| error.to_string(), |success| format!("done, already: {}", success.already));
        log::info!(update = request.update.as_str(), ecu = ecu.id.as_str(); "{}: {what}", request.verb.as_str());
        let success = end?;
        let version = success.identity.version.map(String::from).unwrap_or_default();
        Ok(ResultData::from([
            ("version".to_owned(), version.into()),
            ("already".to_owned(), u64::from(success.already).into()),
        ]))
    }

    async fn order(
        &self,
        request: &Request,
        ecu: &Ecu,
        meaning: &Meaning,
        software: &mut Software,
        profile: &Profile,
    ) -> Result<Order, OtaError> {
        let content = match meaning.job {
            MachineJob::Install => Some(look_through(software, profile).await?),
            _ => None,
        };
        let after = &software.description.after;
        let left = self.records.left(&ecu.id);
        Ok(Order {
            ecu: ecu.id.clone(),
            job: meaning.job,
            hardware: ecu.hardware.clone(),
            expected: request.expected.clone(),
            target: Ident { software_number: after.software_number.clone(), version: after.version.clone() },
            content,
            resumed: left.touched,
            erased: left.erased,
        })
    }

    async fn open(&self, ecu: &Ecu, profile: &Profile) -> Result<Box<dyn crate::ports::EcuLink>, OtaError> {
        let bus = self.parts.vehicle.buses.get(&ecu.bus);
        let bus = bus.ok_or_else(|| OtaError::Internal(format!("ECU {}: its bus is not listed", ecu.id)))?;
        self.parts.links.open(bus, ecu, profile).await
    }

    fn profile(&self, ecu: &Ecu) -> Result<Arc<Profile>, OtaError> {
        let profile = self.parts.profiles.get(&ecu.profile).cloned();
        profile.ok_or_else(|| OtaError::Internal(format!("ECU {}: its profile is not there", ecu.id)))
    }
}

/// `None`: nothing to do.
fn meaning(verb: Verb, banks: Banks) -> Option<Meaning> {
    use MachineJob::{Activate, Commit, Install, RollBack};
    let (job, role, disrupts) = match (verb, banks) {
        (Verb::Stage, Banks::Dual) => (Install, Role::Target, false),
        (Verb::Activate, Banks::Dual) => (Activate, Role::Target, true),
        (Verb::Commit, Banks::Dual) => (Commit, Role::Target, false),
        (Verb::RollBack, Banks::Dual) => (RollBack, Role::Fallback, true),
        (Verb::Stage | Verb::Commit, Banks::Single) => return None,
        (Verb::Activate, Banks::Single) => (Install, Role::Target, true),
        (Verb::RollBack, Banks::Single) => (Install, Role::Fallback, true),
    };
    Some(Meaning { job, role, disrupts })
}

/// The bundle must be made for the hardware that vehicle.toml names; the ECU itself is asked again before anything is erased.
fn check_for(ecu: &Ecu, software: &Software) -> Result<(), OtaError> {
    if software.hardware != ecu.hardware {
        return Err(OtaError::BadHardwareId(format!(
            "ECU {} is {}, the bundle is for {}",
            ecu.id, ecu.hardware, software.hardware
        )));
    }
    if software.description.after.version != software.version {
        let after = &software.description.after.version;
        return Err(OtaError::BadBundle(format!(
            "the bundle is version {}, its description says {after}",
            software.version
        )));
    }
    Ok(())
}

fn describe(ecu: &Ecu) -> EcuDescription {
    EcuDescription {
        ecu: ecu.id.to_string(),
        bus: ecu.bus.to_string(),
        address: match ecu.address {
            Address::Can { request, response, .. } => format!("0x{request:X}/0x{response:X}"),
            Address::Doip { logical } => format!("0x{logical:04X}"),
        },
        banks: match ecu.banks {
            Banks::Single => "single".to_owned(),
            Banks::Dual => "dual".to_owned(),
        },
        hardware: ecu.hardware.to_string(),
        via: ecu.via.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
