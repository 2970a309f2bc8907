//! The one step into a sandbox that rustix leaves unsafe: new namespaces.
#![allow(unsafe_code)] // unshare(2) can part threads from their descriptors; not with the flags used here

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Which namespaces the calling thread leaves for new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unshare {
    /// Mounts: needed for an empty root.
    pub mount: bool,
    /// The network stack: a new one has not even a loopback that is up.
    pub net: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
}

/// Moves the calling thread into new namespaces. Needs CAP_SYS_ADMIN.
pub fn unshare(what: Unshare) -> Result<(), Errno> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNS, what.mount);
    flags.set(UnshareFlags::NEWNET, what.net);
    flags.set(UnshareFlags::NEWIPC, what.ipc);
    // SAFETY: the precondition concerns CLONE_FILES alone, which is never among these flags.
    unsafe { unshare_unsafe(flags) }
}
