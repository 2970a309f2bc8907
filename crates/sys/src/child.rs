//! A process held by its pidfd: waited for and signalled without the races of a bare process id. How it ended is told of our own
//! children alone.
//!
//! `spawn` makes it. Dropping it neither kills nor reaps: whoever starts a process waits for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was another process's child, which alone hears how.
    Unknown,
}

impl Exit {
    /// Whether it exited with status 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// A process that `spawn` started and that is not yet forgotten.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<Exit>,
}

impl Child {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// The process id, for people and logs; signals go by the pidfd.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until it ends. A second call answers the same again.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.reap(WaitIdOptions::EXITED)? {
                return Ok(exit);
            }
        }
    }

    /// How it ended, or `None` while it runs. The descriptor becomes readable when this will answer.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Sends a signal; one to a process that has ended does nothing.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    fn reap(&mut self, options: WaitIdOptions) -> io::Result<Option<Exit>> {
        if self.ended.is_none() {
            self.ended = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Ok(status) => status.as_ref().map(exit_of),
                Err(rustix::io::Errno::INTR) => None,
                Err(rustix::io::Errno::CHILD) => {
                    let patience = options.contains(WaitIdOptions::NOHANG).then(Timespec::default);
                    let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
                    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, patience.as_ref()))?;
                    (ended > 0).then_some(Exit::Unknown)
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(self.ended)
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match status.exit_status() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exe::Executable;
    use crate::spawn::Spawn;

    fn shell(script: &str) -> Child {
        let exe = Executable::open(std::path::Path::new("/bin/sh")).expect("open the shell");
        Spawn::new(&exe, &["sh", "-c", script]).spawn().expect("spawn")
    }

    #[test]
    fn exit_status_is_told_and_told_again() {
        let mut child = shell("exit 3");
        assert_eq!(child.wait().expect("wait"), Exit::Code(3));
        assert_eq!(child.wait().expect("wait again"), Exit::Code(3));
        assert_eq!(child.try_wait().expect("try"), Some(Exit::Code(3)));
    }

    #[test]
    fn a_killed_child_ended_by_that_signal() {
        let mut child = shell("while :; do :; done");
        assert_eq!(child.try_wait().expect("still running"), None);
        child.kill(Signal::KILL).expect("kill");
        assert_eq!(child.wait().expect("wait"), Exit::Signal(9));
    }

    #[test]
    fn the_end_of_another_process_s_child_is_seen() {
        let output =
            std::process::Command::new("/bin/sh").args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).output();
        let number = String::from_utf8(output.expect("run the shell").stdout).expect("a number");
        let pid = number.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it runs");
        let mut process = Child::new(pid, pidfd);
        assert_eq!(process.try_wait().expect("still running"), None);
        process.kill(Signal::KILL).expect("kill");
        assert_eq!(process.wait().expect("wait"), Exit::Unknown);
    }

    #[test]
    fn a_signal_after_the_end_does_nothing() {
        let mut child = shell("exit 0");
        child.wait().expect("wait");
        child.kill(Signal::TERM).expect("no error");
    }

    #[test]
    fn the_descriptor_is_readable_when_the_child_has_ended() {
        let mut child = shell("exit 5");
        let mut fds = [rustix::event::PollFd::new(&child, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).expect("poll");
        assert_eq!(child.try_wait().expect("ended"), Some(Exit::Code(5)));
    }
}
