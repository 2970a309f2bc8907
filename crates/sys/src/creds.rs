//! Who is at the other end of a Unix socket: the kernel's word, taken when the peer connected.
//!
//! The parent asks here for each new client connection; nothing else in the daemon may say who asks. control asks for the user
//! alone, to count connections by it.

#![allow(unsafe_code)] // rustix has no SO_PEERGROUPS, and no process 0, which SO_PEERCRED has of another pid name space

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Supplementary groups a peer may have (Linux: NGROUPS_MAX). More is an error, so that no right is decided on a part.
pub const MAX_GROUPS: usize = 65536;

/// The identity of a peer at the time it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process then; it may be gone, and the number another's. 0 if this pid name space does not show it.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// The peer of a connected Unix socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let libc::ucred { pid, uid, gid } = credentials(&socket)?;
        Ok(Self { pid: pid.unsigned_abs(), uid, gid, groups: peer_groups(&socket)? })
    }
}

/// The user who connected a socket alone.
pub fn user(socket: &impl AsFd) -> rustix::io::Result<u32> {
    credentials(socket).map(|found| found.uid)
}

fn credentials(socket: &impl AsFd) -> rustix::io::Result<libc::ucred> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the buffer is `bytes` long, and the kernel writes no more than that: three numbers, of which any value is one.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &mut bytes,
        )
    };
    if answer == 0 { Ok(found) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}

fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).unwrap_or(0);
        // SAFETY: the buffer is `bytes` long, and the kernel writes no more than that; gid_t is u32.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if answer == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE: the kernel says how much it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::alone;
    use std::os::unix::net::UnixStream;

    #[test]
    fn peer_of_an_own_pair_is_this_process() {
        let (socket, _other) = UnixStream::pair().expect("pair");
        let peer = Peer::of(&socket).expect("peer");
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        let groups = rustix::process::getgroups().expect("own groups");
        assert_eq!(peer.groups, groups.iter().map(|group| group.as_raw()).collect::<Vec<_>>());
    }

    #[test]
    fn more_groups_than_the_first_guess_are_all_told() {
        alone("creds::tests::more_groups_than_the_first_guess_are_all_told", || {
            let many: Vec<u32> = (1000..1500).collect();
            // SAFETY: sets the groups of a process that runs only this test, by the call itself, for this thread.
            let set = unsafe { libc::syscall(libc::SYS_setgroups, many.len(), many.as_ptr()) };
            assert_eq!(set, 0, "the tests of this room run as root");
            let (socket, _other) = UnixStream::pair().expect("pair");
            assert_eq!(Peer::of(&socket).expect("peer").groups, many);
        });
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").expect("open");
        assert!(Peer::of(&file).is_err());
    }
}
