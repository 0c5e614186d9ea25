//! Making bundles: squashfs, hash tree, signed manifest, written beside the target and renamed when complete.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader, compression::Compressor};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use pitstop_bundle::description::{After, Expected};
use pitstop_bundle::layout::TAIL_LEN;
use pitstop_bundle::manifest::{Bundle, Format, Image, Update};
use pitstop_bundle::{BLOCK, Description, IdentityBlock, Kind, Layout, Manifest, PitstopMeta, Segment, TreeBuilder};
use pitstop_types::{Digest, HardwareId, ReleaseCounter, Sha256Writer, SoftwareVersion};

use crate::cms;
use crate::error::BundleError;
use crate::keyring::SignatureError;

/// `rauc bundle` refuses a squashfs of one block, so ours has at least two.
const MIN_SQUASHFS: u64 = 2 * BLOCK as u64;
const PAYLOAD: &str = "payload.bin";
const DESCRIPTION: &str = "description.toml";
const ROOTFS: &str = "rootfs.ext4";

/// Whose signature a bundle gets.
pub struct Signer {
    pub certificate: X509,
    pub key: PKey<Private>,
    /// Certificates between the signer's and the keyring's.
    pub intermediates: Vec<X509>,
}

impl Signer {
    /// Reads certificate (the first of the PEM file; those behind it are intermediates) and key.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, SignatureError> {
        let mut chain = X509::stack_from_pem(certificate)?.into_iter();
        let certificate = chain.next().ok_or(SignatureError::EmptyKeyring)?;
        Ok(Self { certificate, key: PKey::private_key_from_pem(key)?, intermediates: chain.collect() })
    }
}

/// An ECU's software, as its maker describes it.
#[derive(Debug, Clone)]
pub struct EcuSoftware {
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    pub counter: ReleaseCounter,
    /// DID F188.
    pub software_number: String,
    /// Software numbers this may replace; empty: any.
    pub replaces: Vec<String>,
    /// Where the identity block goes in the ECU's memory.
    pub identity_address: u32,
    /// Address and bytes of each piece of firmware.
    pub firmware: Vec<(u32, Vec<u8>)>,
}

/// The TCU's software.
#[derive(Debug, Clone)]
pub struct TcuSoftware {
    pub hardware: HardwareId,
    pub version: SoftwareVersion,
    pub counter: ReleaseCounter,
    /// The root file system's image.
    pub rootfs: PathBuf,
}

/// A bundle that was made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BuiltBundle {
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    pub sha256: Digest,
    pub manifest_hash: Digest,
}

/// Collects what goes into a bundle.
pub struct Builder {
    manifest: Manifest,
    files: Vec<(String, Content)>,
    salt: Option<[u8; 32]>,
}

enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Builder {
    /// A bundle for an ECU: the firmware segments and the identity block behind them.
    pub fn ecu(software: &EcuSoftware) -> Result<Self, BundleError> {
        let identity = IdentityBlock {
            software_number: software.software_number.clone(),
            version: software.version.clone(),
            counter: software.counter,
        };
        let identity = identity.write().map_err(|e| BundleError::Squashfs(e.to_string()))?;
        let mut payload = Vec::new();
        let mut segments = Vec::new();
        let pieces = software.firmware.iter().map(|(address, bytes)| (*address, bytes.as_slice()));
        for (address, bytes) in pieces.chain([(software.identity_address, identity.as_slice())]) {
            segments.push(Segment::of(address, payload.len() as u64, bytes)?);
            payload.extend_from_slice(bytes);
        }
        segments.sort_by_key(|s| s.address);
        let description = Description {
            format: 1,
            segments,
            expect: Expected { software_numbers: software.replaces.clone() },
            after: After { software_number: software.software_number.clone(), version: software.version.clone() },
        };
        description.check(payload.len() as u64)?;
        let meta = PitstopMeta {
            format: 1,
            kind: Kind::Ecu,
            hardware: software.hardware.clone(),
            version: software.version.clone(),
            release_counter: software.counter,
            payload: Some(PAYLOAD.into()),
            description: Some(DESCRIPTION.into()),
        };
        let files = vec![
            (PAYLOAD.to_owned(), Content::Bytes(payload)),
            (DESCRIPTION.to_owned(), Content::Bytes(description.write()?.into_bytes())),
        ];
        Ok(Self { manifest: manifest(&meta)?, files, salt: None })
    }

    /// A bundle for the TCU: its root file system as `[image.rootfs]`, so that `rauc install` takes it too.
    pub fn tcu(software: &TcuSoftware) -> Result<Self, BundleError> {
        let meta = PitstopMeta {
            format: 1,
            kind: Kind::Tcu,
            hardware: software.hardware.clone(),
            version: software.version.clone(),
            release_counter: software.counter,
            payload: None,
            description: None,
        };
        let mut hash = Sha256Writer::new();
        let mut file = File::open(&software.rootfs).map_err(BundleError::Io)?;
        hash_into(&mut file, &mut hash)?;
        let mut manifest = Manifest { image: [("rootfs".to_owned(), Image::default())].into(), ..manifest(&meta)? };
        manifest.image.insert(
            "rootfs".into(),
            Image {
                filename: Some(ROOTFS.into()),
                size: Some(hash.length()),
                sha256: Some(hash.finish()),
                ..Image::default()
            },
        );
        Ok(Self { manifest, files: vec![(ROOTFS.to_owned(), Content::File(software.rootfs.clone()))], salt: None })
    }

    /// A fixed salt in place of a random one, for bundles that must come out the same twice.
    pub fn salt(mut self, salt: [u8; 32]) -> Self {
        self.salt = Some(salt);
        self
    }

    /// Writes the bundle to `path`, signed by `signer`. An existing file is replaced once the new one is complete and on disk.
    pub fn write(self, path: &Path, signer: &Signer) -> Result<BuiltBundle, BundleError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut out = tempfile::Builder::new().prefix(".bundle-").tempfile_in(folder).map_err(BundleError::Io)?;
        let manifest_hash = self.write_into(out.as_file_mut(), signer)?;
        out.as_file().sync_all().map_err(BundleError::Io)?;
        let mut hash = Sha256Writer::new();
        out.as_file().seek(SeekFrom::Start(0)).map_err(BundleError::Io)?;
        hash_into(out.as_file_mut(), &mut hash)?;
        use std::os::unix::fs::PermissionsExt as _;
        out.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(BundleError::Io)?;
        out.persist(path).map_err(|e| BundleError::Io(e.error))?;
        Ok(BuiltBundle { path: path.to_owned(), length: hash.length(), sha256: hash.finish(), manifest_hash })
    }

    fn write_into(mut self, out: &mut File, signer: &Signer) -> Result<Digest, BundleError> {
        write_squashfs(out, &self.manifest.write()?, &self.files)?;
        let salt = match self.salt {
            Some(salt) => salt,
            None => random_salt()?,
        };
        let tree = append_tree(out, salt)?;
        self.manifest.bundle.verity_hash = Some(tree.root);
        self.manifest.bundle.verity_salt = Some(Digest::from_bytes(tree.salt));
        self.manifest.bundle.verity_size = Some(tree.tree_size);
        let text = self.manifest.write()?;
        let der = cms::sign(text.as_bytes(), &signer.certificate, &signer.key, &signer.intermediates)?;
        let end = out.seek(SeekFrom::End(0)).map_err(BundleError::Io)?;
        let layout = Layout::read(end + der.len() as u64 + TAIL_LEN, (der.len() as u64).to_be_bytes(), u64::MAX)?;
        out.write_all(&der).and_then(|()| out.write_all(&layout.tail())).map_err(BundleError::Io)?;
        Ok(Digest::of(text.as_bytes()))
    }
}

fn manifest(meta: &PitstopMeta) -> Result<Manifest, BundleError> {
    let mut manifest = Manifest {
        update: Update::default(),
        bundle: Bundle { format: Format::Verity, ..Bundle::default() },
        hooks: None,
        handler: None,
        image: Default::default(),
        meta: Default::default(),
    };
    manifest.set_pitstop(meta)?;
    Ok(manifest)
}

fn write_squashfs(out: &mut File, manifest: &str, files: &[(String, Content)]) -> Result<(), BundleError> {
    let mut writer = FilesystemWriter::default();
    let header = NodeHeader::new(0o644, 0, 0, 0);
    let compressor = FilesystemCompressor::new(Compressor::Gzip, None).map_err(BundleError::from_squashfs)?;
    writer.set_compressor(compressor);
    writer.set_time(0);
    writer.set_root_mode(0o755);
    writer.set_only_root_id();
    writer.set_no_padding();
    writer.push_file(manifest.as_bytes(), "manifest.raucm", header).map_err(BundleError::from_squashfs)?;
    for (name, content) in files {
        match content {
            Content::Bytes(bytes) => writer.push_file(bytes.as_slice(), name, header),
            Content::File(path) => writer.push_file_from_path(path, name, header),
        }
        .map_err(BundleError::from_squashfs)?;
    }
    let (_, length) = writer.write(&mut *out).map_err(BundleError::from_squashfs)?;
    out.set_len(length.next_multiple_of(BLOCK as u64).max(MIN_SQUASHFS)).map_err(BundleError::Io)
}

fn append_tree(out: &mut File, salt: [u8; 32]) -> Result<pitstop_bundle::VerityParams, BundleError> {
    let length = out.seek(SeekFrom::End(0)).map_err(BundleError::Io)?;
    let mut builder = TreeBuilder::new(salt);
    let mut block = [0; BLOCK];
    for offset in (0..length).step_by(BLOCK) {
        out.read_exact_at(&mut block, offset).map_err(BundleError::Io)?;
        builder.push(&block);
    }
    let (tree, params) = builder.finish()?;
    out.write_all(&tree).map_err(BundleError::Io)?;
    Ok(params)
}

fn random_salt() -> Result<[u8; 32], SignatureError> {
    let mut salt = [0; 32];
    openssl::rand::rand_bytes(&mut salt)?;
    Ok(salt)
}

fn hash_into(file: &mut File, hash: &mut Sha256Writer) -> Result<(), BundleError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(BundleError::Io(e)),
        }
    }
}
