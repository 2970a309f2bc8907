//! io_uring for one file: reads, writes and syncs of guest memory, many at a time.
//!
//! The ring starts disabled, is bound to the operations and the one registered file below, and is then enabled; after
//! that no `io_uring_register` is needed, so seccomp can deny it (docs/roles.md). Guest memory and vectors are held here
//! until the kernel has completed. Used by block devices; without rings they use [`crate::plain`].
#![allow(unsafe_code)] // submission entries carry raw pointers

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};

use crate::guest_io::{Extent, GuestMemory, Vectors};

/// Threads that the kernel may start for this ring, of each of its two kinds; they count in the cgroup's pids.max.
const MAX_KERNEL_WORKERS: u32 = 4;

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the file to guest memory.
    Read,
    /// From guest memory to the file; `durable` returns only when it has reached the medium.
    Write {
        /// As by O_DSYNC.
        durable: bool,
    },
    /// fdatasync(2).
    Sync,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write { .. } => "write",
            Operation::Sync => "flush",
        })
    }
}

/// A ring, bound to one file, with a fixed number of slots; each slot carries one operation at a time.
pub struct Ring {
    uring: IoUring,
    slots: Vec<Slot>,
    in_flight: usize,
    /// Entries that the kernel has not taken yet.
    unsubmitted: bool,
}

#[derive(Default)]
struct Slot {
    operation: Option<Operation>,
    vectors: Vectors,
    offset: u64,
}

impl Ring {
    /// Makes a ring of `slots` for `file`. `Unsupported` or `PermissionDenied` where the host has or allows none.
    pub fn new(slots: u16, file: BorrowedFd<'_>) -> io::Result<Ring> {
        let uring = IoUring::builder().setup_r_disabled().build(u32::from(slots.max(1)))?;
        let submitter = uring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        // Older kernels (before 5.15) do not know the limit; there RLIMIT_NPROC and pids.max alone bound the workers.
        let _ = submitter.register_iowq_max_workers(&mut [MAX_KERNEL_WORKERS; 2]);
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
            Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        // A ring answers EAGAIN for a file that is marked non-blocking, where read(2) of a disk would wait.
        crate::waits::always(file)?;
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Ok(Ring { uring, slots, in_flight: 0, unsubmitted: false })
    }

    /// Queues an operation in a free slot; [`submit`](Self::submit) starts it. `InvalidInput` for an extent outside
    /// guest memory or a slot that does not exist, `ResourceBusy` for one in use.
    pub fn start(
        &mut self,
        slot: u16,
        operation: Operation,
        memory: &Arc<GuestMemory>,
        extents: &[Extent],
        offset: u64,
    ) -> io::Result<()> {
        let place = self.slots.get_mut(usize::from(slot)).ok_or(io::ErrorKind::InvalidInput)?;
        if place.operation.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        place.vectors.fill(memory, extents).map_err(|outside| io::Error::new(io::ErrorKind::InvalidInput, outside))?;
        (place.operation, place.offset) = (Some(operation), offset);
        self.in_flight += 1;
        self.push(slot);
        Ok(())
    }

