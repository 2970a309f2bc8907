//! What the parser needs from outside and must not fetch itself. The parent implements both with real files and
//! accounts, tests with tables.

use std::io;
use std::path::{Path, PathBuf};

/// Files that a configuration names.
pub trait Sources {
    /// The bytes of a file named by `include`.
    fn include(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The absolute path, free of symbolic links, of a file that must exist: a disk, kernel or initrd.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;

    /// The absolute path of one that is not there yet.
    fn absolute(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// Accounts and interface groups that a configuration names. `Ok(None)` is one that does not exist; an error is a lookup
/// that could not be done.
pub trait Users {
    /// The uid of a user.
    fn uid(&self, user: &str) -> io::Result<Option<u32>>;

    /// The gid of a group.
    fn gid(&self, group: &str) -> io::Result<Option<u32>>;

    /// The number of a group of interfaces.
    fn interface_group(&self, group: &str) -> io::Result<Option<u32>>;
}
