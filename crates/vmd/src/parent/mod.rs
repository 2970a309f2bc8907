//! The parent: decides. Root, but only with the capabilities that it and its children's starts need.
//!
//! It reads vm.conf, keeps the registry (`registry/`, pure), opens files by openers, taps by priv, and has vmm start VMs.
//! It parses no guest, image or network data. Its peers: control, priv, vmm, agentx, and one opener and some probes for each
//! start. Descriptors of a VM that must outlive a reboot (disks with their locks, taps, the console) lie in `holdings`.

mod accounts;
mod conf;
mod edge;
mod graves;
mod network;
mod peers;
mod perform;
mod registry;
mod service;
mod start;

use std::io;

use proto::failure::plain;

use self::peers::StartError;

pub use self::service::startup::{background, main};

/// /dev/kvm, as the daemon opens it.
pub fn open_kvm() -> io::Result<std::os::fd::OwnedFd> {
    start::host::Host::open_kvm()
}

/// Why the daemon ends.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Said already, with its place.
    #[error("see above")]
    Told,
    /// Not root.
    #[error("need root privileges: start vmd as root")]
    NotRoot,
    /// No account for its processes.
    #[error("unknown user _vmd: make it with \"useradd --system --no-create-home --shell /usr/sbin/nologin _vmd\"")]
    NoUser,
    /// Another one runs; 0 where its number is not known here.
    #[error("vmd already runs{pid}: stop it first", pid = if *.0 == 0 { String::new() } else { format!(" (pid {0})", .0) })]
    Second(u32),
    /// No KVM.
    #[error("/dev/kvm: {why}; is kvm_intel or kvm_amd loaded, and virtualization enabled in the firmware?", why = plain(.0))]
    Kvm(io::Error),
    /// The configuration can't be read.
    #[error("failed to open \"{0}\": {why}; -f names the configuration", why = plain(.1))]
    File(String, io::Error),
    /// The configuration is right, and has no canonical text.
    #[error(transparent)]
    Unwritable(#[from] config::Unwritable),
    /// A name in /run can't be had.
    #[error("{0} {1}: {why}; make /run writable, and remove what else has this name", why = plain(.2))]
    Place(&'static str, &'static str, io::Error),
    /// A process could not be started.
    #[error("start {0}: {1}")]
    Start(&'static str, StartError),
    /// vmm is gone.
    #[error("the vmm process ended, and all VMs with it")]
    VmmLost,
    /// Started in the background, it said why it does not come up.
    #[error("{0}")]
    Said(String),
    /// Started in the background, it did not come up.
    #[error("the daemon ended before it was ready ({0}): see the system's log, or start it with -d")]
    Background(sys::child::Exit),
    /// The sandbox.
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    /// Anything of the system.
    #[error("{why}", why = plain(.0))]
    Io(#[from] io::Error),
    /// The same, as rustix tells it.
    #[error("{0}")]
    Errno(#[from] rustix::io::Errno),
}
