//! Signals as events: blocked for the process, read one by one from a descriptor.
//!
//! Block before the first thread is made, since a new thread takes its maker's mask. `spawn` gives children none of it.

#![allow(unsafe_code)] // rustix has neither the signal mask nor signalfd

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that a process of ours may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Hangup = libc::SIGHUP,
    /// SIGINT.
    Interrupt = libc::SIGINT,
    /// SIGTERM.
    Terminate = libc::SIGTERM,
    /// SIGCHLD: a child has ended.
    Child = libc::SIGCHLD,
    /// SIGPIPE.
    Pipe = libc::SIGPIPE,
    /// SIGUSR1.
    User1 = libc::SIGUSR1,
    /// SIGWINCH: the terminal has another size.
    WindowChanged = libc::SIGWINCH,
}

impl Signal {
    const ALL: [Signal; 7] = [
        Signal::Hangup,
        Signal::Interrupt,
        Signal::Terminate,
        Signal::Child,
        Signal::Pipe,
        Signal::User1,
        Signal::WindowChanged,
    ];
}

/// A write beyond RLIMIT_FSIZE is an error alone; by SIGXFSZ's default action it would end the process.
pub fn outlive_the_file_size_limit() {
    // SAFETY: no handler is installed, and a signal that exists has an action that can be set.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// A descriptor that is readable when one of its signals is pending.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks these signals in the calling thread and those it will make, and opens the descriptor.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: `set` is a valid set; a null old set is allowed.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: -1 asks for a new descriptor; `set` is read only.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made this descriptor for this call, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal, or `None`; it never blocks. Several of one kind may come as one.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        loop {
            let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: the buffer is `size` bytes long, and the structure is plain numbers, valid for any bytes.
            let (got, info) = unsafe {
                let got = libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size);
                (got, info.assume_init())
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            return Ok(Signal::ALL.into_iter().find(|signal| *signal as u32 == info.ssi_signo));
        }
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set it is given; the numbers are valid signals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal as i32);
        }
        set
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{alone, fill_descriptors};
    use rustix::process::{Signal as Raw, getpid, kill_process};

    #[test]
    fn blocked_signals_are_read_and_kill_nobody() {
        alone("signals::tests::blocked_signals_are_read_and_kill_nobody", || {
            // The harness runs the test in a thread, and a process-wide signal goes to any that does not block it.
            let signals = Signals::block(&[Signal::Terminate, Signal::Child]).expect("block");
            assert_eq!(signals.next().expect("none yet"), None);
            // SAFETY: raises a signal that this thread blocks.
            unsafe { libc::raise(libc::SIGTERM) };
            assert_eq!(signals.next().expect("read"), Some(Signal::Terminate));
            assert_eq!(signals.next().expect("read"), None);
        });
    }

    #[test]
    fn a_signal_that_is_not_blocked_keeps_its_action() {
        alone("signals::tests::a_signal_that_is_not_blocked_keeps_its_action", || {
            let signals = Signals::block(&[Signal::Hangup]).expect("block");
            kill_process(getpid(), Raw::WINCH).expect("ignored by default");
            assert_eq!(signals.next().expect("read"), None);
        });
    }

    #[test]
    fn full_descriptor_table_is_an_error() {
        alone("signals::tests::full_descriptor_table_is_an_error", || {
            let _held = fill_descriptors(0);
            assert!(Signals::block(&[Signal::User1]).is_err());
        });
    }
}
