//! Resource limits of a promise. They are inherited and only ever fall, so a starter's are its children's most.

use std::io;

use rustix::process::getrlimit;
use sys::limits::{Resource, set};

use crate::promise::Limits;

/// What the kernel counts by user, for a VM's own: threads of 64 vCPUs, of its devices and of io_uring (its cgroup says it
/// exactly); memory of a ring, before Linux 5.12; a wake of each vCPU; no message queue.
const OF_A_VM: [(Resource, u64); 4] =
    [(Resource::Nproc, 512), (Resource::Memlock, 8 << 20), (Resource::Sigpending, 256), (Resource::Msgqueue, 0)];

/// Sets the limits, soft and hard. Where the hard limit can't be raised, what it allows must do.
pub fn apply(limits: Limits) -> io::Result<()> {
    set(Resource::Core, 0)?;
    sys::signals::outlive_the_file_size_limit();
    if !limits.grows_files {
        set(Resource::Fsize, 0)?;
    }
    if sys::vm_users::is_one(rustix::process::getuid().as_raw()) {
        OF_A_VM.into_iter().try_for_each(|(resource, wanted)| set(resource, most(resource, wanted)))?;
    }
    match set(Resource::Nofile, limits.descriptors) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set(Resource::Nofile, most(Resource::Nofile, limits.descriptors))
        }
        done => done,
    }
}

fn most(resource: Resource, wanted: u64) -> u64 {
    getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted))
}
