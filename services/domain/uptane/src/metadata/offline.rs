use std::collections::BTreeMap;
use std::num::NonZeroU64;

use pitstop_types::Vin;
use serde::{Deserialize, Serialize};

use super::{
    BuildError, DirectorTarget, FileMeta, Header, MAX_SNAPSHOT_FILES, Metadata, Order, Role, Targets, list_files,
};
use crate::{SignedFile, Time};

/// The Director's list of offline targets files (PURE-2): which version of each is the latest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineSnapshot {
    #[serde(flatten)]
    pub header: Header,
    /// By file name, `tcu-5.1.0.json`.
    pub meta: BTreeMap<String, FileMeta>,
}

impl OfflineSnapshot {
    /// Lists targets files by their names without `.json`, each with its hash.
    pub fn new<'f>(
        version: NonZeroU64,
        expires: Time,
        files: impl IntoIterator<Item = (&'f str, &'f SignedFile)>,
    ) -> Result<Self, BuildError> {
        Ok(Self { header: Header::new(Role::OfflineSnapshot, version, expires), meta: list_files(files)? })
    }
}

impl Metadata for OfflineSnapshot {
    const TYPE: Role = Role::OfflineSnapshot;
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.header.check(Role::OfflineSnapshot)?;
        if self.meta.is_empty() || self.meta.len() > MAX_SNAPSHOT_FILES {
            return Err(BuildError::new(format!("it lists no file, or more than {MAX_SNAPSHOT_FILES}")));
        }
        Ok(())
    }
}

/// What may be installed without a network (PURE-2): the Director's targets under a role of their own, for every vehicle with the
/// hardware they name, or for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OfflineTargets(pub(crate) Targets);

impl OfflineTargets {
    /// Still empty. `vin`: for this vehicle alone.
    pub fn new(version: NonZeroU64, expires: Time, vin: Option<Vin>, order: Order) -> Self {
        let targets = Targets::image(version, expires);
        let header = Header::new(Role::OfflineTargets, version, expires);
        Self(Targets { header, vin, order: Some(order), ..targets })
    }

    /// Directs a file to ECUs.
    pub fn list(&mut self, path: &str, target: DirectorTarget) -> Result<(), BuildError> {
        self.0.list_director(path, target)
    }
}

impl Metadata for OfflineTargets {
    const TYPE: Role = Role::OfflineTargets;
    fn header(&self) -> &Header {
        &self.0.header
    }
    fn check(&self) -> Result<(), BuildError> {
        self.0.header.check(Role::OfflineTargets)?;
        if self.0.order.is_none() {
            return Err(BuildError::new("it has no x-pitstop"));
        }
        if self.0.targets.len() > super::targets::MAX_DIRECTOR_TARGETS {
            return Err(BuildError::new("too many targets"));
        }
        self.0.check_content()
    }
}
