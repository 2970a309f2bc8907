//! The locked pid file in /run. It goes when the daemon ends, also when it fails before it serves; a second daemon does not
//! touch it (`sole.rs`).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::parent::Fatal;

/// Held, locked, by the daemon that runs.
const PATH: &str = "/run/vmd.pid";

/// Who runs, for those who ask by its name.
#[derive(Debug)]
pub struct PidFile {
    /// The lock ends with it.
    _file: OwnedFd,
    _name: Name,
}

impl PidFile {
    /// Takes the lock and writes our pid.
    pub fn take() -> Result<Self, Fatal> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(PATH, flags, Mode::from_raw_mode(0o644)).map_err(pid_file)?;
        if !sys::lock::try_lock(&file, sys::lock::Kind::Exclusive).map_err(pid_file)? {
            let pid = std::fs::read_to_string(PATH).unwrap_or_default();
            return Err(Fatal::Second(pid.trim().parse().unwrap_or(0)));
        }
        let name = Name;
        rustix::fs::ftruncate(&file, 0).map_err(pid_file)?;
        rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes()).map_err(pid_file)?;
        Ok(Self { _file: file, _name: name })
    }
}

/// A name that is removed when it is dropped.
#[derive(Debug)]
struct Name;

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(PATH) {
            log::warn!("{PATH}: {error}");
        }
    }
}

fn pid_file(error: impl Into<io::Error>) -> Fatal {
    Fatal::Place("pid file", PATH, error.into())
}
