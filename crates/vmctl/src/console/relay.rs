//! Moves bytes between a console and standard input and output. Waits for all of them at once; a guest that does not
//! read holds up nothing but what is typed to it.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use sys::signals::{Signal, Signals};

use super::escape::{Escapes, Meaning};

/// Bytes typed that the guest has not read. Beyond that a terminal's are dropped, so that `~.` is still seen; a
/// file's are left unread until there is room.
const MAX_UNREAD: usize = 64 * 1024;

/// Bytes moved at a time.
const CHUNK: usize = 4096;

/// What `~#` says.
const NO_BREAK: &str = "\r\nvmctl: no break was sent: this console is a pty, which carries none on Linux\r\n";

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The user typed `~.`, or nobody reads our output any more.
    Left,
    /// The console is gone: the VM ended.
    Closed,
    /// A signal asked us to end.
    Signal,
}

struct Relay<'a> {
    console: OwnedFd,
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    escapes: Escapes,
    /// What the guest has not read yet.
    unread: Vec<u8>,
    /// Whether more may come from the input.
    typing: bool,
    /// Whether the input is a terminal.
    terminal: bool,
}

/// Relays until one side ends. If the input is not a terminal, its end does not end the relay: output goes on.
pub fn relay(console: OwnedFd, input: BorrowedFd<'_>, output: BorrowedFd<'_>, signals: &Signals) -> io::Result<End> {
    let terminal = input.is_terminal();
    let mut relay =
        Relay { console, input, output, escapes: Escapes::new(), unread: Vec::new(), typing: true, terminal };
    relay.resize();
    loop {
        let ready = relay.wait(signals)?;
        if ready.signal {
            if let Some(end) = relay.signals(signals)? {
                return Ok(end);
            }
        }
        let step = match ready {
            Ready { output: true, .. } => relay.show()?,
            Ready { room: true, .. } => relay.pass()?,
            Ready { input: true, .. } => relay.type_in()?,
            _ => None,
        };
        if let Some(end) = step {
            return Ok(end);
        }
    }
}

/// What can be done without waiting.
struct Ready {
    /// The console has output, or is gone.
    output: bool,
    /// The console takes input.
    room: bool,
    /// Something was typed, or the input ended.
    input: bool,
    signal: bool,
}

impl Relay<'_> {
    fn wait(&self, signals: &Signals) -> io::Result<Ready> {
        let full = !self.terminal && self.unread.len() >= MAX_UNREAD;
        let reading = if self.typing && !full { PollFlags::IN } else { PollFlags::empty() };
        let writing = if self.unread.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let input = if self.typing { self.input } else { signals.as_fd() };
        let mut fds = [
            PollFd::new(&self.console, PollFlags::IN | writing),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(input, reading),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [console, signal, input] = &fds;
        let gone = PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            output: console.revents().intersects(PollFlags::IN | gone),
            room: console.revents().contains(PollFlags::OUT),
            input: self.typing && !full && input.revents().intersects(PollFlags::IN | gone),
            signal: signal.revents().contains(PollFlags::IN),
        })
    }

    fn signals(&self, signals: &Signals) -> io::Result<Option<End>> {
        while let Some(signal) = signals.next()? {
            match signal {
                Signal::WindowChanged => self.resize(),
                _ => return Ok(Some(End::Signal)),
            }
        }
        Ok(None)
    }

    /// Gives the console the size of the user's terminal. One that takes none is used as it is.
    fn resize(&self) {
        if let Ok((rows, columns)) = sys::pty::window_size(self.input) {
            let _ = sys::pty::set_window_size(&self.console, rows, columns);
        }
    }

    /// Shows the console's output.
    fn show(&mut self) -> io::Result<Option<End>> {
        let mut bytes = [0; CHUNK];
        match rustix::io::read(&self.console, &mut bytes) {
            // A pty whose master is closed says EIO.
            Ok(0) | Err(Errno::IO) => Ok(Some(End::Closed)),
            Ok(count) => self.write_out(bytes.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write_out(&self, mut bytes: &[u8]) -> io::Result<Option<End>> {
        while !bytes.is_empty() {
            match rustix::io::write(self.output, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Somebody made our output non-blocking; it is theirs as much as ours.
                    rustix::event::poll(&mut [PollFd::new(&self.output, PollFlags::OUT)], None)?;
                }
                Err(Errno::PIPE) => return Ok(Some(End::Left)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Gives the guest what it takes now.
    fn pass(&mut self) -> io::Result<Option<End>> {
        match rustix::io::write(&self.console, &self.unread) {
            Ok(count) => drop(self.unread.drain(..count.min(self.unread.len()))),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::IO) => return Ok(Some(End::Closed)),
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }

    /// Reads what was typed and does what it means.
    fn type_in(&mut self) -> io::Result<Option<End>> {
        let mut bytes = [0; CHUNK];
        let count = match rustix::io::read(self.input, &mut bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            // The terminal hung up.
            Err(Errno::IO) if self.terminal => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            self.typing = false;
            self.unread.extend(self.escapes.rest().unwrap_or_default());
            return Ok(self.terminal.then_some(End::Left));
        }
        for meaning in self.escapes.read(bytes.get(..count).unwrap_or_default()) {
            match meaning {
                Meaning::Send(bytes) if self.unread.len() < MAX_UNREAD => self.unread.extend(bytes),
                Meaning::Send(_) => {}
                Meaning::Break => tell_of_no_break(),
                Meaning::Leave => {
                    // What was typed before still goes, as far as the guest takes it.
                    self.pass()?;
                    return Ok(Some(End::Left));
                }
            }
        }
        Ok(None)
    }
}

/// Linux takes a break at a pty's slave without an error, and the master, where the guest is, sees none of it. The
/// terminal is raw: a line ends in both characters.
fn tell_of_no_break() {
    let _ = io::stderr().write_all(NO_BREAK.as_bytes());
}

#[cfg(test)]
mod tests;
