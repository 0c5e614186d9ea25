use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use backhand::{FilesystemReader, InnerNode, SquashfsFileReader};
use pitstop_bundle::description::{MAX_DESCRIPTION_LEN, SegmentSums};
use pitstop_bundle::layout::TAIL_LEN;
use pitstop_bundle::{Description, Kind, Layout, Manifest, PitstopMeta, Verity};
use pitstop_types::{Digest, Sha256Writer, UnixSeconds};

use crate::cms;
use crate::error::BundleError;
use crate::keyring::{Keyring, SignerInfo};
use crate::superblock::{self, SUPERBLOCK_LEN};
use crate::window::Window;

/// How much a bundle may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest bundle file, bytes.
    pub file_len: u64,
    /// Most files in the bundle.
    pub files: u64,
    /// Most bytes all files have together when unpacked.
    pub unpacked: u64,
    /// Unpacked bytes per byte of data; images are mostly zeros, so this is generous.
    pub ratio: u64,
    /// Unpacked length from which the ratio counts, bytes: below it a high ratio harms nobody.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_len: 8 << 30, files: 64, unpacked: 16 << 30, ratio: 512, ratio_from: 1 << 30 }
    }
}

/// What a bundle says of itself, once its signature is believed.
#[derive(Debug, Clone)]
pub struct BundleInfo {
    pub manifest: Manifest,
    /// SHA-256 over the manifest's text as it was signed (`require-manifest-hash` in RAUC's words).
    pub manifest_hash: Digest,
    /// `None` for a bundle that RAUC before 1.9 made.
    pub meta: Option<PitstopMeta>,
    pub signer: SignerInfo,
    pub layout: Layout,
    pub verity: Verity,
    /// Names and lengths of the files in the root folder.
    pub files: Vec<(String, u64)>,
}

/// An opened bundle. Everything it hands out has passed the signature or the hash tree.
pub struct BundleReader {
    file: Arc<File>,
    info: BundleInfo,
    squashfs: FilesystemReader<'static>,
}

impl BundleReader {
    /// Opens `file` as a bundle signed by `keyring` as of `now`, within the default limits.
    pub fn open(file: File, keyring: &Keyring, now: UnixSeconds) -> Result<Self, BundleError> {
        Self::open_with(file, keyring, now, &Limits::default())
    }

    /// The same within other limits.
    pub fn open_with(file: File, keyring: &Keyring, now: UnixSeconds, limits: &Limits) -> Result<Self, BundleError> {
        let layout = layout(&file, limits)?;
        let mut der = vec![0; layout.cms_len as usize];
        file.read_exact_at(&mut der, layout.payload_len).map_err(BundleError::Io)?;
        let signed = cms::verify(&der, keyring, now)?;
        let manifest = Manifest::read(&signed.content)?;
        let verity = Verity::new(manifest.check_signed()?, layout.payload_len)?;
        let meta = manifest.pitstop()?;
        let file = Arc::new(file);
        let squashfs = open_squashfs(&file, &verity, limits)?;
        let files = list(&squashfs, verity.data_len(), limits)?;
        let manifest_hash = Digest::of(&signed.content);
        let info = BundleInfo { manifest, manifest_hash, meta, signer: signed.signer, layout, verity, files };
        Ok(Self { file, info, squashfs })
    }

    /// What the bundle says.
    pub fn info(&self) -> &BundleInfo {
        &self.info
    }

    /// Length of file `name`, if the bundle has it.
    pub fn file_len(&self, name: &str) -> Option<u64> {
        self.info.files.iter().find(|(n, _)| n == name).map(|(_, len)| *len)
    }

    /// File `name`, read block-checked.
    pub fn read_file(&self, name: &str) -> Result<FileReader<'_>, BundleError> {
        let node = self.squashfs.files().find(|n| base_name(n) == Some(name));
        let Some(InnerNode::File(file)) = node.map(|n| &n.inner) else {
            return Err(BundleError::NoFile(name.to_owned()));
        };
        let inner = self.squashfs.file(file).reader_checked().map_err(BundleError::from_squashfs)?;
        Ok(FileReader { len: file.file_len() as u64, position: 0, inner: Box::new(inner) })
    }

    /// All of file `name`, if it has at most `limit` bytes.
    pub fn read_to_vec(&self, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
        let mut reader = self.read_file(name)?;
        if reader.len > limit {
            return Err(BundleError::Limit { what: "a file", found: reader.len, limit });
        }
        let mut bytes = Vec::with_capacity(reader.len as usize);
        reader.read_to_end(&mut bytes).map_err(BundleError::from_io)?;
        if bytes.len() as u64 != reader.len {
            return Err(BundleError::Squashfs(format!("{name} ends early")));
        }
        Ok(bytes)
    }

    /// [meta.pitstop], which every bundle that comes over the air has.
    pub fn meta(&self) -> Result<&PitstopMeta, BundleError> {
        self.info.meta.as_ref().ok_or(BundleError::NoMeta)
    }

    /// The ECU payload's description, checked against the payload's length.
    pub fn description(&self) -> Result<Description, BundleError> {
        let meta = self.meta()?;
        let (Some(payload), Some(description)) = (&meta.payload, &meta.description) else {
            return Err(BundleError::NoMeta);
        };
        let payload_len = self.file_len(payload).ok_or_else(|| BundleError::NoFile(payload.clone()))?;
        let text = self.read_to_vec(description, MAX_DESCRIPTION_LEN as u64)?;
        Ok(Description::read(&text, payload_len)?)
    }

    /// Reads every block of data against the tree; `progress` is told bytes done, now and then.
    pub fn check_blocks(&self, mut progress: impl FnMut(u64)) -> Result<(), BundleError> {
        let mut window = Window::new(Arc::clone(&self.file), self.info.verity.clone());
        for index in 0..self.info.verity.data_blocks() {
            window.load(index).map_err(|e| BundleError::from_io(io::Error::other(e)))?;
            if index % 256 == 0 {
                progress(index * pitstop_bundle::BLOCK as u64);
            }
        }
        progress(self.info.verity.data_len());
        Ok(())
    }

    /// Reads every file and compares it with what the manifest and the description say of it.
    pub fn check_files(&self) -> Result<(), BundleError> {
        for image in self.info.manifest.image.values() {
            let Some(name) = &image.filename else { continue };
            let mut reader = self.read_file(name)?;
            let mut hash = Sha256Writer::new();
            in_pieces(&mut reader, |piece| hash.update(piece))?;
            let same_size = image.size.is_none_or(|s| s == hash.length());
            if !same_size || image.sha256.is_none_or(|d| d != hash.finish()) {
                return Err(BundleError::Image(name.clone()));
            }
        }
        match &self.info.meta {
            Some(meta) if meta.kind == Kind::Ecu => self.check_segments(meta),
            _ => Ok(()),
        }
    }

    fn check_segments(&self, meta: &PitstopMeta) -> Result<(), BundleError> {
        let description = self.description()?;
        let mut payload = self.read_file(meta.payload.as_deref().unwrap_or_default())?;
        for segment in &description.segments {
            payload.seek(SeekFrom::Start(segment.offset)).map_err(BundleError::from_io)?;
            let mut left = (&mut payload).take(u64::from(segment.length));
            let mut sums = SegmentSums::default();
            in_pieces(&mut left, |piece| sums.update(piece))?;
            segment.check_sums(sums)?;
        }
        Ok(())
    }
}

