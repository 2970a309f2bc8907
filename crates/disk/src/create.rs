//! New images. Called by vmctl, with the rights of the user who runs it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{SECTOR, plain};

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Something of that name is there already; it was not touched.
    #[error("the file exists; name another, or remove it first")]
    Exists,
    /// Not even a sector.
    #[error("a disk needs at least 512 bytes, not {0}")]
    Short(u64),
    /// No name at all.
    #[error("the name is empty; name the file to create")]
    NoName,
    /// The directory that it is to be in is not there.
    #[error("no such directory; create it first, or correct the path")]
    NoDirectory,
    /// The directory is there and takes no new file, as in /proc, or one that was removed.
    #[error("no files can be created in its directory; name another")]
    NoNewFiles,
    /// The file can't be made, or not as large; nothing is left.
    #[error("{}", plain(.0))]
    Io(io::Error),
}

/// A file that is being made: readable and writable by its owner alone, and removed unless it is kept.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl NewFile {
    /// Makes an empty one. Never follows a link or takes an existing file.
    pub fn make(path: &Path) -> Result<Self, CreateError> {
        if path.as_os_str().is_empty() {
            return Err(CreateError::NoName);
        }
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, kept: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(CreateError::Exists),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found(path)),
            Err(error) => Err(CreateError::Io(error)),
        }
    }

    /// It, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// It is whole: it stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // It is ours; where even this fails, the error that led here says more.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes a raw image of `bytes`, all zero and without blocks, as [`NewFile`] does.
pub fn create_raw(path: &Path, bytes: u64) -> Result<(), CreateError> {
    if bytes < SECTOR {
        return Err(CreateError::Short(bytes));
    }
    let new = NewFile::make(path)?;
    new.file().set_len(bytes).map_err(CreateError::Io)?;
    new.keep();
    Ok(())
}

/// Why a file that is to be made is "not found".
fn not_found(path: &Path) -> CreateError {
    let parent = path.parent().unwrap_or(path);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    if parent.is_dir() { CreateError::NoNewFiles } else { CreateError::NoDirectory }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_new_image_is_sparse_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        create_raw(&path, 1 << 40).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.mode() & 0o7777), (1 << 40, 0o600));
        assert!(made.blocks() < 64, "{} blocks", made.blocks());
    }

    #[test]
    fn what_exists_is_left_alone_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(create_raw(&path, 4096), Err(CreateError::Exists)));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let link = dir.path().join("link");
        symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(create_raw(&link, 4096), Err(CreateError::Exists)));
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn what_is_not_found_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(create_raw(Path::new(""), 4096), Err(CreateError::NoName)));
        assert!(matches!(create_raw(&dir.path().join("no/x"), 4096), Err(CreateError::NoDirectory)));
        assert!(matches!(create_raw(Path::new("no-such-directory/x"), 4096), Err(CreateError::NoDirectory)));
        assert!(matches!(create_raw(Path::new("/proc/x"), 4096), Err(CreateError::NoNewFiles)));
        assert!(matches!(not_found(Path::new("x")), CreateError::NoNewFiles), "the working directory is one");
    }

    #[test]
    fn an_image_that_can_not_be_so_large_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        assert!(matches!(create_raw(&path, u64::MAX), Err(CreateError::Io(_))));
        assert!(!path.exists());
        assert!(matches!(create_raw(&path, 511), Err(CreateError::Short(511))));
        assert!(!path.exists());
    }
}
