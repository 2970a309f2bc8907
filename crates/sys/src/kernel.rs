//! What this kernel lets a process use, asked of the kernel itself: nothing is changed by asking.
#![allow(unsafe_code)] // rustix has no landlock(7) and no seccomp(2)

use std::io;

/// linux/landlock.h: LANDLOCK_CREATE_RULESET_VERSION.
const LANDLOCK_VERSION: libc::c_uint = 1;

/// The version of Landlock's rules. `Unsupported` where the kernel was built without, or told to do without (`lsm=`).
pub fn landlock() -> io::Result<u32> {
    // SAFETY: with this flag the kernel wants no attributes (a null pointer of length 0), and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, LANDLOCK_VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Whether a filter of system calls can be had that kills the whole process.
pub fn seccomp() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads `action`, which lives until the call returns, and writes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the calling process may make a ring of io_uring(7). The one that is made here goes at once.
pub fn io_uring() -> io::Result<()> {
    let ring: io::Result<io_uring::IoUring> = io_uring::IoUring::builder().setup_r_disabled().build(1);
    ring.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::alone;

    #[test]
    fn a_kernel_that_tests_can_run_on_has_all_of_them() {
        assert!(landlock().expect("landlock") > 0);
        seccomp().expect("seccomp");
        io_uring().expect("a ring");
    }

    #[test]
    fn a_ring_that_can_not_be_made_is_told() {
        alone("kernel::tests::a_ring_that_can_not_be_made_is_told", || {
            let _held = crate::alone::fill_descriptors(0);
            assert_eq!(io_uring().expect_err("no descriptor is left").raw_os_error(), Some(libc::EMFILE));
        });
    }
}
