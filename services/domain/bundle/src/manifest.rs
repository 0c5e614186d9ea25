//! `manifest.raucm`: the signed text of a bundle, and `[meta.pitstop]` in it.

use std::collections::BTreeMap;

use pitstop_types::{Digest, HardwareId, ReleaseCounter, SoftwareVersion};
use serde::{Deserialize, Serialize};

use crate::keyfile::{self, KeyFileError};
use crate::verity::{VerityError, VerityParams};

/// `compatible` of our bundles is this followed by the hardware id.
pub const COMPATIBLE_PREFIX: &str = "pitstop-";

/// A manifest's groups, as RAUC defines them. Unknown groups and keys are refused, as RAUC does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub update: Update,
    #[serde(default)]
    pub bundle: Bundle,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<BTreeMap<String, String>>,
    /// By slot class, with the variant behind a dot where there is one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image: BTreeMap<String, Image>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, BTreeMap<String, String>>,
}

/// `[update]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Update {
    pub compatible: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_rauc_version: Option<String>,
}

/// `[bundle]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bundle {
    #[serde(default)]
    pub format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_hash: Option<Digest>,
    /// 32 bytes in hexadecimal; a digest in form, though not in meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_salt: Option<Digest>,
    /// Bytes of the hash tree.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number")]
    pub verity_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crypt_key: Option<Digest>,
}

/// Bundle formats of RAUC. Only `verity` is installed here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Plain,
    Verity,
    Crypt,
}

/// `[image.CLASS]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number")]
    pub size: Option<u64>,
    /// Lists keep RAUC's form, elements ended by `;`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// Who a bundle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An ECU flashed by UDS: a payload and its description.
    Ecu,
    /// The TCU: images for slots.
    Tcu,
}

