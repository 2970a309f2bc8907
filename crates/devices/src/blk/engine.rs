//! Where the transfers of a disk are done: on a ring, or one after the other where the host has or allows no rings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use sys::guest_io::{Extent, GuestMemory};
use sys::plain::Plain;
use sys::ring::{Operation, Ring};

/// A slot's number and how its operation ended.
pub type Done = (u16, io::Result<()>);

/// Carries out operations by slot.
pub enum Engine {
    /// Many at a time.
    Ring(Box<Ring>),
    /// At once, in place; what is done waits to be asked for.
    Plain(Plain, Vec<Done>),
}

impl Engine {
    /// A ring if the host has one for us.
    pub fn new(file: OwnedFd, slots: u16) -> Engine {
        match Ring::new(slots, file.as_fd()) {
            Ok(ring) => Engine::Ring(Box::new(ring)),
            Err(why) => {
                log::debug!("no io_uring ({why}): plain reads and writes");
                Engine::plain(file, slots)
            }
        }
    }

    /// Without a ring.
    pub fn plain(file: OwnedFd, slots: u16) -> Engine {
        Engine::Plain(Plain::new(file), Vec::with_capacity(usize::from(slots)))
    }

    /// Begins an operation in a free slot.
    pub fn start(
        &mut self,
        slot: u16,
        operation: Operation,
        memory: &Arc<GuestMemory>,
        extents: &[Extent],
        offset: u64,
    ) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.start(slot, operation, memory, extents, offset),
            Engine::Plain(plain, done) => {
                done.push((slot, plain.perform(operation, memory, extents, offset)));
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

    /// Appends what is done.
    pub fn completed(&mut self, into: &mut Vec<Done>) {
        match self {
            Engine::Ring(ring) => ring.completed(into),
            Engine::Plain(_, done) => into.append(done),
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
