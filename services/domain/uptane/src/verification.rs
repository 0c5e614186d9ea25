//! The Uptane full verification of both repositories, as a machine without I/O.
//!
//! The Director's four roles, then the Image repository's four, then each directed file is looked up in the Image repository
//! and compared. Ask [`Verification::poll_fetch`] what is wanted, hand it to [`Verification::handle_file`], until nothing is
//! wanted any more; then [`Verification::finish`].

use std::collections::BTreeMap;

use pitstop_types::{Decision, EcuId, ReleaseCounter, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::checks::at;
use crate::delegation::{Delegated, Found};
use crate::metadata::{Repository, Role};
use crate::offline;
use crate::pairing::{self, Directed, Vehicle};
use crate::repository::{Files, MAX_DELEGATED, MAX_IMAGE_TARGETS, MAX_SMALL, RepositoryCheck, Want};
use crate::{Metadata as _, Verified, VerifyError};

/// All trusted metadata files of both repositories: stored and replaced as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub director: Files,
    pub image: Files,
}

impl Generation {
    /// Most bytes that all files have together, for whoever stores them: five small ones of the Director, three of the Image
    /// repository, its targets and the delegated roles.
    pub const MAX_BYTES: usize = 8 * MAX_SMALL + MAX_IMAGE_TARGETS + MAX_DELEGATED;

    /// What a device starts with: the roots that it was built with.
    pub fn initial(director_root: String, image_root: String) -> Self {
        Self { director: Files::from_root(director_root), image: Files::from_root(image_root) }
    }
}

/// A file that the machine wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub repository: Repository,
    /// Plain file name, `3.targets.json`.
    pub file: String,
    /// Stop reading after this many bytes.
    pub limit: usize,
}

/// What the verification came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// `None`: the Director wants nothing of this vehicle.
    pub decision: Option<Decision>,
    /// Floors to be raised when the decision has been carried out and committed.
    pub floors: BTreeMap<EcuId, ReleaseCounter>,
    pub director_targets_version: u64,
    pub image_targets_version: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Director,
    /// The list that withdraws workshops' packages is wanted.
    OfflineSnapshot,
    Image,
    /// A delegated role of the Image repository is wanted.
    Delegated(Want),
    Done(Box<Approval>),
    Failed,
}

/// A verification on its way.
#[derive(Debug, Clone)]
pub struct Verification {
    vehicle: Vehicle,
    director: RepositoryCheck,
    image: RepositoryCheck,
    directed: Option<Directed>,
    delegated: Delegated,
    passed_over: Option<VerifyError>,
    step: Step,
}

impl Verification {
    /// Starts from what is trusted. `now`: `None` when the wall-clock time is not known, which refuses everything.
    pub fn new(vehicle: Vehicle, trusted: Generation, now: Option<UnixSeconds>) -> Result<Self, VerifyError> {
        let now = now.filter(|&now| now > 0).ok_or(VerifyError::TimeUnknown)?;
        Ok(Self {
            vehicle,
            director: RepositoryCheck::new(Repository::Director, trusted.director, now)?,
            image: RepositoryCheck::new(Repository::Image, trusted.image, now)?,
            directed: None,
            delegated: Delegated::default(),
            passed_over: None,
            step: Step::Director,
        })
    }

    /// The next file to fetch; `None` when the machine is done, one way or the other.
    pub fn poll_fetch(&self) -> Option<Fetch> {
        let (repository, want) = match &self.step {
            Step::Director => (Repository::Director, self.director.want()?),
            Step::OfflineSnapshot => (Repository::Director, offline::want()),
            Step::Image => (Repository::Image, self.image.want()?),
            Step::Delegated(want) => (Repository::Image, want.clone()),
            Step::Done(_) | Step::Failed => return None,
        };
        Some(Fetch { repository, file: want.file, limit: want.limit })
    }

    /// Takes the file that [`Self::poll_fetch`] named; `None`: the repository does not have it. After an error the machine
    /// wants nothing more, and [`Self::generation`] holds what was verified before.
    pub fn handle_file(&mut self, bytes: Option<Vec<u8>>) -> Result<(), VerifyError> {
        let result = self.step_on(bytes);
        if result.is_err() {
            self.step = Step::Failed;
        }
        result
    }

