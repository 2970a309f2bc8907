//! The two names in /run that a daemon has: its locked pid file and its control socket. Both go when it ends, also when it
//! fails before it serves; a second daemon touches neither (`sole.rs`).

use std::io;
use std::os::fd::OwnedFd;

use config::Config;
use model::Owner;
use proto::client::SOCKET_PATH;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::parent::Fatal;

/// Held, locked, by the daemon that runs.
const LOCK_PATH: &str = "/run/vmd.pid";
/// Clients that wait to be accepted, first come, first served; one beyond waits for a place that another may take first. Not
/// more, since who comes last waits for all of them to be turned away.
const BACKLOG: i32 = 1024;

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
        let file = rustix::fs::open(LOCK_PATH, flags, Mode::from_raw_mode(0o644)).map_err(pid_file)?;
        if !sys::lock::try_lock(&file, sys::lock::Kind::Exclusive).map_err(pid_file)? {
            let pid = std::fs::read_to_string(LOCK_PATH).unwrap_or_default();
            return Err(Fatal::Second(pid.trim().parse().unwrap_or(0)));
        }
        let name = Name(LOCK_PATH);
        rustix::fs::ftruncate(&file, 0).map_err(pid_file)?;
        rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes()).map_err(pid_file)?;
        Ok(Self { _file: file, _name: name })
    }
}

/// A name that is removed when it is dropped.
#[derive(Debug)]
pub struct Name(&'static str);

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0) {
            log::warn!("{}: {error}", self.0);
        }
    }
}

/// The control socket, and its name. Its holder is the parent, so that it outlives a control that dies.
pub fn listen(config: &Config) -> Result<(OwnedFd, Name), Fatal> {
    if let Err(error) = std::fs::remove_file(SOCKET_PATH) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(control_socket(error));
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let address = SocketAddrUnix::new(SOCKET_PATH)?;
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask);
    bound.map_err(control_socket)?;
    let name = Name(SOCKET_PATH);
    give_socket(config.globals.socket_owner).map_err(control_socket)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket, name))
}

/// Gives the control socket to those who may reach it (`socket owner`). Without a group, no group may.
pub fn give_socket(owner: Owner) -> io::Result<()> {
    let gid = Gid::from_raw(owner.gid.unwrap_or(0));
    rustix::fs::chown(SOCKET_PATH, Some(Uid::from_raw(owner.uid)), Some(gid))?;
    Ok(rustix::fs::chmod(SOCKET_PATH, Mode::from_raw_mode(0o660))?)
}

fn pid_file(error: impl Into<io::Error>) -> Fatal {
    Fatal::Place("pid file", LOCK_PATH, error.into())
}

fn control_socket(error: impl Into<io::Error>) -> Fatal {
    Fatal::Place("control socket", SOCKET_PATH, error.into())
}
