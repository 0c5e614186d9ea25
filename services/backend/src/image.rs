//! The Image repository: lists every released bundle, for all vehicles alike.

use std::num::NonZeroU64;

use pitstop_uptane::{SignedFile, Snapshot, Targets, Timestamp, sign};

use crate::backend::Backend;
use crate::clock::later;
use crate::director::{image_target, stored};
use crate::error::Error;
use crate::model::{Bundle, MetaFile, Role};
use crate::store::Change;

fn next(last: Option<&MetaFile>) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(last.map_or(0, |file| file.version))
}

impl Backend {
    /// Signs anew what would expire within half of its life. Called at the start and every hour.
    pub async fn refresh_image_repository(&self) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let listed = self.listed_bundles().await?;
        let changes = self.sign_image_repository(listed.values(), false).await?;
        if !changes.is_empty() {
            self.repo.apply(changes).await?;
        }
        Ok(())
    }

    /// The changes that make the Image repository list `bundles`; new targets only if `relist` or when the old ones run out.
    pub(crate) async fn sign_image_repository<'b>(
        &self,
        bundles: impl Iterator<Item = &'b Bundle>,
        relist: bool,
    ) -> Result<Vec<Change>, Error> {
        let life = &self.settings.lifetimes;
        let fresh = |file: &Option<MetaFile>, secs: u64| {
            file.as_ref().is_some_and(|file| file.expires > later(self.clock.now(), secs / 2))
        };
        let targets = self.repo.image_file(Role::Targets, None).await?;
        let snapshot = self.repo.image_file(Role::Snapshot, None).await?;
        let timestamp = self.repo.image_file(Role::Timestamp, None).await?;
        let new_targets = relist || !fresh(&targets, life.image_targets_secs);
        let new_snapshot = new_targets || !fresh(&snapshot, life.image_snapshot_secs);
        if !new_snapshot && fresh(&timestamp, life.image_timestamp_secs) {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        let targets = match targets {
            Some(file) if !new_targets => signed(file),
            last => self.image_targets(next(last.as_ref()), bundles, &mut changes)?,
        };
        let snapshot = match snapshot {
            Some(file) if !new_snapshot => signed(file),
            last => self.image_snapshot(next(last.as_ref()), &targets, &mut changes)?,
        };
        self.image_timestamp(next(timestamp.as_ref()), &snapshot, &mut changes)?;
        Ok(changes)
    }

    fn image_targets<'b>(
        &self,
        version: NonZeroU64,
        bundles: impl Iterator<Item = &'b Bundle>,
        changes: &mut Vec<Change>,
    ) -> Result<SignedFile, Error> {
        let expires = self.time_after(self.settings.lifetimes.image_targets_secs)?;
        let mut targets = Targets::image(version, expires);
        for bundle in bundles {
            let listed = targets.list_image(&bundle.path, image_target(bundle)?);
            listed.map_err(Error::internal("listing a bundle"))?;
        }
        let file = sign(&targets, &[&self.image_keys.targets]).map_err(Error::internal("signing image targets"))?;
        changes.push(Change::AddImageFile(stored(Role::Targets, file.clone(), expires)));
        Ok(file)
    }

    fn image_snapshot(
        &self,
        version: NonZeroU64,
        targets: &SignedFile,
        changes: &mut Vec<Change>,
    ) -> Result<SignedFile, Error> {
        let failed = "signing the image snapshot";
        let expires = self.time_after(self.settings.lifetimes.image_snapshot_secs)?;
        let snapshot = Snapshot::new(version, expires, [("targets", targets)]).map_err(Error::internal(failed))?;
        let file = sign(&snapshot, &[&self.image_keys.snapshot]).map_err(Error::internal(failed))?;
        changes.push(Change::AddImageFile(stored(Role::Snapshot, file.clone(), expires)));
        Ok(file)
    }

    fn image_timestamp(
        &self,
        version: NonZeroU64,
        snapshot: &SignedFile,
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        let failed = "signing the image timestamp";
        let expires = self.time_after(self.settings.lifetimes.image_timestamp_secs)?;
        let timestamp = Timestamp::new(version, expires, snapshot).map_err(Error::internal(failed))?;
        let file = sign(&timestamp, &[&self.image_keys.timestamp]).map_err(Error::internal(failed))?;
        changes.push(Change::AddImageFile(stored(Role::Timestamp, file, expires)));
        Ok(())
    }
}

fn signed(file: MetaFile) -> SignedFile {
    SignedFile { version: file.version, bytes: file.bytes }
}
