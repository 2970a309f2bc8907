//! A small event loop over epoll: descriptors, each known by a token of the caller's.
//!
//! A role's edge owns one `Loop`, and turns what it gives into events of its machine. The loop does
//! not own descriptors: remove one before it is closed. A token names a thing (this VM's channel), never a descriptor
//! number, so that what a batch still says of something just ended is recognised as late.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Most events one `wait` returns; the rest are told by the next. Bounds the work between two looks at the clock.
const MAX_EVENTS: usize = 64;

/// What to be told about a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable, or the peer is gone.
    Read,
    /// Readable or writable, or the peer is gone; while output is queued.
    ReadWrite,
    /// Writable, or the peer is gone.
    Write,
    /// Only that the peer is gone. A receiver that is behind uses it to stop reading without losing the end.
    Hangup,
}

impl Interest {
    /// In what is to be read, what is to be written, or neither.
    pub fn of(reads: bool, writes: bool) -> Self {
        match (reads, writes) {
            (true, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::Hangup,
        }
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready<T> {
    /// The token it was added with.
    pub token: T,
    /// A read will not block (it may tell the end or an error).
    pub readable: bool,
    /// A write will not block.
    pub writable: bool,
    /// The peer closed its end, or the descriptor has an error. What it sent before can still be read.
    pub hangup: bool,
}

/// The loop's descriptors. `T` is cheap and names the thing behind each.
#[derive(Debug)]
pub struct Loop<T> {
    epoll: OwnedFd,
    by_fd: BTreeMap<RawFd, u64>,
    tokens: BTreeMap<u64, T>,
    next: u64,
}

impl<T: Copy> Loop<T> {
    /// An empty loop; fails when no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, by_fd: BTreeMap::new(), tokens: BTreeMap::new(), next: 0 })
    }

    /// Adds a descriptor. One whose number was forgotten by closing may be added again; a live one is an error.
    pub fn add(&mut self, fd: impl AsFd, token: T, interest: Interest) -> io::Result<()> {
        let serial = self.next;
        epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(serial), flags(interest))?;
        self.next += 1;
        if let Some(stale) = self.by_fd.insert(fd.as_fd().as_raw_fd(), serial) {
            self.tokens.remove(&stale);
        }
        self.tokens.insert(serial, token);
        Ok(())
    }

    /// Changes what to be told about a descriptor that was added.
    pub fn change(&mut self, fd: impl AsFd, interest: Interest) -> io::Result<()> {
        let serial = *self.by_fd.get(&fd.as_fd().as_raw_fd()).ok_or(Errno::NOENT)?;
        Ok(epoll::modify(&self.epoll, &fd, epoll::EventData::new_u64(serial), flags(interest))?)
    }

    /// Forgets a descriptor; one that was not added is no error.
    pub fn remove(&mut self, fd: impl AsFd) {
        if let Some(serial) = self.by_fd.remove(&fd.as_fd().as_raw_fd()) {
            self.tokens.remove(&serial);
            // It can only fail for a descriptor that the kernel has forgotten already.
            let _ = epoll::delete(&self.epoll, &fd);
        }
    }

    /// Waits until something is ready or the deadline has passed; then, and after a signal, the answer may be empty.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Ready<T>>> {
        let timeout = deadline.map(|at| crate::clock::until(at, Instant::now()));
        self.wait_for(timeout.as_ref())
    }

    fn wait_for(&mut self, timeout: Option<&Timespec>) -> io::Result<Vec<Ready<T>>> {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); MAX_EVENTS];
        let (events, _) = match epoll::wait(&self.epoll, &mut buffer, timeout) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        Ok(events.iter().filter_map(|event| self.ready(event)).collect())
    }

    fn ready(&self, event: &epoll::Event) -> Option<Ready<T>> {
        let (data, flags) = (event.data, event.flags);
        let token = *self.tokens.get(&data.u64())?;
        let hangup = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP);
        Some(Ready {
            token,
            readable: flags.contains(epoll::EventFlags::IN),
            writable: flags.contains(epoll::EventFlags::OUT),
            hangup,
        })
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    use epoll::EventFlags as F;
    match interest {
        Interest::Read => F::IN | F::RDHUP,
        Interest::ReadWrite => F::IN | F::OUT | F::RDHUP,
        Interest::Write => F::OUT | F::RDHUP,
        Interest::Hangup => F::RDHUP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{alone, fill_descriptors};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Token {
        Left,
        Right,
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn readable_descriptor_is_told_by_its_token() {
        let (left, mut right) = UnixStream::pair().expect("pair");
        let mut events = Loop::new().expect("loop");
        events.add(&left, Token::Left, Interest::Read).expect("add");
        events.add(&right, Token::Right, Interest::Read).expect("add");
        right.write_all(b"x").expect("write");
        let ready = events.wait(None).expect("wait");
        assert_eq!(ready, [Ready { token: Token::Left, readable: true, writable: false, hangup: false }]);
    }

    #[test]
    fn a_gone_peer_is_a_hangup_even_when_only_that_is_asked() {
        let (left, right) = UnixStream::pair().expect("pair");
        let mut events = Loop::new().expect("loop");
        events.add(&left, Token::Left, Interest::Hangup).expect("add");
        drop(right);
        let ready = events.wait(None).expect("wait");
        assert!(matches!(ready.as_slice(), [Ready { hangup: true, .. }]), "{ready:?}");
    }

    #[test]
    fn deadline_passes_with_an_empty_answer_and_not_early() {
        let mut events = Loop::<Token>::new().expect("loop");
        let deadline = Instant::now() + Duration::from_millis(3);
        assert_eq!(events.wait(Some(deadline)).expect("wait"), []);
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn removed_descriptor_is_told_no_more_and_change_of_it_fails() {
        let (left, mut right) = UnixStream::pair().expect("pair");
        let mut events = Loop::new().expect("loop");
        events.add(&left, Token::Left, Interest::Read).expect("add");
        right.write_all(b"x").expect("write");
        events.remove(&left);
        assert_eq!(events.wait(soon()).expect("wait"), []);
        assert!(events.change(&left, Interest::Write).is_err());
        assert!(events.tokens.is_empty());
    }

    #[test]
    fn number_used_again_has_the_new_token_alone() {
        let (left, right) = UnixStream::pair().expect("pair");
        let mut events = Loop::new().expect("loop");
        events.add(&left, Token::Left, Interest::Read).expect("add");
        let number = left.as_raw_fd();
        drop(left); // closed without `remove`, as must not be, and yet
        let again = rustix::io::fcntl_dupfd_cloexec(&right, number).expect("dup");
        if again.as_raw_fd() == number {
            events.add(&again, Token::Right, Interest::Read).expect("add");
            assert_eq!(events.tokens.len(), 1);
        }
    }

    #[test]
    fn write_interest_is_told_and_can_be_switched_off() {
        let (left, _right) = UnixStream::pair().expect("pair");
        let mut events = Loop::new().expect("loop");
        events.add(&left, Token::Left, Interest::ReadWrite).expect("add");
        assert!(matches!(events.wait(None).expect("wait").as_slice(), [Ready { writable: true, .. }]));
        events.change(&left, Interest::Read).expect("change");
        assert_eq!(events.wait(soon()).expect("wait"), []);
    }

    #[test]
    fn full_descriptor_table_is_an_error() {
        alone("event::tests::full_descriptor_table_is_an_error", || {
            let _held = fill_descriptors(0);
            assert!(Loop::<Token>::new().is_err());
        });
    }
}
