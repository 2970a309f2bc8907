//! The console: bytes between the serial port's bounded rings and the master of a pty. Never waits for its reader.
//!
//! A pty that is full stops the output here and then in the serial port's ring, which drops and counts: the guest goes on.
//! When nobody has the slave open (vmd keeps one, so that should not be) the master hangs up: it is left alone for a while.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sys::event::Interest;

/// Bytes moved at once, either way: the FIFO's 16 several times, little enough for a small stack.
const PIECE: usize = 512;
/// Pieces moved in one go at most, either way: twice what the serial port's ring holds, so that one go empties it at the end.
/// Without a limit a guest that writes as fast as its console is read would keep the event loop from everything else.
const MAX_PIECES: usize = 2 * hw::uart::MAX_OUTPUT / PIECE;
/// How long a pty that hung up is left alone.
const HANGUP_PAUSE: Duration = Duration::from_secs(1);

/// The serial port's side.
pub trait Serial {
    /// Takes output of the guest; 0 when there is none.
    fn output(&self, into: &mut [u8]) -> usize;
    /// Gives the guest input; the number of bytes that it took.
    fn input(&self, bytes: &[u8]) -> usize;
}

/// A piece of bytes that are on their way, and how many of them are.
struct Piece {
    bytes: [u8; PIECE],
    start: usize,
    end: usize,
}

impl Piece {
    const EMPTY: Self = Self { bytes: [0; PIECE], start: 0, end: 0 };

    fn left(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    fn is_empty(&self) -> bool {
        self.left().is_empty()
    }

    /// So many bytes were put in.
    fn holds(&mut self, len: usize) {
        (self.start, self.end) = (0, len.min(PIECE));
    }

    fn advance(&mut self, by: usize) {
        self.start = self.start.saturating_add(by).min(self.end);
    }
}

/// The pty's side.
pub struct Console {
    pty: OwnedFd,
    to_pty: Piece,
    to_guest: Piece,
    full: bool,
    /// There may be more to move at once.
    more: bool,
    quiet_until: Option<Instant>,
}

impl Console {
    /// Takes the master, which the parent has made non-blocking.
    pub fn new(pty: OwnedFd) -> std::io::Result<Self> {
        sys::waits::never(&pty)?;
        Ok(Self { pty, to_pty: Piece::EMPTY, to_guest: Piece::EMPTY, full: false, more: false, quiet_until: None })
    }

    /// Moves what can be moved. To be called after news of the serial port or of the pty, and at [`Console::deadline`].
    pub fn pump(&mut self, serial: &dyn Serial, now: Instant) {
        if self.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        self.quiet_until = None;
        self.more = false;
        let moved = self.pump_out(serial).and_then(|()| self.pump_in(serial));
        if moved.is_err() {
            self.quiet_until = Some(now + HANGUP_PAUSE);
        }
    }

    /// When to pump again though nothing happened; `now`, if there was more than one go moves.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.quiet_until.or(self.more.then_some(now))
    }

    /// What to wait for; `None` while the pty is left alone. Without room for input only writing matters.
    pub fn interest(&self) -> Option<Interest> {
        match (self.quiet_until, self.to_guest.is_empty(), self.full) {
            (Some(_), _, _) | (None, false, false) => None,
            (None, true, false) => Some(Interest::Read),
            (None, true, true) => Some(Interest::ReadWrite),
            (None, false, true) => Some(Interest::Write),
        }
    }

