//! Ends a process at a point of its conversations: right before or after any message that it says or hears.
//!
//! The process is traced (ptrace(2)) from call to call, so the point is exact, and the same in each run that goes the same
//! way. It dies by SIGKILL at that very stop: a message that it was about to send is not sent, one that it has read is lost.

use std::thread::JoinHandle;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Pid as RustixPid, Signal as Kill, kill_process};

use crate::deadline::{self, DAEMON};
use crate::process::Process;

/// Where a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Something has come; it is not read yet.
    Woken,
    /// A message was read, and nothing done with it.
    Heard,
    /// A message is about to be sent.
    Saying,
    /// A message was sent, and nothing was done since.
    Said,
}

/// How a process that was followed went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It was killed there.
    Killed(Point),
    /// It came to no such point: it was let go alive, or ended by itself, after so many.
    Passed(usize),
}

/// System calls of x86-64 (asm/unistd_64.h).
const SENDMSG: u64 = 46;
const RECVMSG: u64 = 47;
const EPOLL_WAIT: u64 = 232;
const EPOLL_PWAIT: u64 = 281;
const EPOLL_PWAIT2: u64 = 441;
/// `ptrace_syscall_info.op` (linux/ptrace.h).
const ENTRY: u8 = 1;

/// Does [`kill_at`] on a thread of its own, which has begun when this returns.
pub fn follow(victim: Process, at: usize) -> JoinHandle<Met> {
    let follower = std::thread::spawn(move || kill_at(victim, at));
    deadline::until("the process to be followed", DAEMON, || {
        let traced = victim.status("TracerPid").is_some_and(|tracer| tracer != "0");
        (traced || follower.is_finished()).then_some(()) // or it was killed at once
    });
    follower
}

/// Follows a process and kills it at its `at`-th point, counted from 1. [`let_go`] ends that from another
/// thread. What the process starts is not followed.
pub fn kill_at(victim: Process, at: usize) -> Met {
    let pid = Pid::from_raw(i32::try_from(victim.pid).expect("a pid"));
    let stopped = ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).and_then(|()| ptrace::interrupt(pid));
    if stopped.is_err() {
        return Met::Passed(0); // it has ended
    }
    let mut seen = 0;
    loop {
        let mut deliver = None;
        match waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it is traced") {
            WaitStatus::PtraceSyscall(_) => {
                let Some(point) = point(pid) else {
                    if ptrace::syscall(pid, None).is_err() {
                        return Met::Passed(seen);
                    }
                    continue;
                };
                seen += 1;
                if seen == at {
                    kill(victim, Kill::KILL);
                    while !is_end(waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it is traced")) {}
                    return Met::Killed(point);
                }
            }
            WaitStatus::Stopped(_, Signal::SIGWINCH) => {
                ptrace::detach(pid, None).expect("it is traced");
                return Met::Passed(seen);
            }
            WaitStatus::Stopped(_, signal) => deliver = Some(signal),
            status if is_end(status) => return Met::Passed(seen),
            _ => {} // stops of the trace itself
        }
        if ptrace::syscall(pid, deliver).is_err() {
            return Met::Passed(seen); // killed meanwhile
        }
    }
}

/// Ends the following of a process that lives; harmless to one that is not followed.
pub fn let_go(victim: Process) {
    kill(victim, Kill::WINCH);
}

/// It may have ended.
fn kill(victim: Process, signal: Kill) {
    let pid = i32::try_from(victim.pid).ok().and_then(RustixPid::from_raw).expect("a pid");
    let _ = kill_process(pid, signal);
}

fn is_end(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
}

/// What the call is at whose beginning or end the process stands.
fn point(pid: Pid) -> Option<Point> {
    let info = ptrace::syscall_info(pid).ok()?;
    let registers = ptrace::getregs(pid).ok()?;
    let done = i64::from_ne_bytes(registers.rax.to_ne_bytes());
    match (registers.orig_rax, info.op == ENTRY) {
        (SENDMSG, true) => Some(Point::Saying),
        (SENDMSG, false) if done > 0 => Some(Point::Said),
        (RECVMSG, false) if done > 0 => Some(Point::Heard),
        (EPOLL_WAIT | EPOLL_PWAIT | EPOLL_PWAIT2, false) if done > 0 => Some(Point::Woken),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_says_nothing_passes_and_one_that_is_let_go_lives() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat");
        let victim = Process { pid: child.id() };
        deadline::until("exec of cat", DAEMON, || (victim.title() == "cat").then_some(()));
        let follower = follow(victim, 1);
        let (mut to, mut from) = (child.stdin.take().expect("its input"), child.stdout.take().expect("its output"));
        to.write_all(b"x").expect("written");
        from.read_exact(&mut [0]).expect("it goes on while it is followed");
        let_go(victim);
        assert_eq!(follower.join().expect("no panic"), Met::Passed(0));
        to.write_all(b"y").expect("written");
        from.read_exact(&mut [0]).expect("it lives");
        drop(to);
        assert!(child.wait().expect("it is ours").success());
    }
}
