//! A disk that is one file or block device as it is: each request is an operation of the engine, or to clear a range several,
//! one after the other. Requests have the numbers of the engine's slots.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use sys::guest_io::{Buffers, Extent, GuestMemory};
use sys::ring::{Job, Operation};

use super::back_end::{Begun, Ended, Failed, Why, Work};
use super::clearing::{Clearing, Host, Next};
use super::engine::{Done, Engine};

/// A file or block device.
pub struct Raw {
    file: OwnedFd,
    pub(super) engine: Engine,
    /// What the file can do beside reads and writes.
    pub(super) host: Host,
    /// By slot.
    under_way: Vec<Option<UnderWay>>,
    done: Vec<Done>,
}

/// What the engine has of a request.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    operation: Operation,
    /// More may follow, if it clears a range.
    clearing: Option<Clearing>,
}

impl Raw {
    /// A disk on `file`; `engine` transfers to and from the same, by so many slots.
    pub fn new(file: OwnedFd, engine: Engine, slots: u16) -> Raw {
        let host = Host::default();
        let under_way = vec![None; usize::from(slots)];
        Raw { file, engine, host, under_way, done: Vec::with_capacity(usize::from(slots)) }
    }

    /// Begins a request; nothing is under way by its number.
    pub fn begin(&mut self, slot: u16, work: Work, memory: &Arc<GuestMemory>, extents: &[Extent]) -> Begun {
        let (operation, at) = match work {
            Work::Read { offset, .. } => (Operation::Read, offset),
            Work::Write { offset, durable, .. } => (Operation::Write { durable }, offset),
            Work::Flush => (Operation::Sync, 0),
            Work::Clear { how, range, durable } => return self.clear(slot, Clearing::new(how, range, durable)),
        };
        let buffers = if operation == Operation::Sync { Buffers::None } else { Buffers::Guest(memory, extents) };
        match self.engine.start(slot, Job { file: 0, operation, at, buffers }) {
            Ok(()) => self.is_under_way(slot, operation, None),
            Err(_) => Begun::Refused,
        }
    }

    fn clear(&mut self, slot: u16, mut clearing: Clearing) -> Begun {
        match clearing.first(self.host) {
            next @ Next::Do { operation, .. } if self.step(slot, next) => {
                self.is_under_way(slot, operation, Some(clearing))
            }
            Next::Do { .. } => Begun::Refused,
            Next::Done | Next::Failed => Begun::Done,
        }
    }

    fn is_under_way(&mut self, slot: u16, operation: Operation, clearing: Option<Clearing>) -> Begun {
        if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
            *place = Some(UnderWay { operation, clearing });
        }
        Begun::UnderWay
    }

    /// Begins the next operation that clears a range; false where nothing is left to begin or the engine refuses it.
    fn step(&mut self, slot: u16, next: Next) -> bool {
        next.job(0).is_some_and(|job| self.engine.start(slot, job).is_ok())
    }

    /// Hands what was begun to the host, and appends what has ended.
    pub fn turn(&mut self, ended: &mut Vec<Ended>) -> io::Result<()> {
        self.engine.submit()?;
        let mut done = std::mem::take(&mut self.done);
        self.engine.completed(&mut done);
        for (slot, result) in done.drain(..) {
            let was = self.under_way.get_mut(usize::from(slot)).and_then(Option::take);
            if let Some(result) = was.and_then(|was| self.ended(slot, was, result)) {
                ended.push((slot, result));
            }
        }
        self.done = done;
        self.engine.submit() // what was transferred in part goes on
    }

    /// How a request has ended when its operation has, or none where more is under way for it.
    fn ended(&mut self, slot: u16, was: UnderWay, result: io::Result<()>) -> Option<Result<(), Failed>> {
        let failed = |error| Failed { lost: loses(was.operation, &error), why: Why::Host(error) };
        let Some(mut clearing) = was.clearing else { return Some(result.map_err(failed)) };
        let next = clearing.after(&result, &mut self.host);
        match next {
            Next::Done => Some(Ok(())),
            Next::Failed => Some(result.map_err(failed)),
            Next::Do { operation, .. } if self.step(slot, next) => {
                self.is_under_way(slot, operation, Some(clearing));
                None
            }
            Next::Do { .. } => Some(Err(failed(io::ErrorKind::InvalidInput.into()))),
        }
    }

    /// Brings all that was answered to the medium.
    pub fn finish(&mut self) -> io::Result<()> {
        rustix::fs::fdatasync(self.file.as_fd()).map_err(io::Error::from)
    }
}

/// Whether what was answered before is lost when an operation fails so. A write-back error is told once by the kernel; what it
/// lost stays lost (openbsd/devices.md, 3.4).
fn loses(operation: Operation, error: &io::Error) -> bool {
    match operation {
        Operation::Sync => true,
        // A full disk took nothing, and says so each time.
        Operation::Write { durable: true } => !is_full(error),
        Operation::Write { durable: false } | Operation::Read | Operation::Punch { .. } | Operation::Zero { .. } => {
            false
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_lost_with_a_flush_or_a_durable_write() {
        const FULL: i32 = 28;
        const IO: i32 = 5;
        let (durable, later) = (Operation::Write { durable: true }, Operation::Write { durable: false });
        for (operation, errno, lost) in [
            (Operation::Sync, IO, true),
            (Operation::Sync, FULL, true),
            (durable, IO, true),
            (durable, FULL, false),
            (later, IO, false),
            (Operation::Read, IO, false),
            (Operation::Punch { len: 1 }, IO, false),
            (Operation::Zero { len: 1 }, IO, false),
        ] {
            assert_eq!(loses(operation, &io::Error::from_raw_os_error(errno)), lost, "{operation:?}, {errno}");
        }
    }
}
