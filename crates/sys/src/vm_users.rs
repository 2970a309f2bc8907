//! A user of its own for each VM, and the user namespace in which vmm may give them out.
//!
//! Linux counts some things by user: watches of epoll, descriptors in flight, pages of pipes, locked memory, threads, pending
//! signals. Under one user a VM that was taken over would use up everybody's. A VM's user has no name and no files.
//!
//! Only a namespace's own capabilities let vmm change to them: CAP_SETUID of the host's would also forge the credentials that
//! sockets tell (SCM_CREDENTIALS).

#![allow(unsafe_code)] // clone(2) of a process that only waits has no safe wrapper

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit, Uid, WaitOptions, getpriority_user, getrlimit, setrlimit, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The first, and how many: a range that no account uses (systemd, "Users, Groups, UIDs and GIDs on systemd systems": free
/// above the containers' 0x6FFF_FFFF and below 0x7FFE_0000).
pub const FIRST: u32 = 0x7000_0000;
/// See [`FIRST`].
pub const COUNT: u32 = 0x7FFE_0000 - FIRST;

/// Numbers of VMs that have users. The rest of the range is for those whose first one a process still has.
const VMS: u32 = 1 << 20;

/// The user, and group, of a VM of this number that no process has. None when it has none that is free.
pub fn free_one(vm: u32) -> Option<u32> {
    candidates(vm).find(|uid| !has_process(*uid))
}

/// Of no two VMs the same.
fn candidates(vm: u32) -> impl Iterator<Item = u32> {
    (0..COUNT / VMS).filter(move |_| vm < VMS).map(move |nth| FIRST + nth * VMS + vm)
}

/// Whether it is a VM's.
pub fn is_one(uid: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&uid)
}

fn has_process(uid: u32) -> bool {
    getpriority_user(Uid::from_raw(uid)) != Err(Errno::SRCH)
}

/// The resources that the kernel counts for a whole namespace too, at most as many as its maker had as limits.
const COUNTED: [Resource; 4] = [Resource::Nproc, Resource::Memlock, Resource::Sigpending, Resource::Msgqueue];

/// Makes a user namespace that has, with the numbers of the host, the user and group `own` and all of VMs. For root, before it
/// gives anything up. What is counted for all of it together has no limit, or the caller's hard one where that can't be raised.
pub fn namespace(own: (u32, u32)) -> io::Result<OwnedFd> {
    let before = COUNTED.map(|resource| (resource, getrlimit(resource)));
    for (resource, limit) in before {
        let none = Rlimit { current: None, maximum: None };
        let hard = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(resource, none).or_else(|_| setrlimit(resource, hard))?;
    }
    let made = make(own.0, own.1);
    before.into_iter().try_for_each(|(resource, limit)| setrlimit(resource, limit))?;
    made
}

fn make(uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let (stays, leave) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let child = Waiting::start(&stays, &leave)?;
    let path = |name| format!("/proc/{}/{name}", child.0.as_raw_nonzero());
    for (name, id) in [("uid_map", uid), ("gid_map", gid)] {
        std::fs::write(path(name), format!("{id} {id} 1\n{FIRST} {FIRST} {COUNT}\n"))?;
    }
    Ok(File::open(path("ns/user"))?.into())
}

/// A process in a new user namespace, until this is dropped or the pipe closes, as it does at our own end.
struct Waiting(Pid);

impl Waiting {
    fn start(stays: &OwnedFd, leave: &OwnedFd) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let (stays, leave) = (stays.as_raw_fd(), leave.as_raw_fd());
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        // SAFETY: no stack is given and CLONE_VM is not set, so the child returns here on its own copy of this stack.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
        if pid == 0 {
            let mut byte = 0u8;
            // SAFETY: async-signal-safe calls on numbers and a byte of our own; the last does not return.
            unsafe {
                libc::close(leave);
                libc::read(stays, (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        pid.map(Self).ok_or_else(io::Error::last_os_error)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(self.0), WaitOptions::empty()));
    }
}

/// Moves the calling process, which has one thread, into it; all capabilities of the namespace are then its own, and none of
/// the host's.
pub fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_vms_have_the_same_user() {
        let mut seen = std::collections::BTreeSet::new();
        for vm in [0, 1, 2, 16_383, VMS - 1] {
            let own: Vec<u32> = candidates(vm).collect();
            assert_eq!(own.len(), 255);
            assert!(own.iter().all(|uid| is_one(*uid) && seen.insert(*uid)), "{vm}");
        }
        assert_eq!(candidates(VMS).count(), 0);
        assert!(!is_one(FIRST - 1) && !is_one(0x7FFE_0000) && !is_one(0) && is_one(0x7FFD_FFFF));
    }

    #[test]
    fn a_user_that_a_process_has_is_left_out() {
        let own = rustix::process::getuid().as_raw();
        assert!(has_process(own));
        assert_eq!(free_one(77), Some(FIRST + 77));
        assert_eq!(free_one(u32::MAX), None);
    }
}