    /// Hands what is queued to the kernel. Where it has no room now the entries stay: see [`unsubmitted`](Self::unsubmitted).
    pub fn submit(&mut self) -> io::Result<()> {
        if !self.unsubmitted {
            return Ok(());
        }
        match self.uring.submit() {
            Ok(_) => {
                self.unsubmitted = !self.uring.submission().is_empty();
                Ok(())
            }
            Err(error) if is_temporary(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether [`submit`](Self::submit) must be called again soon.
    pub fn unsubmitted(&self) -> bool {
        self.unsubmitted
    }

    /// Operations that have not been completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Appends what has completed: the slot, free again, and how it ended. `UnexpectedEof`: a read met the file's end.
    pub fn completed(&mut self, done: &mut Vec<(u16, io::Result<()>)>) {
        loop {
            let Some(entry) = self.uring.completion().next() else { return };
            let Ok(slot) = u16::try_from(entry.user_data()) else { continue };
            let Some(result) = self.finish(slot, entry.result()) else {
                self.push(slot);
                continue;
            };
            if let Some(place) = self.slots.get_mut(usize::from(slot)) {
                place.operation = None;
                place.vectors.clear();
                self.in_flight -= 1;
                done.push((slot, result));
            }
        }
    }

    /// Submits everything and waits until at least one operation has completed, if any is in flight.
    pub fn wait(&mut self) -> io::Result<()> {
        if self.in_flight == 0 {
            return Ok(());
        }
        match self.uring.submit_and_wait(1) {
            Ok(_) => self.unsubmitted = !self.uring.submission().is_empty(),
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How an operation ended, or none where it has to go on: a transfer may stop short of its length.
    fn finish(&mut self, slot: u16, result: i32) -> Option<io::Result<()>> {
        let place = self.slots.get_mut(usize::from(slot))?;
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return None;
        }
        let Ok(done) = usize::try_from(result) else {
            return Some(Err(io::Error::from_raw_os_error(result.wrapping_neg())));
        };
        place.vectors.advance(done);
        place.offset = place.offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match place.vectors.left().len() {
            0 => Some(Ok(())),
            _ if done == 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => None,
        }
    }

    /// Puts a slot's (remaining) operation into the submission queue, which has room for every slot.
    fn push(&mut self, slot: u16) {
        let Some(entry) = self.slots.get(usize::from(slot)).and_then(Slot::entry) else { return };
        // SAFETY: the vectors stay in place and keep the guest memory until the slot's completion has been seen
        // (`start` refuses a slot in use, `completed` alone clears it, `drop` waits), so the kernel's pointers live.
        let pushed = unsafe { self.uring.submission().push(&entry.user_data(u64::from(slot))) };
        debug_assert!(pushed.is_ok(), "one entry a slot always fits");
        self.unsubmitted = true;
    }
}

impl Slot {
    fn entry(&self) -> Option<Entry> {
        let (left, file) = (self.vectors.left(), Fixed(0));
        let count = u32::try_from(left.len()).ok()?;
        Some(match self.operation? {
            Operation::Read => opcode::Readv::new(file, left.as_ptr(), count).offset(self.offset).build(),
            Operation::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(file, left.as_ptr(), count).offset(self.offset).rw_flags(flags).build()
            }
            Operation::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        })
    }
}

impl AsFd for Ring {
    /// Readable when an operation has completed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.uring`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }
}

impl Drop for Ring {
    /// Waits for the kernel; where that fails, the memory it may still write to is never given back.
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            if self.wait().is_err() {
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            self.completed(&mut done);
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn memory() -> Arc<GuestMemory> {
        Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap())
    }

    fn ring(file: &File) -> Ring {
        Ring::new(8, file.as_fd()).unwrap()
    }

    fn at(addr: u64, len: u32) -> Extent {
        Extent { addr: GuestAddress(addr), len }
    }

    fn all(ring: &mut Ring) -> Vec<(u16, io::Result<()>)> {
        let mut done = Vec::new();
        while ring.in_flight() > 0 {
            ring.wait().unwrap();
            ring.completed(&mut done);
        }
        done.sort_by_key(|(slot, _)| *slot);
        done
    }

    #[test]
    fn many_operations_at_once_reach_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * 512).unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        for slot in 0..8u16 {
            let addr = u64::from(slot) * 512;
            memory.write_slice(&[u8::try_from(slot).unwrap(); 512], GuestAddress(addr)).unwrap();
            let write = Operation::Write { durable: slot == 3 };
            ring.start(slot, write, &memory, &[at(addr, 12), at(addr, 500)], addr).unwrap();
        }
        assert_eq!(all(&mut ring).into_iter().filter(|(_, result)| result.is_ok()).count(), 8);
        ring.start(0, Operation::Sync, &memory, &[], 0).unwrap();
        ring.start(1, Operation::Read, &memory, &[at(0x8000, 4096)], 0).unwrap();
        assert!(all(&mut ring).iter().all(|(_, result)| result.is_ok()));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8000 + 4095)).unwrap(), 7);
    }

    #[test]
    fn a_read_past_the_end_is_an_error_after_what_was_there() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(512).unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        ring.start(0, Operation::Read, &memory, &[at(0, 1024)], 0).unwrap();
        let ended = all(&mut ring).remove(0).1.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_slot_in_use_or_a_bad_extent_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        let outside = ring.start(0, Operation::Read, &memory, &[at(0xffff, 2)], 0).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        ring.start(0, Operation::Sync, &memory, &[], 0).unwrap();
        let busy = ring.start(0, Operation::Sync, &memory, &[], 0).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert!(ring.start(8, Operation::Sync, &memory, &[], 0).is_err());
        assert_eq!(all(&mut ring).len(), 1);
    }

    #[test]
    fn memory_is_held_until_the_kernel_is_done() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        ring.start(0, Operation::Read, &memory, &[at(0, 4096)], 0).unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
        all(&mut ring);
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn the_ring_does_nothing_that_it_was_not_made_for() {
        let file = tempfile::tempfile().unwrap();
        let mut ring = ring(&file);
        let other = tempfile::tempfile().unwrap();
        let mut byte = [0u8; 1];
        let vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let foreign = opcode::Readv::new(io_uring::types::Fd(other.as_raw_fd()), &vector, 1).build();
        let openat = opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), c"/".as_ptr()).build();
        for forbidden in [opcode::Nop::new().build(), openat, foreign] {
            // SAFETY: the kernel refuses each entry before it follows a pointer, and the vector outlives the wait.
            unsafe { ring.uring.submission().push(&forbidden).unwrap() };
            ring.uring.submit_and_wait(1).unwrap();
            assert_eq!(ring.uring.completion().next().unwrap().result(), -libc::EACCES);
        }
        let late = ring.uring.submitter().register_files_update(0, &[other.as_raw_fd()]).unwrap_err();
        assert_eq!(late.raw_os_error(), Some(libc::EACCES));
    }
}