    /// All files verified so far, on top of those that were trusted before. Worth storing after an error as well: a root that
    /// was followed stays followed, a version that was seen stays seen.
    pub fn generation(&self) -> Generation {
        Generation { director: self.director.files().clone(), image: self.image.files().clone() }
    }

    /// What was decided. Error [`VerifyError::OutOfOrder`] while files are wanted or after an error.
    pub fn finish(self) -> Result<(Verified<Approval>, Generation), VerifyError> {
        let generation = self.generation();
        match self.step {
            Step::Done(approval) => Ok((Verified::new(*approval), generation)),
            _ => Err(VerifyError::OutOfOrder),
        }
    }

    fn step_on(&mut self, bytes: Option<Vec<u8>>) -> Result<(), VerifyError> {
        if let (Some(fetch), Some(bytes)) = (self.poll_fetch(), &bytes)
            && bytes.len() > fetch.limit
        {
            let role = self.wanted_role();
            let at = at(fetch.repository, &role);
            return Err(VerifyError::Oversized { at, length: bytes.len(), limit: fetch.limit });
        }
        match &self.step {
            Step::Director => {
                self.director.take(bytes)?;
                self.after_director()
            }
            Step::OfflineSnapshot => {
                self.step = Step::Image;
                self.take_offline_snapshot(bytes)
            }
            Step::Image => {
                self.image.take(bytes)?;
                if self.image.targets().is_some() { self.match_targets() } else { Ok(()) }
            }
            Step::Delegated(want) => {
                self.delegated.take(&self.image, &want.role, bytes)?;
                self.match_targets()
            }
            Step::Done(_) | Step::Failed => Err(VerifyError::OutOfOrder),
        }
    }

    fn wanted_role(&self) -> String {
        let want = match &self.step {
            Step::Director => self.director.want(),
            Step::OfflineSnapshot => Some(offline::want()),
            Step::Image => self.image.want(),
            Step::Delegated(want) => Some(want.clone()),
            Step::Done(_) | Step::Failed => None,
        };
        want.map(|want| want.role).unwrap_or_default()
    }

    /// The order is read as soon as it is verified: another vehicle's file is refused before the Image repository is asked.
    fn after_director(&mut self) -> Result<(), VerifyError> {
        let Some(targets) = self.director.targets() else { return Ok(()) };
        self.directed = pairing::read(targets, &self.vehicle, self.director.now())?;
        let offline = self.director.keys(Role::OfflineSnapshot).is_ok();
        self.step = if offline { Step::OfflineSnapshot } else { Step::Image };
        Ok(())
    }

    /// PURE-2, "Additional step for full verification during an online update": one that is not good is passed over, one that goes back is
    /// an attack. A Director without workshops has none.
    fn take_offline_snapshot(&mut self, bytes: Option<Vec<u8>>) -> Result<(), VerifyError> {
        let Some(bytes) = bytes else { return Ok(()) };
        match offline::take_snapshot(&mut self.director, Some(&bytes)) {
            Err(error @ VerifyError::Rollback { .. }) => Err(error),
            Err(error) => {
                self.passed_over = Some(error);
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Why the list for workshops was passed over, if it was: worth a line in the log.
    pub fn passed_over(&self) -> Option<&VerifyError> {
        self.passed_over.as_ref()
    }

    /// Finds and compares every directed file; ends the verification, or asks for a delegated role first.
    fn match_targets(&mut self) -> Result<(), VerifyError> {
        let image_version = self.image.targets().map_or(0, |targets| targets.version());
        let director_version = self.director.targets().map_or(0, |targets| targets.version());
        let mut approval = Approval {
            decision: None,
            floors: BTreeMap::new(),
            director_targets_version: director_version,
            image_targets_version: image_version,
        };
        if let Some(directed) = &self.directed {
            for path in directed.paths() {
                match self.delegated.find(&mut self.image, path)? {
                    Found::Entry(entry) => directed.compare(path, &entry)?,
                    Found::Nowhere => {
                        return Err(VerifyError::mismatch(path, "the Image repository does not list it"));
                    }
                    Found::Need(want) => {
                        self.step = Step::Delegated(want);
                        return Ok(());
                    }
                }
            }
            let (decision, floors) = directed.clone().decide(&self.vehicle, image_version)?;
            approval.decision = Some(decision);
            approval.floors = floors;
        }
        self.step = Step::Done(Box::new(approval));
        Ok(())
    }
}
