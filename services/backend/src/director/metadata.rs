//! Serving metadata files by their names.

use pitstop_uptane::Repository as Repo;

use crate::backend::Backend;
use crate::error::Error;
use crate::model::{Role, Vehicle};

/// A file name of a repository with consistent snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileName {
    Root(u64),
    /// The newest; the only name without a version.
    Timestamp,
    Versioned(Role, u64),
    /// The list of workshops' packages (PURE-2); the newest, as it is signed elsewhere.
    OfflineSnapshot,
}

impl FileName {
    /// Reads `timestamp.json` and `N.root|snapshot|targets.json`, in that spelling only.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "timestamp.json" {
            return Some(Self::Timestamp);
        }
        if name == "offline-snapshot.json" {
            return Some(Self::OfflineSnapshot);
        }
        let (number, rest) = name.split_once('.')?;
        let version: u64 = number.parse().ok().filter(|version| *version > 0)?;
        if version.to_string() != number {
            return None;
        }
        match rest {
            "root.json" => Some(Self::Root(version)),
            "snapshot.json" => Some(Self::Versioned(Role::Snapshot, version)),
            "targets.json" => Some(Self::Versioned(Role::Targets, version)),
            _ => None,
        }
    }
}

impl Backend {
    /// The bytes of one metadata file as `vehicle` sees it.
    pub async fn metadata(&self, vehicle: &Vehicle, repository: Repo, name: &str) -> Result<Vec<u8>, Error> {
        let missing = Error::NotFound("metadata file");
        let file = match (repository, FileName::parse(name).ok_or(Error::NotFound("metadata file"))?) {
            // One root per repository so far; a vehicle asks for the next one in every cycle.
            (_, FileName::Root(1)) => return self.roots.get(repository.as_str()).cloned().ok_or(missing),
            (_, FileName::Root(_)) => return Err(missing),
            (Repo::Director, FileName::OfflineSnapshot) => {
                return tokio::fs::read(self.dir.offline_snapshot()).await.map_err(|_| missing);
            }
            (Repo::Image, FileName::OfflineSnapshot) => return Err(missing),
            (Repo::Director, FileName::Timestamp) => {
                self.repo.director_file(&vehicle.vin, Role::Timestamp, None).await?
            }
            (Repo::Director, FileName::Versioned(role, version)) => {
                self.repo.director_file(&vehicle.vin, role, Some(version)).await?
            }
            (Repo::Image, FileName::Timestamp) => self.repo.image_file(Role::Timestamp, None).await?,
            (Repo::Image, FileName::Versioned(role, version)) => self.repo.image_file(role, Some(version)).await?,
        };
        file.map(|file| file.bytes).ok_or(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_names_of_the_specification_are_files() {
        assert_eq!(FileName::parse("timestamp.json"), Some(FileName::Timestamp));
        assert_eq!(FileName::parse("offline-snapshot.json"), Some(FileName::OfflineSnapshot));
        assert_eq!(FileName::parse("12.root.json"), Some(FileName::Root(12)));
        assert_eq!(FileName::parse("3.targets.json"), Some(FileName::Versioned(Role::Targets, 3)));
        for bad in [
            "root.json",
            "0.root.json",
            "01.root.json",
            "+1.root.json",
            "1.timestamp.json",
            "1.offline-snapshot.json",
            "../1.root.json",
            "",
        ] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_refused(name in ".{0,40}", version in 1_u64..) {
            let _ = FileName::parse(&name);
            prop_assert_eq!(FileName::parse(&format!("{version}.snapshot.json")), Some(FileName::Versioned(Role::Snapshot, version)));
        }
    }
}
