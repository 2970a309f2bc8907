//! The process's own executable, opened once, so that a child is the same build even after the file was replaced.
//!
//! The parent opens it at start and hands it to vmm as a descriptor; `spawn` executes it with an empty path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// An executable held open with O_PATH: it can be executed and looked at, not read.
#[derive(Debug)]
pub struct Executable(OwnedFd);

impl Executable {
    /// Opens the running program itself. Needs /proc, so before the root is emptied.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// Opens another program; the daemon never does, tests do.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The executable a starter passed; `fd` is not checked before it is executed.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Exit;
    use crate::spawn::Spawn;

    #[test]
    fn own_executable_is_the_running_file() {
        let exe = Executable::own().expect("open own executable");
        let held = rustix::fs::fstat(&exe).expect("stat the descriptor");
        let path = rustix::fs::stat(std::env::current_exe().expect("own path")).expect("stat the path");
        assert_eq!((held.st_dev, held.st_ino), (path.st_dev, path.st_ino));
    }

    #[test]
    fn executable_runs_after_its_file_was_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("program");
        std::fs::copy("/bin/sh", &path).expect("copy a program");
        let exe = Executable::open(&path).expect("open it");
        let other = dir.path().join("other");
        std::fs::write(&other, "not a program").expect("write the replacement");
        std::fs::rename(&other, &path).expect("replace the file");
        std::fs::remove_file(&path).expect("remove the replacement");
        let mut child = Spawn::new(&exe, &["sh", "-c", "exit 7"]).spawn().expect("spawn");
        assert_eq!(child.wait().expect("wait"), Exit::Code(7));
    }
}
