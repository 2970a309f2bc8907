//! Where the transfers of a disk are done: on a ring, or one after the other where the host has or allows no rings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::plain::Plain;
use sys::ring::{Job, Ring};

/// A slot's number and how its operation ended.
pub type Done = (u16, io::Result<()>);

/// Carries out operations by slot.
pub enum Engine {
    /// Many at a time.
    Ring(Box<Ring>),
    /// At once, in place; what is done waits to be asked for, and so do bytes that were transferred.
    Plain(Plain, Vec<Done>, Vec<(u16, Vec<u8>)>),
}

impl Engine {
    /// A ring if the host has one for us. `lives` is open for as long as anything of it may be under way.
    pub fn new(file: OwnedFd, slots: u16, lives: Option<OwnedFd>) -> Engine {
        Engine::of(vec![file], slots, lives)
    }

    /// The same for several files.
    pub fn of(files: Vec<OwnedFd>, slots: u16, lives: Option<OwnedFd>) -> Engine {
        let all: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        match Ring::new(slots, &all, lives.as_ref().map(AsFd::as_fd)) {
            Ok(ring) => Engine::Ring(Box::new(ring)),
            Err(why) => {
                log::debug!("no io_uring ({why}): plain reads and writes");
                Engine::plain_of(files, slots)
            }
        }
    }

    /// Without a ring.
    pub fn plain(file: OwnedFd, slots: u16) -> Engine {
        Engine::plain_of(vec![file], slots)
    }

    /// The same for several files.
    pub fn plain_of(files: Vec<OwnedFd>, slots: u16) -> Engine {
        Engine::Plain(Plain::new(files), Vec::with_capacity(usize::from(slots)), Vec::new())
    }

    /// Begins an operation in a free slot.
    pub fn start(&mut self, slot: u16, job: Job<'_>) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.start(slot, job),
            Engine::Plain(plain, done, bytes) => {
                done.push((slot, plain.perform(job)));
                bytes.extend(plain.bytes().map(|of| (slot, of)));
                Ok(())
            }
        }
    }

    /// Hands what was begun to the host.
    pub fn submit(&mut self) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.submit(),
            Engine::Plain(..) => Ok(()),
        }
    }

    /// Whether the host had no room for all of it: submit again soon.
    pub fn unsubmitted(&self) -> bool {
        matches!(self, Engine::Ring(ring) if ring.unsubmitted())
    }

    /// The bytes that the operation of a slot was given, once it has ended. They are to be asked for.
    pub fn bytes(&mut self, slot: u16) -> Option<Vec<u8>> {
        match self {
            Engine::Ring(ring) => ring.bytes(slot),
            Engine::Plain(_, _, bytes) => {
                let place = bytes.iter().position(|(of, _)| *of == slot)?;
                Some(bytes.swap_remove(place).1)
            }
        }
    }

    /// Whether something is done that no descriptor tells of: ask for it soon.
    pub fn has_done(&self) -> bool {
        matches!(self, Engine::Plain(_, done, _) if !done.is_empty())
    }

    /// Appends what is done.
    pub fn completed(&mut self, into: &mut Vec<Done>) {
        match self {
            Engine::Ring(ring) => ring.completed(into),
            Engine::Plain(_, done, _) => into.append(done),
        }
    }

    /// Waits until something is done, if anything is under way.
    pub fn wait(&mut self) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.wait(),
            Engine::Plain(..) => Ok(()),
        }
    }

    /// Readable when something is done that can't be asked for yet.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Engine::Ring(ring) if ring.in_flight() > 0 => Some(ring.as_fd()),
            Engine::Ring(_) | Engine::Plain(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use std::sync::Arc;

    use sys::guest_io::{Buffers, Extent, GuestMemory};
    use sys::ring::Operation;
    use vm_memory::GuestAddress;

    use super::*;

    const BYTE: &[Extent] = &[Extent { addr: GuestAddress(0), len: 1 }];

    fn memory() -> Arc<GuestMemory> {
        Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap())
    }

    fn read(engine: &mut Engine, slot: u16) {
        let buffers = Buffers::Guest(&memory(), BYTE);
        engine.start(slot, Job { file: 0, operation: Operation::Read, at: 0, buffers }).unwrap();
    }

    /// A ring on a socket, whose reads end when the other side has written.
    fn ring() -> (Engine, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let engine = Engine::new(ours.into(), 2, None);
        assert!(matches!(engine, Engine::Ring(_)), "this host gives no io_uring");
        (engine, theirs)
    }

    #[test]
    fn what_was_begun_is_unsubmitted_until_the_host_has_it() {
        let (mut engine, mut writer) = ring();
        assert!(!engine.unsubmitted());
        read(&mut engine, 0);
        assert!(engine.unsubmitted());
        engine.submit().unwrap();
        assert!(!engine.unsubmitted());
        writer.write_all(b"x").unwrap(); // the ring's drop waits for it
    }

    #[test]
    fn there_is_something_to_wait_for_while_an_operation_is_under_way() {
        let (mut engine, mut writer) = ring();
        assert!(engine.fd().is_none());
        read(&mut engine, 0);
        assert!(engine.fd().is_some());
        writer.write_all(b"x").unwrap();
        engine.wait().unwrap();
        engine.completed(&mut Vec::new());
        assert!(engine.fd().is_none());
    }

    #[test]
    fn a_wait_ends_when_something_is_done_and_not_before() {
        let (mut engine, mut writer) = ring();
        engine.wait().unwrap(); // nothing is under way
        read(&mut engine, 1);
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            writer.write_all(b"x").unwrap();
            writer
        });
        engine.wait().unwrap();
        let mut done = Vec::new();
        engine.completed(&mut done);
        assert!(matches!(done[..], [(1, Ok(()))]), "{done:?}");
        late.join().unwrap();
    }

    #[test]
    fn without_a_ring_all_is_done_at_once() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut engine = Engine::plain(ours.into(), 2);
        let sync = Job { file: 0, operation: Operation::Sync, at: 0, buffers: Buffers::None };
        assert!(!engine.has_done());
        engine.start(0, sync).unwrap();
        assert!(engine.has_done() && !engine.unsubmitted() && engine.fd().is_none());
        engine.wait().unwrap();
        let mut done = Vec::new();
        engine.completed(&mut done);
        assert_eq!(done.len(), 1);
    }
}
