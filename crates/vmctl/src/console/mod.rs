//! A VM's console on this terminal: bytes both ways until the user leaves or the VM ends (openbsd/vmctl.md, 9).
//!
//! `escape` decides what typed bytes mean; `relay` moves them; `terminal` makes the user's terminal raw and gives it
//! back as it was, whichever way this ends.

mod escape;
mod relay;
mod terminal;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use sys::signals::{Signal, Signals};

use proto::failure::plain;
pub use relay::End;
use relay::relay;
use terminal::Raw;

/// Why there was no console, or why it ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The device could not be opened.
    #[error("failed to open the console: {}: {}{}", .0.display(), plain(.1), open_hint(.1))]
    Open(PathBuf, io::Error),
    /// Somebody else is on it.
    #[error("failed to open the console: {}: another vmctl console is open on it", .0.display())]
    Busy(PathBuf),
    /// Bytes could not be moved.
    #[error("console: {}", plain(.0))]
    Io(#[from] io::Error),
    /// A signal asked this process to end.
    #[error("console: ended by a signal")]
    Signal,
}

fn open_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; \"owner\" in vm.conf says whose console it is",
        _ => "",
    }
}

/// Relays between the device and standard input and output until one of them ends or the user types `~.`.
pub fn attach(device: &Path) -> Result<End, ConsoleError> {
    let console = open(device)?;
    // Blocked, these do not end the process while the terminal is raw; they are read and end it in order.
    let signals = [Signal::Terminate, Signal::Hangup, Signal::Interrupt, Signal::WindowChanged];
    let signals = Signals::block(&signals)?;
    let (input, output) = (io::stdin(), io::stdout());
    let end = {
        let _raw = Raw::enter(input.as_fd(), device)?;
        relay(console, input.as_fd(), output.as_fd(), &signals)?
    };
    match end {
        End::Left | End::Closed => Ok(end),
        End::Signal => Err(ConsoleError::Signal),
    }
}

/// Opens the device for us alone: the lock is what cu's line lock is.
fn open(device: &Path) -> Result<OwnedFd, ConsoleError> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let console = rustix::fs::open(device, flags, Mode::empty())
        .map_err(|error| ConsoleError::Open(device.to_owned(), error.into()))?;
    match rustix::fs::flock(&console, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(console),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ConsoleError::Busy(device.to_owned())),
        Err(error) => Err(ConsoleError::Open(device.to_owned(), error.into())),
    }
}
