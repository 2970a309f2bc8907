//! Whether reading and writing a descriptor may wait.
//!
//! It is noted in the open file, so who shares one shares that: roles get their descriptors as they need them, and most could
//! not change it (sandbox, `STATUS_FLAGS`).

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Sees to it that nobody waits for this descriptor. One that is so already is not touched.
pub fn never(fd: impl AsFd) -> io::Result<()> {
    set(fd, true)
}

/// Sees to it that reading this descriptor waits. One that is so already is not touched.
pub fn always(fd: impl AsFd) -> io::Result<()> {
    set(fd, false)
}

/// `InvalidInput` for a descriptor that would make us wait: for one of a peer's.
pub fn refuse(fd: impl AsFd) -> io::Result<()> {
    if fcntl_getfl(fd)?.contains(OFlags::NONBLOCK) { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn set(fd: impl AsFd, non_blocking: bool) -> io::Result<()> {
    let now = fcntl_getfl(&fd)?;
    let mut wanted = now;
    wanted.set(OFlags::NONBLOCK, non_blocking);
    if wanted == now { Ok(()) } else { Ok(fcntl_setfl(&fd, wanted)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_was_asked_and_what_would_wait_is_refused() {
        let (read, _write) = rustix::pipe::pipe().expect("a pipe");
        let refused = |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
        assert!(refused(refuse(&read)));
        never(&read).expect("a pipe");
        refuse(&read).expect("it does not wait");
        assert_eq!(rustix::io::read(&read, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        always(&read).expect("a pipe");
        assert!(refused(refuse(&read)));
    }
}
