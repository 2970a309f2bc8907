//! That no other vmd works with what this one is to have: the control socket, the state directory, the network name space
//! and the cgroups. Each shows by itself whether its owner lives, whatever became of the pid file; what a dead one left may
//! be taken. Nothing is changed before all of them are known to be free.
//!
//! No user can stand in the way: the state directory's lock is a file that only root may open, and of a lock on what all
//! may open, the name space, only root's counts.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use proto::client::SOCKET_PATH;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::cgroup;

use super::state;
use crate::parent::Fatal;

/// How often it is looked again.
const STEP: Duration = Duration::from_millis(20);

/// Held as long as this is the only daemon.
#[derive(Debug)]
pub struct Sole {
    _locks: [Option<File>; 2],
}

impl Sole {
    /// Makes sure of it. A daemon that was killed a moment ago may still look alive.
    pub fn take(cgroups: Option<&cgroup::Place>) -> Result<Self, Fatal> {
        let begun = Instant::now();
        loop {
            match Self::look(cgroups) {
                Err(Fatal::Second(_)) if begun.elapsed() < cgroup::DYING => std::thread::sleep(STEP),
                result => return result,
            }
        }
    }

    /// The lock of a state directory that can't be made or written has nothing to keep.
    fn look(cgroups: Option<&cgroup::Place>) -> Result<Self, Fatal> {
        let owner = listener()?.or_else(|| cgroups.and_then(cgroup::Place::owner));
        owner.map_or(Ok(()), |pid| Err(Fatal::Second(pid)))?;
        let network = File::open("/proc/self/ns/net").ok();
        if let Some(pid) = holder(&network)?.filter(|pid| is_roots(*pid)) {
            return Err(Fatal::Second(pid));
        }
        let state = state::lock_file().ok(); // made only now: a second daemon changes nothing
        match holder(&state)? {
            Some(pid) => Err(Fatal::Second(pid)),
            None => Ok(Self { _locks: [network, state] }),
        }
    }
}

/// Who else has the lock; none if it is ours now, or there is nothing to lock.
fn holder(file: &Option<File>) -> std::io::Result<Option<u32>> {
    Ok(file.as_ref().map(sys::lock::claim).transpose()?.flatten())
}

/// Who listens on the control socket, and lives: its control has the socket too, and ends a moment later.
fn listener() -> Result<Option<u32>, Fatal> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET_PATH)?) {
        Ok(()) => {
            let pid = sys::creds::Peer::of(&socket)?.pid;
            Ok((pid == 0 || cgroup::lives(pid)).then_some(pid))
        }
        Err(rustix::io::Errno::AGAIN) => Ok(Some(0)), // more wait for it than it lets in
        Err(_) => Ok(None),                           // nobody, or no socket at all
    }
}

/// One that we can't see is taken for a user's.
fn is_roots(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0)
}