    fn pump_out(&mut self, serial: &dyn Serial) -> Result<(), Errno> {
        for _ in 0..MAX_PIECES {
            if self.to_pty.is_empty() {
                let len = serial.output(&mut self.to_pty.bytes);
                self.to_pty.holds(len);
            }
            if self.to_pty.is_empty() {
                self.full = false;
                return Ok(());
            }
            match rustix::io::write(&self.pty, self.to_pty.left()) {
                Ok(written) => self.to_pty.advance(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.full = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.more = true;
        Ok(())
    }

    fn pump_in(&mut self, serial: &dyn Serial) -> Result<(), Errno> {
        for _ in 0..MAX_PIECES {
            if !self.to_guest.is_empty() {
                let taken = serial.input(self.to_guest.left());
                self.to_guest.advance(taken);
            }
            if !self.to_guest.is_empty() {
                return Ok(());
            }
            match rustix::io::read(&self.pty, &mut self.to_guest.bytes) {
                // A pty has no end of file; a pipe in its place has.
                Ok(0) => return Err(Errno::IO),
                Ok(read) => self.to_guest.holds(read),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.more = true;
        Ok(())
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pty.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[derive(Default)]
    struct Port {
        output: RefCell<Vec<u8>>,
        input: RefCell<Vec<u8>>,
        room: RefCell<usize>,
    }

    impl Serial for Port {
        fn output(&self, into: &mut [u8]) -> usize {
            let mut output = self.output.borrow_mut();
            let count = into.len().min(output.len());
            into[..count].copy_from_slice(&output[..count]);
            output.drain(..count);
            count
        }
        fn input(&self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(*self.room.borrow());
            *self.room.borrow_mut() -= count;
            self.input.borrow_mut().extend(&bytes[..count]);
            count
        }
    }

    fn console() -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Console::new(ours.into()).unwrap(), theirs)
    }

    #[test]
    fn output_arrives_whole_and_in_order() {
        let (mut console, mut reader) = console();
        let port = Port::default();
        let text: Vec<u8> = (0..2000u32).map(|byte| byte as u8).collect();
        port.output.borrow_mut().extend(&text);
        console.pump(&port, Instant::now());
        let mut got = vec![0; text.len()];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got, text);
        assert_eq!(console.interest(), Some(Interest::Read));
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let (mut console, mut reader) = console();
        let port = Port::default();
        let total = 4 << 20;
        port.output.borrow_mut().resize(total, b'x');
        let now = Instant::now();
        console.pump(&port, now);
        while console.deadline(now).is_some() {
            console.pump(&port, now);
        }
        assert_eq!(console.interest(), Some(Interest::ReadWrite));
        assert!(!port.output.borrow().is_empty());
        let mut got = 0;
        while got < total {
            let mut part = vec![0; 1 << 16];
            got += reader.read(&mut part).unwrap();
            console.pump(&port, Instant::now());
        }
        assert_eq!((got, console.interest()), (total, Some(Interest::Read)));
    }

    #[test]
    fn input_waits_until_the_guest_takes_it() {
        let (mut console, mut writer) = console();
        let port = Port::default();
        *port.room.borrow_mut() = 3;
        writer.write_all(b"hello").unwrap();
        console.pump(&port, Instant::now());
        assert_eq!(port.input.borrow()[..], b"hel"[..]);
        assert_eq!(console.interest(), None);
        *port.room.borrow_mut() = 16;
        console.pump(&port, Instant::now());
        assert_eq!(port.input.borrow()[..], b"hello"[..]);
        assert_eq!(console.interest(), Some(Interest::Read));
    }

    #[test]
    fn a_pty_that_hung_up_is_left_alone_for_a_while() {
        let (mut console, writer) = console();
        drop(writer);
        let now = Instant::now();
        console.pump(&Port::default(), now);
        assert_eq!((console.interest(), console.deadline(now)), (None, Some(now + HANGUP_PAUSE)));
        console.pump(&Port::default(), now + HANGUP_PAUSE / 2);
        assert_eq!(console.deadline(now), Some(now + HANGUP_PAUSE));
    }

    #[test]
    fn output_to_nobody_does_not_end_the_vm() {
        let (mut console, writer) = console();
        drop(writer);
        let port = Port::default();
        port.output.borrow_mut().extend(b"lost");
        console.pump(&port, Instant::now());
        assert!(console.deadline(Instant::now()).is_some());
    }

    /// A guest that writes and reads faster than anyone can move it.
    #[derive(Default)]
    struct Endless(RefCell<usize>);

    impl Endless {
        fn again(&self) {
            *self.0.borrow_mut() += 1;
            assert!(*self.0.borrow() < 10_000, "the loop came to nothing else");
        }
    }

    impl Serial for Endless {
        fn output(&self, into: &mut [u8]) -> usize {
            self.again();
            into.len()
        }
        fn input(&self, bytes: &[u8]) -> usize {
            self.again();
            bytes.len()
        }
    }

    #[test]
    fn a_console_without_end_leaves_the_loop_its_turn() {
        let zeros = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let mut console = Console::new(zeros.into()).unwrap();
        let now = Instant::now();
        console.pump(&Endless::default(), now);
        assert_eq!(console.deadline(now), Some(now), "and it goes on at once");
    }
}
