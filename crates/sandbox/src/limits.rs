//! Resource limits of a promise. They are inherited and only ever fall, so a starter's are its children's most.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::promise::Limits;

/// Sets the limits, soft and hard. Where the hard limit can't be raised, what it allows must do.
pub fn apply(limits: Limits) -> Result<(), Errno> {
    set(Resource::Core, 0)?;
    if !limits.grows_files {
        set(Resource::Fsize, 0)?;
    }
    match set(Resource::Nofile, limits.descriptors) {
        Err(Errno::PERM) => set(Resource::Nofile, most(Resource::Nofile, limits.descriptors)),
        done => done,
    }
}

fn set(resource: Resource, value: u64) -> Result<(), Errno> {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

fn most(resource: Resource, wanted: u64) -> u64 {
    getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted))
}