/// Bytes read at once: neither a file nor a segment need fit into memory.
const PIECE: usize = 64 * 1024;

/// Reads to the end, piece by piece.
fn in_pieces(reader: &mut impl Read, mut take: impl FnMut(&[u8])) -> Result<(), BundleError> {
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer).map_err(BundleError::from_io)? {
            0 => return Ok(()),
            count => take(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// One file of a bundle.
pub struct FileReader<'a> {
    len: u64,
    position: u64,
    inner: Box<dyn ReadSeek + 'a>,
}

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl FileReader<'_> {
    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True for a file without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        let Some(into) = into.get_mut(..wanted).filter(|i| !i.is_empty()) else { return Ok(0) };
        let count = self.inner.read(into)?;
        if count == 0 {
            // The squashfs reader ends quietly where its blocks end; the inode promised more.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file ends early"));
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for FileReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let target = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.position = self.inner.seek(SeekFrom::Start(target.min(self.len)))?;
        Ok(self.position)
    }
}

fn layout(file: &File, limits: &Limits) -> Result<Layout, BundleError> {
    let metadata = file.metadata().map_err(BundleError::Io)?;
    if !metadata.is_file() {
        return Err(BundleError::NotAFile);
    }
    let mut tail = [0; TAIL_LEN as usize];
    if metadata.len() >= TAIL_LEN {
        file.read_exact_at(&mut tail, metadata.len() - TAIL_LEN).map_err(BundleError::Io)?;
    }
    Ok(Layout::read(metadata.len(), tail, limits.file_len)?)
}

fn open_squashfs(file: &Arc<File>, verity: &Verity, limits: &Limits) -> Result<FilesystemReader<'static>, BundleError> {
    let mut window = Window::new(Arc::clone(file), verity.clone());
    let mut head = [0; SUPERBLOCK_LEN];
    window.read_exact(&mut head).map_err(BundleError::from_io)?;
    superblock::check(&head, verity.data_len(), limits)?;
    window.seek(SeekFrom::Start(0)).map_err(BundleError::Io)?;
    FilesystemReader::from_reader(window).map_err(BundleError::from_squashfs)
}

fn list(
    squashfs: &FilesystemReader<'static>,
    data_len: u64,
    limits: &Limits,
) -> Result<Vec<(String, u64)>, BundleError> {
    let mut files = Vec::new();
    let mut unpacked = 0u64;
    for node in squashfs.files() {
        match &node.inner {
            InnerNode::File(file) => {
                let name = base_name(node).ok_or_else(|| refused("a name that is not plain text"))?;
                pitstop_bundle::manifest::check_file_name(name)?;
                unpacked = unpacked.saturating_add(file.file_len() as u64);
                files.push((name.to_owned(), file.file_len() as u64));
            }
            InnerNode::Dir(_) if node.fullpath.as_os_str() == "/" => {}
            _ => return Err(refused("something beside plain files in its root folder")),
        }
    }
    let ceiling = limits.unpacked.min(data_len.saturating_mul(limits.ratio).max(limits.ratio_from));
    if unpacked > ceiling {
        return Err(BundleError::Limit { what: "an unpacked length", found: unpacked, limit: ceiling });
    }
    Ok(files)
}

// The name of a node right below the root; `None` for the root itself and for anything deeper.
fn base_name(node: &backhand::Node<SquashfsFileReader>) -> Option<&str> {
    node.fullpath.to_str()?.strip_prefix('/').filter(|n| !n.is_empty() && !n.contains('/'))
}

fn refused(what: &str) -> BundleError {
    BundleError::Squashfs(format!("it has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_hashed_passes_through_memory_in_small_pieces() {
        let (mut pieces, mut whole) = (Vec::new(), Sha256Writer::new());
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        in_pieces(&mut bytes.as_slice(), |piece| {
            pieces.push(piece.len());
            whole.update(piece);
        })
        .unwrap();
        assert!(pieces.iter().all(|&length| length <= PIECE));
        assert_eq!(whole.finish(), Digest::of(&bytes));
    }
}
