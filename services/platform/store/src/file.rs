use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{MAX_DOCUMENT_BYTES, Storage, StoreError, check_length, check_name};

/// Files below one folder.
///
/// A replace writes a new file beside the old one, flushes it, renames it over the old one and flushes the folder: the order
/// without which ext4 may show an empty file after a cut.
#[derive(Debug, Clone)]
pub struct FileStorage {
    root: PathBuf,
}

/// Ends the name of a file that is not whole yet. Left-overs of a cut are removed when the storage is opened.
const UNFINISHED: &str = ".new";

impl FileStorage {
    /// Opens the folder, making it if need be (mode 0700), and removes what a cut left half-written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let storage = Self { root };
        fs::create_dir_all(&storage.root).map_err(io_error("making the folder", &storage.root))?;
        storage.walk(&storage.root, &mut |path| {
            if path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                // Nobody was told of it, so nobody misses it.
                let _ = fs::remove_file(path);
            }
        })?;
        Ok(storage)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// Makes the folder of `path`, flushing each new one's parent, so that it is there after a cut.
    fn prepare(&self, path: &Path) -> Result<(), StoreError> {
        let Some(folder) = path.parent() else { return Ok(()) };
        if !folder.exists() {
            self.prepare(folder)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("making the folder", folder)(error));
                }
                _ => {}
            }
            flush_folder(folder.parent().unwrap_or(&self.root))?;
        }
        Ok(())
    }

    fn walk(&self, folder: &Path, visit: &mut dyn FnMut(&Path)) -> Result<(), StoreError> {
        let entries = fs::read_dir(folder).map_err(io_error("listing", folder))?;
        for entry in entries {
            let entry = entry.map_err(io_error("listing", folder))?;
            let kind = entry.file_type().map_err(io_error("listing", folder))?;
            if kind.is_dir() {
                self.walk(&entry.path(), visit)?;
            } else if kind.is_file() {
                visit(&entry.path());
            }
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name)?;
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_error("opening", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(io_error("reading", &path))?;
        check_length(name, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name)?;
        check_length(name, bytes.len() as u64)?;
        self.prepare(&path)?;
        let unfinished = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io_error("making", &unfinished))?;
        file.write_all(bytes).map_err(io_error("writing", &unfinished))?;
        file.sync_all().map_err(io_error("flushing", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(io_error("renaming", &path))?;
        flush_folder(path.parent().unwrap_or(&self.root))
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let before = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(io_error("measuring", &path))?.len()),
        };
        check_length(name, before.unwrap_or(0).saturating_add(bytes.len() as u64))?;
        self.prepare(&path)?;
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io_error("opening", &path))?;
        file.write_all(bytes).map_err(io_error("writing", &path))?;
        file.sync_data().map_err(io_error("flushing", &path))?;
        if before.is_none() { flush_folder(path.parent().unwrap_or(&self.root)) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("removing", &path)(error)),
            Ok(()) => flush_folder(path.parent().unwrap_or(&self.root)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        self.walk(&self.root, &mut |path| {
            if let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str)
                && name.starts_with(prefix)
                && !name.ends_with(UNFINISHED)
            {
                names.push(name.to_owned());
            }
        })?;
        names.sort();
        Ok(names)
    }
}

fn flush_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("flushing the folder", folder))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let name = path.display().to_string();
    move |source| StoreError::Io { action, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_read_back_and_left_overs_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStorage::open(folder.path()).unwrap();
        store.replace("a/record", b"one").unwrap();
        store.replace("a/record", b"two").unwrap();
        store.append("log", b"x").unwrap();
        store.append("log", b"y").unwrap();
        fs::write(folder.path().join("a/record.new"), b"half").unwrap();
        let again = FileStorage::open(folder.path()).unwrap();
        assert_eq!(again.read("a/record").unwrap().unwrap(), b"two");
        assert_eq!(again.read("log").unwrap().unwrap(), b"xy");
        assert_eq!(again.list("").unwrap(), ["a/record", "log"]);
        assert!(!folder.path().join("a/record.new").exists());
        again.remove("log").unwrap();
        again.remove("log").unwrap();
        assert_eq!(again.read("log").unwrap(), None);
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written_and_the_old_content_stays() {
        let folder = tempfile::tempdir().unwrap();
        for store in [&FileStorage::open(folder.path()).unwrap() as &dyn Storage, &crate::cut::Disk::new().storage()] {
            let mut bytes = vec![b'x'; usize::try_from(MAX_DOCUMENT_BYTES).unwrap()];
            store.replace("full", &bytes).unwrap();
            assert!(matches!(store.append("full", b"y"), Err(StoreError::TooLarge { .. })));
            assert_eq!(store.read("full").unwrap().unwrap().len() as u64, MAX_DOCUMENT_BYTES);
            bytes.push(b'x');
            store.replace("small", b"old").unwrap();
            assert!(matches!(store.replace("small", &bytes), Err(StoreError::TooLarge { .. })));
            assert!(matches!(store.append("small", &bytes), Err(StoreError::TooLarge { .. })));
            assert!(matches!(store.append("new", &bytes), Err(StoreError::TooLarge { .. })));
            assert_eq!(store.read("small").unwrap().unwrap(), b"old");
            assert_eq!(store.list("").unwrap(), ["full", "small"]);
        }
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStorage::open(folder.path()).unwrap();
        for bad in ["../x", "/etc/passwd", "a//b", "", ".hidden", "A", "a/.."] {
            assert!(matches!(store.read(bad), Err(StoreError::Name(_))), "{bad:?}");
            assert!(matches!(store.replace(bad, b""), Err(StoreError::Name(_))), "{bad:?}");
        }
    }
}
