//! Resource limits of the calling process.

use std::io;

use rustix::process::{Rlimit, getrlimit, setrlimit};

pub use rustix::process::Resource;

/// Sets soft and hard limit; what starts from here inherits both and cannot raise them.
pub fn set(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// How many descriptors the process may have.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the number of descriptors to `wanted` as far as it may: root the hard limit too, others up to it. Gives what
/// holds after; a limit that is higher already stays.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let current = now.current.unwrap_or(u64::MAX);
    let hard = now.maximum.unwrap_or(u64::MAX);
    if current >= wanted {
        return current;
    }
    for most in [wanted.max(hard), hard] {
        let limit = Rlimit { current: Some(wanted.min(most)), maximum: Some(most) };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return wanted.min(most);
        }
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::alone;

    #[test]
    fn descriptors_are_raised_and_never_lowered() {
        alone("limits::tests::descriptors_are_raised_and_never_lowered", || {
            let maximum = getrlimit(Resource::Nofile).maximum;
            setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum }).expect("lower");
            assert_eq!(raise_descriptors(500), 500);
            assert_eq!(raise_descriptors(50), 500);
            assert_eq!(descriptors(), 500);
        });
    }

    #[test]
    fn without_the_right_the_hard_limit_is_what_can_be_had() {
        alone("limits::tests::without_the_right_the_hard_limit_is_what_can_be_had", || {
            setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(200) }).expect("lower");
            // SAFETY: drops root in a process that runs only this test.
            #[allow(unsafe_code)]
            let dropped = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(dropped, 0);
            assert_eq!(raise_descriptors(500), 200);
        });
    }

    #[test]
    fn a_set_limit_holds() {
        alone("limits::tests::a_set_limit_holds", || {
            set(Resource::Nofile, 10).expect("set");
            let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).take(20).collect();
            assert!(held.len() < 10);
        });
    }

    #[test]
    fn memory_limit_fails_what_is_over_it() {
        alone("limits::tests::memory_limit_fails_what_is_over_it", || {
            set(Resource::As, 512 << 20).expect("set");
            let mut buffer: Vec<u8> = Vec::new();
            assert!(buffer.try_reserve_exact(1 << 30).is_err());
        });
    }
}
