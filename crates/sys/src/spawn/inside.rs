//! What the child does between clone and exec. Async-signal-safe: no allocation, no lock, no panic, raw calls only.

#![allow(unsafe_code)] // see `spawn`: runs in a forked copy, where only raw calls are sound

use std::ffi::{CString, c_char, c_int};
use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::process::Pid;

use super::{SpawnError, Step};

/// Bytes of a report: the step, then errno, then nothing. Below PIPE_BUF, so it arrives whole.
pub const REPORT_LEN: usize = 5;

/// One descriptor of the child: where it is now, where it shall be.
#[derive(Debug)]
pub struct Placed {
    source: RawFd,
    /// Its number in the child.
    pub target: RawFd,
}

impl Placed {
    pub fn new(source: RawFd, target: RawFd) -> Self {
        Self { source, target }
    }
}

/// All that the child needs, made before the clone.
#[derive(Debug)]
pub struct Blueprint {
    argv: Vec<*const c_char>,
    envp: [*const c_char; 1],
    placed: Vec<Placed>,
    exe: RawFd,
    report: RawFd,
    /// User and group.
    pub user: Option<u32>,
    /// The process whose end shall end the child.
    pub die_with: Option<Pid>,
}

impl Blueprint {
    /// `argv` must outlive what is made here: only its pointers are kept. `placed` is ordered by target.
    pub fn new(argv: &[CString], placed: Vec<Placed>, exe: RawFd, report: RawFd) -> Self {
        let argv = argv.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
        Self { argv, envp: [std::ptr::null()], placed, exe, report, user: None, die_with: None }
    }
}

/// Turns the forked copy into the child, or reports why not and exits.
///
/// # Safety
/// Only in a process just cloned, with all signals blocked; the pointers in `blueprint.argv` must be valid.
pub unsafe fn become_child(blueprint: &mut Blueprint) -> ! {
    // SAFETY: passed on from the caller.
    let (step, errno) = unsafe {
        match prepare(blueprint) {
            Err(failed) => failed,
            Ok(()) => (Step::Exec, execute(blueprint)),
        }
    };
    let [a, b, c, d] = errno.to_ne_bytes();
    let report = [step as u8, a, b, c, d];
    // SAFETY: `report` is REPORT_LEN bytes of our own; a write that fails has no one left to tell.
    unsafe {
        libc::write(blueprint.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

type Failed = (Step, c_int);

unsafe fn prepare(blueprint: &mut Blueprint) -> Result<(), Failed> {
    // SAFETY: raw calls on numbers of our own; the caller holds the preconditions.
    unsafe {
        libc::setsid(); // fails only for a group's leader, and a process just cloned is none
        if let Some(user) = blueprint.user {
            change_user(user)?;
        }
        // After that, which clears it.
        if let Some(parent) = blueprint.die_with {
            ok(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), Step::Session)?;
            if libc::getppid() != parent.as_raw_nonzero().get() {
                return Err((Step::Session, libc::ESRCH)); // it ended before the line above
            }
        }
        default_signals();
        place_descriptors(blueprint)
    }
}

/// Groups first, while the right to is there. By raw calls: libc's functions would ask all threads of the copied process.
unsafe fn change_user(id: u32) -> Result<(), Failed> {
    let done = |answer| ok(if answer == 0 { 0 } else { -1 }, Step::User);
    // SAFETY: numbers, and a list of no groups.
    unsafe {
        done(libc::syscall(libc::SYS_setgroups, 0usize, 0usize))?;
        done(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        done(libc::syscall(libc::SYS_setresuid, id, id, id))?;
    }
    Ok(())
}

/// The kernel's sigaction on x86-64: handler, flags, restorer, mask. All zero is the default action.
static DEFAULT_ACTION: [u64; 4] = [0; 4];

/// exec keeps ignored signals ignored and the mask; the child must start with neither.
unsafe fn default_signals() {
    // SAFETY: the kernel reads 32 bytes of a constant. Not by libc's function, which refuses its own two signals though
    // a starter may have them ignored. A number that has no action (SIGKILL) gives an error that changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const DEFAULT_ACTION, 0usize, size_of::<u64>());
        }
        let none: u64 = 0;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, size_of::<u64>());
    }
}

/// Moves every source above the highest target first, so that no target overwrites a source still needed; then each to
/// its place; then closes what lies between and marks all above close-on-exec.
unsafe fn place_descriptors(blueprint: &mut Blueprint) -> Result<(), Failed> {
    let above = blueprint.placed.last().map_or(0, |last| last.target) + 1;
    // SAFETY: fcntl, dup2, close and close_range on numbers touch no memory.
    unsafe {
        blueprint.report = move_above(blueprint.report, above)?;
        blueprint.exe = move_above(blueprint.exe, above)?;
        for place in &mut blueprint.placed {
            place.source = move_above(place.source, above)?;
        }
        let mut next = 0;
        for place in &blueprint.placed {
            close_between(next, place.target);
            ok(libc::dup2(place.source, place.target), Step::Descriptors)?;
            next = place.target + 1;
        }
        let cloexec = libc::CLOSE_RANGE_CLOEXEC;
        let closed = libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, cloexec);
        ok(if closed == 0 { 0 } else { -1 }, Step::Descriptors)?;
    }
    Ok(())
}

unsafe fn move_above(fd: RawFd, least: RawFd) -> Result<RawFd, Failed> {
    // SAFETY: a number in, a number out.
    ok(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) }, Step::Descriptors)
}

unsafe fn close_between(first: RawFd, end: RawFd) {
    for fd in first..end {
        // SAFETY: closes a number nobody in this process uses any more; EBADF is as good.
        unsafe { libc::close(fd) };
    }
}

/// Returns errno; success does not return.
unsafe fn execute(blueprint: &Blueprint) -> c_int {
    // SAFETY: argv and envp end with null and point to strings made before the clone; the path is empty, a constant.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            blueprint.exe,
            c"".as_ptr(),
            blueprint.argv.as_ptr(),
            blueprint.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    errno()
}

fn ok(answer: c_int, step: Step) -> Result<c_int, Failed> {
    if answer < 0 { Err((step, errno())) } else { Ok(answer) }
}

fn errno() -> c_int {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// The parent's reading of a report.
pub fn decode([step, a, b, c, d]: [u8; REPORT_LEN]) -> SpawnError {
    let step = match step {
        3 => Step::Session,
        4 => Step::User,
        5 => Step::Descriptors,
        _ => Step::Exec,
    };
    SpawnError { step, errno: Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])) }
}