/// `[meta.pitstop]`: what RAUC does not know and we need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PitstopMeta {
    /// Number of this format; 1.
    #[serde(with = "needed_number")]
    pub format: u64,
    pub kind: Kind,
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    #[serde(with = "counter")]
    pub release_counter: ReleaseCounter,
    /// Name of the payload file, for an ECU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Name of the description file, for an ECU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest does not read as a key file")]
    KeyFile(#[from] KeyFileError),
    #[error("the manifest's content is wrong: {0}")]
    Content(String),
    #[error("bundle format {0:?} is refused, only verity is taken")]
    Format(Format),
    #[error("the manifest lacks {0}")]
    Missing(&'static str),
    #[error("the manifest has {0}, which this reader does not serve")]
    Unsupported(&'static str),
    #[error("the manifest's hash tree is wrong")]
    Verity(#[from] VerityError),
    #[error("{0:?} is not a file name in the bundle")]
    FileName(String),
    #[error("[meta.pitstop] has format {0}, this reader knows 1")]
    MetaFormat(u64),
    #[error("the manifest says {compatible:?}, [meta.pitstop] is for hardware {hardware}")]
    Compatible { compatible: String, hardware: HardwareId },
}

impl Manifest {
    /// Reads a manifest text. The sense is checked by [`Manifest::check_signed`] and [`Manifest::pitstop`].
    pub fn read(text: &[u8]) -> Result<Self, ManifestError> {
        let mut groups = keyfile::read(text)?;
        // RAUC drops this group too; it holds plans of a tool, not facts about the content.
        groups.remove("rollout");
        let this: Self =
            groups.try_into().map_err(|e: toml::de::Error| ManifestError::Content(e.message().to_owned()))?;
        for name in this.image.values().filter_map(|i| i.filename.as_ref()) {
            check_file_name(name)?;
        }
        Ok(this)
    }

    /// The manifest's text, groups and keys in alphabetical order, so that the same manifest gives the same bytes.
    pub fn write(&self) -> Result<String, ManifestError> {
        let groups = toml::Table::try_from(self).map_err(|e| ManifestError::Content(e.to_string()))?;
        Ok(keyfile::write(&groups)?)
    }

    /// What must hold for a manifest taken out of a signature: format verity with a tree, nothing we would have to run.
    pub fn check_signed(&self) -> Result<VerityParams, ManifestError> {
        if self.bundle.format != Format::Verity {
            return Err(ManifestError::Format(self.bundle.format));
        }
        if self.hooks.is_some() || self.image.values().any(|i| i.hooks.is_some()) {
            return Err(ManifestError::Unsupported("hooks"));
        }
        if self.handler.is_some() {
            return Err(ManifestError::Unsupported("a handler"));
        }
        if self.image.values().any(|i| i.convert.is_some() || i.converted.is_some()) {
            return Err(ManifestError::Unsupported("converted images"));
        }
        if self.bundle.crypt_key.is_some() {
            return Err(ManifestError::Unsupported("a crypt key in a verity bundle"));
        }
        Ok(VerityParams {
            root: self.bundle.verity_hash.ok_or(ManifestError::Missing("verity-hash"))?,
            salt: *self.bundle.verity_salt.ok_or(ManifestError::Missing("verity-salt"))?.as_bytes(),
            tree_size: self.bundle.verity_size.ok_or(ManifestError::Missing("verity-size"))?,
        })
    }

    /// `[meta.pitstop]`, checked; `None` when the bundle has none (one made by RAUC before 1.9).
    pub fn pitstop(&self) -> Result<Option<PitstopMeta>, ManifestError> {
        let Some(group) = self.meta.get("pitstop") else { return Ok(None) };
        let table = toml::Table::try_from(group).map_err(|e| ManifestError::Content(e.to_string()))?;
        let meta: PitstopMeta = table
            .try_into()
            .map_err(|e: toml::de::Error| ManifestError::Content(format!("[meta.pitstop] {}", e.message())))?;
        meta.check()?;
        if self.update.compatible != format!("{COMPATIBLE_PREFIX}{}", meta.hardware) {
            return Err(ManifestError::Compatible {
                compatible: self.update.compatible.clone(),
                hardware: meta.hardware,
            });
        }
        if meta.kind == Kind::Tcu && !self.image.contains_key("rootfs") {
            return Err(ManifestError::Missing("[image.rootfs]"));
        }
        Ok(Some(meta))
    }

    /// Puts `meta` into the manifest, with `compatible` and `version` that agree with it.
    pub fn set_pitstop(&mut self, meta: &PitstopMeta) -> Result<(), ManifestError> {
        meta.check()?;
        let table = toml::Table::try_from(meta).map_err(|e| ManifestError::Content(e.to_string()))?;
        let group = table.into_iter().filter_map(|(k, v)| v.as_str().map(|v| (k, v.to_owned()))).collect();
        self.meta.insert("pitstop".into(), group);
        self.update.compatible = format!("{COMPATIBLE_PREFIX}{}", meta.hardware);
        self.update.version = Some(meta.version.to_string());
        Ok(())
    }
}

impl PitstopMeta {
    fn check(&self) -> Result<(), ManifestError> {
        if self.format != 1 {
            return Err(ManifestError::MetaFormat(self.format));
        }
        match self.kind {
            Kind::Tcu if self.payload.is_some() || self.description.is_some() => {
                Err(ManifestError::Unsupported("an ECU payload in a TCU bundle"))
            }
            Kind::Tcu => Ok(()),
            Kind::Ecu => {
                check_file_name(self.payload.as_deref().ok_or(ManifestError::Missing("payload"))?)?;
                check_file_name(self.description.as_deref().ok_or(ManifestError::Missing("description"))?)
            }
        }
    }
}

/// A name in the bundle's root folder: no separator, nothing hidden, at most 255 bytes.
pub fn check_file_name(name: &str) -> Result<(), ManifestError> {
    let legal = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '~'));
    if legal { Ok(()) } else { Err(ManifestError::FileName(name.chars().take(64).collect())) }
}

/// Key files know only text; a number is its decimal digits, without sign, space or leading zeros.
fn digits(text: &str) -> Result<u64, String> {
    let canonical = text == "0" || !text.starts_with('0');
    if !canonical || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a plain decimal number"));
    }
    text.parse().map_err(|_| format!("{text:?} is not a 64-bit number"))
}

mod number {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(n) => s.serialize_str(&n.to_string()),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        super::digits(&String::deserialize(d)?).map(Some).map_err(D::Error::custom)
    }
}

