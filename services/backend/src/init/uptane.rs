//! The Uptane keys and both roots: four roles of each repository, and the Director's two for workshops (PURE-2).

use std::num::NonZeroU64;

use pitstop_uptane::{MemorySigner, Repository, Role, RootBuilder, Signer as _, Time, sign};
use rcgen::KeyPair;

use super::{InitError, write_public, write_secret};
use crate::clock::{Clock, later};
use crate::settings::DataDir;

/// Roots are signed offline once a year.
const ROOT_SECS: u64 = 365 * 86_400;

/// File name of a role's key: `director-targets.pem`.
pub fn key_name(repository: Repository, role: Role) -> String {
    format!("{repository}-{role}.pem")
}

pub(super) fn make(dir: &DataDir, clock: &Clock) -> Result<(), InitError> {
    let bad = |text: String| InitError::Metadata(text);
    let expires = Time::from_unix(later(clock.now(), ROOT_SECS)).map_err(|error| bad(error.to_string()))?;
    for repository in [Repository::Director, Repository::Image] {
        let mut builder = RootBuilder::new(repository, NonZeroU64::MIN, expires);
        let mut root_signer = None;
        let offline: &[Role] = if repository == Repository::Director { &Role::OFFLINE } else { &[] };
        for &role in Role::ALL.iter().chain(offline) {
            let key = KeyPair::generate()?;
            let signer = MemorySigner::from_pkcs8(key.serialized_der())?;
            let stays_offline = role == Role::Root || Role::OFFLINE.contains(&role);
            let folder = if stays_offline { dir.offline_keys() } else { dir.keys() };
            write_secret(&folder.join(key_name(repository, role)), key.serialize_pem().as_bytes())?;
            builder = builder.role(role, [signer.public()], 1);
            if role == Role::Root {
                root_signer = Some(signer);
            }
        }
        let signer = root_signer.ok_or_else(|| bad("no root key".to_owned()))?;
        let root = builder.build().map_err(|error| bad(error.to_string()))?;
        write_public(&dir.root_metadata(repository.as_str()), &sign(&root, &[&signer])?.bytes)?;
    }
    Ok(())
}
