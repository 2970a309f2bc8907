//! Starts a child by the descriptor of an executable: nothing is inherited but what the caller names.
//!
//! The child is its own session, has an empty environment, default signals, exactly the descriptors of the map, and is
//! born in the cgroup that is given. A step that fails in the child, exec included, is this call's error.
//! Between clone and exec the child does only what is async-signal-safe: the process may have other threads.

#![allow(unsafe_code)] // clone3, execveat and what must stand between them have no safe wrapper

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::child::Child;

mod inside;
use inside::{Blueprint, Placed};

/// Where a start failed, with the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct SpawnError {
    /// The step that failed; all before it was undone.
    pub step: Step,
    /// What the kernel said.
    pub errno: Errno,
}

/// The steps of a start, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Step {
    /// The request itself: a NUL in an argument, a descriptor number twice.
    #[error("bad request")]
    Request,
    /// The pipe on which the child reports.
    #[error("pipe for the child's report")]
    Pipe,
    /// clone3: no memory, no process id, no descriptor for the pidfd, the cgroup's pids.max.
    #[error("clone")]
    Clone,
    /// The child: setsid, parent-death signal.
    #[error("new session")]
    Session,
    /// The child: user and group.
    #[error("user of the child")]
    User,
    /// The child: its descriptors put into place.
    #[error("descriptors of the child")]
    Descriptors,
    /// The child: execveat.
    #[error("execute")]
    Exec,
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        error.errno.into()
    }
}

/// A child to be started.
pub struct Spawn<'a> {
    exe: BorrowedFd<'a>,
    argv: Vec<Vec<u8>>,
    fds: Vec<(Box<dyn AsFd + 'a>, RawFd)>,
    cgroup: Option<BorrowedFd<'a>>,
    user: Option<u32>,
    die_with_parent: bool,
}

impl<'a> Spawn<'a> {
    /// A child that executes `exe` with these arguments, the first of which is its title in ps(1).
    pub fn new(exe: &'a impl AsFd, argv: &[&str]) -> Self {
        let argv = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        Self { exe: exe.as_fd(), argv, fds: Vec::new(), cgroup: None, user: None, die_with_parent: false }
    }

    /// Adds a descriptor that the child has as `number`, without close-on-exec. What is not added the child has not,
    /// 0, 1 and 2 included. One that is given away is closed here by `spawn`, whatever its result; a lent one stays open.
    #[must_use]
    pub fn fd(mut self, number: u16, fd: impl AsFd + 'a) -> Self {
        self.fds.push((Box::new(fd), RawFd::from(number)));
        self
    }

    /// The cgroup (v2 directory) to be born in; where the kernel cannot, the child stays in the caller's.
    #[must_use]
    pub fn cgroup(mut self, dir: Option<BorrowedFd<'a>>) -> Self {
        self.cgroup = dir;
        self
    }

    /// The number of its user and of its only group. The caller needs CAP_SETUID and CAP_SETGID; the child keeps neither.
    #[must_use]
    pub fn user(mut self, user: Option<u32>) -> Self {
        self.user = user;
        self
    }

    /// The kernel kills the child when the calling *thread* ends; under another user only where that has CAP_KILL. Undone when
    /// the child changes its user later.
    #[must_use]
    pub fn die_with_parent(mut self) -> Self {
        self.die_with_parent = true;
        self
    }