mod needed_number {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        super::digits(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

mod counter {
    use pitstop_types::ReleaseCounter;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &ReleaseCounter, s: S) -> Result<S::Ok, S::Error> {
        super::needed_number::serialize(&value.0, s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ReleaseCounter, D::Error> {
        super::needed_number::deserialize(d).map(ReleaseCounter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn signed() -> String {
        format!(
            "[update]\ncompatible=pitstop-bcm-a1\nversion=2.0.0\n\n[bundle]\nformat=verity\nverity-hash={HASH}\nverity-salt={HASH}\nverity-size=4096\n\n\
             [meta.pitstop]\nformat=1\nkind=ecu\nhardware=bcm-a1\nversion=2.0.0\nrelease-counter=7\npayload=payload.bin\ndescription=description.toml\n"
        )
    }

    #[test]
    fn an_ecu_manifest_is_read() {
        let manifest = Manifest::read(signed().as_bytes()).unwrap();
        let verity = manifest.check_signed().unwrap();
        assert_eq!((verity.root.to_string().as_str(), verity.tree_size), (HASH, 4096));
        let meta = manifest.pitstop().unwrap().unwrap();
        assert_eq!((meta.kind, meta.release_counter.0, meta.payload.as_deref()), (Kind::Ecu, 7, Some("payload.bin")));
    }

    #[test]
    fn a_manifest_as_rauc_writes_it_is_read() {
        let text = format!(
            "[update]\ncompatible=pitstop-tcu-a1\nversion=1\n\n[bundle]\nformat=verity\nverity-hash={HASH}\nverity-salt={HASH}\nverity-size=4096\n\n\
             [image.rootfs]\nsha256={HASH}\nsize=1048576\nfilename=rootfs.ext4\n"
        );
        let manifest = Manifest::read(text.as_bytes()).unwrap();
        assert_eq!(manifest.image["rootfs"].size, Some(1_048_576));
        assert_eq!(manifest.pitstop(), Ok(None));
    }

    #[test]
    fn plain_crypt_and_what_would_run_code_are_refused() {
        let plain = signed().replace("format=verity", "format=plain");
        assert_eq!(
            Manifest::read(plain.as_bytes()).unwrap().check_signed().err(),
            Some(ManifestError::Format(Format::Plain))
        );
        let unsaid = signed().replace("format=verity\n", "");
        assert_eq!(
            Manifest::read(unsaid.as_bytes()).unwrap().check_signed().err(),
            Some(ManifestError::Format(Format::Plain))
        );
        let hooks = signed() + "[hooks]\nfilename=run.sh\nhooks=install-check;\n";
        assert_eq!(
            Manifest::read(hooks.as_bytes()).unwrap().check_signed().err(),
            Some(ManifestError::Unsupported("hooks"))
        );
        let handler = signed() + "[handler]\nfilename=run.sh\n";
        assert_eq!(
            Manifest::read(handler.as_bytes()).unwrap().check_signed().err(),
            Some(ManifestError::Unsupported("a handler"))
        );
        let no_tree = signed().replace("verity-size=4096\n", "");
        assert_eq!(
            Manifest::read(no_tree.as_bytes()).unwrap().check_signed().err(),
            Some(ManifestError::Missing("verity-size"))
        );
    }

    #[test]
    fn unknown_groups_and_keys_are_refused_except_rollout() {
        assert!(matches!(Manifest::read((signed() + "[other]\na=b\n").as_bytes()), Err(ManifestError::Content(_))));
        assert!(matches!(
            Manifest::read(signed().replace("version=2.0.0\n\n", "surprise=1\n\n").as_bytes()),
            Err(ManifestError::Content(_))
        ));
        assert!(Manifest::read((signed() + "[rollout]\na=b\n").as_bytes()).is_ok());
        let unknown_meta = signed().replace("release-counter=7", "release-counter=7\nfoo=bar");
        assert!(matches!(Manifest::read(unknown_meta.as_bytes()).unwrap().pitstop(), Err(ManifestError::Content(_))));
    }

    #[test]
    fn numbers_have_one_spelling() {
        for bad in ["+1", "01", "1 ", "0x1", "-1", "18446744073709551616"] {
            let text = signed().replace("verity-size=4096", &format!("verity-size={bad}"));
            assert!(matches!(Manifest::read(text.as_bytes()), Err(ManifestError::Content(_))), "{bad:?}");
        }
    }

    #[test]
    fn compatible_and_hardware_agree_and_names_stay_in_the_bundle() {
        let other = signed().replace("compatible=pitstop-bcm-a1", "compatible=pitstop-adas-a1");
        assert!(matches!(Manifest::read(other.as_bytes()).unwrap().pitstop(), Err(ManifestError::Compatible { .. })));
        for bad in ["../x", "a/b", ".hidden"] {
            let text = signed().replace("payload=payload.bin", &format!("payload={bad}"));
            assert!(
                matches!(Manifest::read(text.as_bytes()).unwrap().pitstop(), Err(ManifestError::FileName(_))),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(version in "[!-~]{1,32}", counter in any::<u64>(), tcu in any::<bool>(), size in any::<u64>()) {
            let mut manifest = Manifest::read(signed().as_bytes()).unwrap();
            let meta = PitstopMeta {
                format: 1, kind: if tcu { Kind::Tcu } else { Kind::Ecu }, hardware: HardwareId::new("x-1").unwrap(),
                version: SoftwareVersion::new(version).unwrap(), release_counter: ReleaseCounter(counter),
                payload: (!tcu).then(|| "p".into()), description: (!tcu).then(|| "d".into()),
            };
            manifest.image.insert("rootfs".into(), Image { filename: Some("r.ext4".into()), size: Some(size), ..Image::default() });
            manifest.set_pitstop(&meta).unwrap();
            let read = Manifest::read(manifest.write().unwrap().as_bytes()).unwrap();
            prop_assert_eq!(read.pitstop(), Ok(Some(meta)));
            prop_assert_eq!(read, manifest);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::read(&bytes).map(|m| (m.check_signed(), m.pitstop()));
        }
    }
}
