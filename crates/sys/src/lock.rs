//! Locks on open files (OFD): they belong to the open file, go along with its descriptor, and end with its last one.

#![allow(unsafe_code)] // rustix locks for the process only (F_SETLK), which another close() of the file would undo

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For writing: no other lock beside it. Needs a descriptor open for writing.
    Exclusive,
    /// For reading: with others of its kind. Needs a descriptor open for reading.
    Shared,
}

/// Locks a whole file, also what it grows. False when another open file holds a lock against it; it never waits.
pub fn try_lock(file: impl AsFd, kind: Kind) -> io::Result<bool> {
    let kind = match kind {
        Kind::Exclusive => libc::F_WRLCK,
        Kind::Shared => libc::F_RDLCK,
    };
    let request = whole_file(kind);
    // SAFETY: the kernel reads `request`, which lives until the call returns, and writes nothing.
    let answer = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if answer == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether another open file's or process's lock stands in the way of an exclusive one; any descriptor will do to ask.
pub fn is_locked(file: impl AsFd) -> io::Result<bool> {
    Ok(in_the_way(file)?.l_type != i16::try_from(libc::F_UNLCK).unwrap_or_default())
}

/// The process whose lock stands in the way of an exclusive one. The kernel names the holder of a process's lock
/// (F_SETLK), and nobody for an open file's, such as those made here; none also where nothing stands in the way.
pub fn holder(file: impl AsFd) -> io::Result<Option<u32>> {
    // F_UNLCK leaves our 0 in place, an open file's lock has -1.
    Ok(u32::try_from(in_the_way(file)?.l_pid).ok().filter(|pid| *pid != 0))
}

/// Takes an open file for us alone (flock), until its last descriptor is closed. None if it is ours now; else who has it, as
/// /proc/locks knows: 0 where it is in another pid name space. Any descriptor will do, so whoever may read the file may take it.
pub fn claim(file: impl AsFd) -> io::Result<Option<u32>> {
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let stat = rustix::fs::fstat(&file)?;
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            let place = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
            Ok(Some(claimed_by(&std::fs::read_to_string("/proc/locks").unwrap_or_default(), &place).unwrap_or(0)))
        }
        Err(error) => Err(error.into()),
    }
}

/// A line is `1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF` (proc_locks(5)).
fn claimed_by(locks: &str, place: &str) -> Option<u32> {
    let lines = locks.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut found = lines.filter_map(|words| match words.as_slice() {
        [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok(),
        _ => None,
    });
    found.next()
}

fn in_the_way(file: impl AsFd) -> io::Result<libc::flock> {
    let mut found = whole_file(libc::F_WRLCK);
    // SAFETY: the kernel reads and writes `found`, which lives until the call returns.
    let answer = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut found) };
    if answer == 0 { Ok(found) } else { Err(io::Error::last_os_error()) }
}

/// Start 0 and length 0 are the whole file; an OFD lock wants pid 0.
fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn opened_twice() -> (File, File) {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let open = || File::options().read(true).write(true).open(file.path()).expect("open");
        (open(), open())
    }

    #[test]
    fn exclusive_lock_stands_alone() {
        let (a, b) = opened_twice();
        assert!(try_lock(&a, Kind::Exclusive).expect("lock"));
        assert!(!try_lock(&b, Kind::Exclusive).expect("held"));
        assert!(!try_lock(&b, Kind::Shared).expect("held"));
    }

    #[test]
    fn shared_locks_stand_together_and_against_an_exclusive_one() {
        let (a, b) = opened_twice();
        assert!(try_lock(&a, Kind::Shared).expect("lock"));
        assert!(try_lock(&b, Kind::Shared).expect("lock"));
        assert!(!try_lock(&b, Kind::Exclusive).expect("held"));
    }

    #[test]
    fn lock_lasts_until_the_last_descriptor_of_the_open_file() {
        let (a, b) = opened_twice();
        assert!(try_lock(&a, Kind::Exclusive).expect("lock"));
        let kept = a.try_clone().expect("duplicate");
        drop(a);
        assert!(!try_lock(&b, Kind::Exclusive).expect("still held"));
        drop(kept);
        assert!(try_lock(&b, Kind::Exclusive).expect("free"));
    }

    #[test]
    fn exclusive_lock_of_a_file_open_for_reading_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let reader = File::open(file.path()).expect("open");
        assert!(try_lock(&reader, Kind::Exclusive).is_err());
    }

    #[test]
    fn what_is_claimed_is_ours_alone_and_its_holder_is_named() {
        let (a, b) = opened_twice();
        assert_eq!(claim(&a).expect("free"), None);
        assert_eq!(claim(&b).expect("held"), Some(std::process::id()));
        drop(a);
        assert_eq!(claim(&b).expect("free again"), None);
    }

    #[test]
    fn the_holder_is_that_of_this_file_by_this_kind_of_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:131 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 fe:00:13 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 fe:00:131 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 10 fe:00:131 0 EOF\n";
        assert_eq!(claimed_by(locks, "fe:00:131"), Some(9));
        assert_eq!(claimed_by(locks, "00:fe:131"), None);
        assert_eq!(claimed_by("", ""), None);
    }

    #[test]
    fn holder_is_named_only_where_a_process_holds_the_lock() {
        let (a, b) = opened_twice();
        assert_eq!((holder(&b).expect("free"), is_locked(&b).expect("free")), (None, false));
        assert!(try_lock(&a, Kind::Exclusive).expect("lock"));
        assert_eq!((holder(&b).expect("an open file's"), is_locked(&b).expect("held")), (None, true));
        drop(a);
        let c = b.try_clone().expect("duplicate");
        rustix::fs::fcntl_lock(&c, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("a process's lock");
        assert_eq!(holder(&b).expect("held"), Some(std::process::id()));
    }
}