    /// Starts the child and returns when it has executed, or with the step that failed; then no process is left.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        let argv = self.arguments()?;
        let placed = self.placed()?;
        let (report, child_report) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| SpawnError { step: Step::Pipe, errno })?;
        let mut blueprint = Blueprint::new(&argv, placed, self.exe.as_raw_fd(), child_report.as_raw_fd());
        blueprint.user = self.user;
        blueprint.die_with = self.die_with_parent.then(rustix::process::getpid);
        let mut child = start(&mut blueprint, self.cgroup.map(|fd| fd.as_raw_fd()))?;
        drop(child_report);
        match read_report(&report) {
            None => Ok(child),
            Some(error) => {
                // It is past its report, so it is exiting. Should the wait fail, its starter's end will reap it.
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn arguments(&self) -> Result<Vec<CString>, SpawnError> {
        let nul = SpawnError { step: Step::Request, errno: Errno::INVAL };
        self.argv.iter().map(|arg| CString::new(arg.as_slice()).map_err(|_| nul)).collect()
    }

    fn placed(&self) -> Result<Vec<Placed>, SpawnError> {
        let places = self.fds.iter().map(|(fd, target)| Placed::new(fd.as_fd().as_raw_fd(), *target));
        let mut placed: Vec<Placed> = places.collect();
        placed.sort_by_key(|place| place.target);
        if placed.windows(2).any(|pair| matches!(pair, [a, b] if a.target == b.target)) {
            return Err(SpawnError { step: Step::Request, errno: Errno::INVAL });
        }
        Ok(placed)
    }
}

/// Clones with every signal blocked, so that no handler of ours runs in the child, and lets it execute.
fn start(blueprint: &mut Blueprint, cgroup: Option<RawFd>) -> Result<Child, SpawnError> {
    let old = block_all_signals();
    // SAFETY: the child runs `become_child` alone, which never returns, allocates nothing and takes no lock; all memory
    // it uses was made before the clone and is its own copy after it.
    let cloned = unsafe { clone_child(blueprint, cgroup) };
    restore_signals(&old);
    cloned.map_err(|errno| SpawnError { step: Step::Clone, errno })
}

/// # Safety
/// The caller must have blocked all signals; `blueprint` must point to memory that outlives the call.
unsafe fn clone_child(blueprint: &mut Blueprint, cgroup: Option<RawFd>) -> Result<Child, Errno> {
    // SAFETY: as this function's own.
    unsafe {
        if let Some(dir) = cgroup {
            match clone3(blueprint, Some(dir)) {
                Err(errno) if without_cgroup_may_work(errno) => {}
                answer => return answer,
            }
        }
        match clone3(blueprint, None) {
            Err(Errno::NOSYS | Errno::PERM) => clone_before_clone3(blueprint),
            answer => answer,
        }
    }
}

/// Kernels before 5.7, v1 directories, removed or threaded cgroups and cgroups that may not be entered. Not EAGAIN:
/// that is pids.max, a limit that must hold.
fn without_cgroup_may_work(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSYS
            | Errno::TOOBIG
            | Errno::INVAL
            | Errno::BUSY
            | Errno::OPNOTSUPP
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NODEV
            | Errno::BADF
    )
}

/// linux/sched.h; libc's own is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// # Safety
/// As `clone_child`.
unsafe fn clone3(blueprint: &mut Blueprint, cgroup: Option<RawFd>) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain numbers, for which zero is valid and means "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir as u64;
    }
    // SAFETY: no stack is given and CLONE_VM is not set, so the child returns here on its own copy of this stack; the
    // kernel writes only `pidfd`, which lives until the end of this function.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    // SAFETY: as this function's own; `pid` and `pidfd` are what the kernel just answered.
    unsafe { after_clone(blueprint, pid, pidfd) }
}

/// For kernels before 5.3 and filters that refuse clone3 because its arguments cannot be looked at.
///
/// # Safety
/// As `clone_child`.
unsafe fn clone_before_clone3(blueprint: &mut Blueprint) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = libc::c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD);
    // SAFETY: as in `clone3`; with CLONE_PIDFD the kernel writes the pidfd where parent_tid points.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) };
    // SAFETY: as this function's own; `pid` and `pidfd` are what the kernel just answered.
    unsafe { after_clone(blueprint, pid, pidfd) }
}

/// # Safety
/// As `clone_child`; `pid` and `pidfd` are a clone's answer, not used elsewhere.
unsafe fn after_clone(blueprint: &mut Blueprint, pid: i64, pidfd: RawFd) -> Result<Child, Errno> {
    if pid == 0 {
        // SAFETY: this is the child, and all signals are blocked.
        unsafe { inside::become_child(blueprint) }
    }
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    match pid {
        // SAFETY: the kernel made this descriptor for this call, and nobody else has it.
        Some(pid) => Ok(Child::new(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        None => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn block_all_signals() -> libc::sigset_t {
    // SAFETY: both sets are plain memory of the right type; the calls read one and write the other, and cannot fail
    // with SIG_SETMASK and valid pointers.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` is a set that `block_all_signals` got from the kernel.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut());
    }
}

/// The child's error, or `None` when the pipe closed without one: it has executed (or was killed, which `wait` tells).
fn read_report(report: &OwnedFd) -> Option<SpawnError> {
    let mut bytes = [0u8; inside::REPORT_LEN];
    loop {
        match rustix::io::read(report, &mut bytes) {
            Err(Errno::INTR) => {}
            Ok(inside::REPORT_LEN) => return Some(inside::decode(bytes)),
            Ok(_) | Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests;
