//! Resource limits of a promise. They are inherited and only ever fall, so a starter's are its children's most.

use std::io;

use rustix::process::getrlimit;
use sys::limits::{Resource, set};

use crate::promise::Limits;

/// Sets the limits, soft and hard. Where the hard limit can't be raised, what it allows must do.
pub fn apply(limits: Limits) -> io::Result<()> {
    set(Resource::Core, 0)?;
    sys::signals::outlive_the_file_size_limit();
    if !limits.grows_files {
        set(Resource::Fsize, 0)?;
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
