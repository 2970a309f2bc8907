//! Descriptors that a starter put at fixed numbers (`spawn`), taken by their number once.

#![allow(unsafe_code)] // a number becomes an owned descriptor

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::FdFlags;

/// Numbers that were taken already, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The descriptor with this number, close-on-exec from now on. `BadFd` where there is none, it is a standard one, or it
/// was taken before. To be called before anything else of the process opens a descriptor.
pub fn take(number: u8) -> io::Result<OwnedFd> {
    let bad = io::Error::from_raw_os_error(libc::EBADF);
    if !(3..64).contains(&number) || TAKEN.fetch_or(1 << number, Ordering::Relaxed) & (1 << number) != 0 {
        return Err(bad);
    }
    // SAFETY: only borrowed for a call that fails with EBADF if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number.into()) };
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    // SAFETY: it is open (the call above), the caller promises that nothing in this process opened it, and `TAKEN`
    // gives each number out once: so this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_and_closed_descriptors_are_refused() {
        for number in [0, 1, 2, 63, 64, 255] {
            assert_eq!(take(number).unwrap_err().raw_os_error(), Some(libc::EBADF), "{number}");
        }
    }
}
