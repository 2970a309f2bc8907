//! io_uring for the files of one disk: reads, writes, holes and syncs, many at a time.
//!
//! The ring starts disabled, is bound to the operations and the registered files below, and is then enabled; after
//! that no `io_uring_register` is needed, so seccomp can deny it (docs/roles.md). Guest memory, bytes and vectors are held
//! here until the kernel has completed. Used by block devices; without rings they use [`crate::plain`].
#![allow(unsafe_code)] // submission entries carry raw pointers

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};

use crate::guest_io::{Buffers, Vectors};

/// Threads that the kernel may start for this ring, of each of its two kinds; they count in the cgroup's pids.max.
const MAX_KERNEL_WORKERS: u32 = 4;

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the file to memory.
    Read,
    /// From memory to the file; `durable` returns only when it has reached the medium.
    Write {
        /// As by O_DSYNC.
        durable: bool,
    },
    /// Gives the blocks of a range back: it reads as zeros. The file keeps its size.
    Punch {
        /// Bytes.
        len: u64,
    },
    /// Makes a range zeros that has its blocks. The file keeps its size.
    Zero {
        /// Bytes.
        len: u64,
    },
    /// fdatasync(2).
    Sync,
}

/// fallocate(2)'s mode for [`Operation::Punch`].
pub(crate) const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// And for [`Operation::Zero`].
pub(crate) const ZERO: libc::c_int = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// One operation, and on what.
pub struct Job<'a> {
    /// Which of the files, from 0.
    pub file: u8,
    /// What is to be done.
    pub operation: Operation,
    /// From which byte of the file on.
    pub at: u64,
    /// What is transferred.
    pub buffers: Buffers<'a>,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write { .. } => "write",
            Operation::Punch { .. } => "discard",
            Operation::Zero { .. } => "write of zeros",
            Operation::Sync => "flush",
        })
    }
}

/// A ring, bound to some files, with a fixed number of slots; each slot carries one operation at a time.
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
    file: u8,
    offset: u64,
}

impl Ring {
    /// Makes a ring of `slots` for `files`. `Unsupported` or `PermissionDenied` where the host has or allows none.
    ///
    /// The kernel may carry out requests for some time after their process has died; `held` stays open until the last of them is
    /// done, so that whoever waits for the other end of a pipe knows.
    pub fn new(slots: u16, files: &[BorrowedFd<'_>], held: Option<BorrowedFd<'_>>) -> io::Result<Ring> {
        let uring = IoUring::builder().setup_r_disabled().build(u32::from(slots.max(1)))?;
        let submitter = uring.submitter();
        submitter.register_files(&files.iter().chain(&held).map(AsRawFd::as_raw_fd).collect::<Vec<RawFd>>())?;
        // Older kernels (before 5.15) do not know the limit; there RLIMIT_NPROC and pids.max alone bound the workers.
        let _ = submitter.register_iowq_max_workers(&mut [MAX_KERNEL_WORKERS; 2]);
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
            Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        // A ring answers EAGAIN for a file that is marked non-blocking, where read(2) of a disk would wait.
        files.iter().try_for_each(|file| crate::waits::always(*file))?;
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Ok(Ring { uring, slots, in_flight: 0, unsubmitted: false })
    }

    /// Queues an operation in a free slot; [`submit`](Self::submit) starts it. `InvalidInput` for an extent outside
    /// guest memory or a slot that does not exist, `ResourceBusy` for one in use.
    pub fn start(&mut self, slot: u16, job: Job<'_>) -> io::Result<()> {
        let place = self.slots.get_mut(usize::from(slot)).ok_or(io::ErrorKind::InvalidInput)?;
        if place.operation.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        place.vectors.take(job.buffers).map_err(|outside| io::Error::new(io::ErrorKind::InvalidInput, outside))?;
        (place.operation, place.file, place.offset) = (Some(job.operation), job.file, job.at);
        self.in_flight += 1;
        self.push(slot);
        Ok(())
    }

    /// The bytes that the last operation of a free slot was given, if it was given such.
    pub fn bytes(&mut self, slot: u16) -> Option<Vec<u8>> {
        let place = self.slots.get_mut(usize::from(slot))?;
        if place.operation.is_some() { None } else { place.vectors.bytes() }
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
                place.vectors.finished();
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
        let (left, file) = (self.vectors.left(), Fixed(u32::from(self.file)));
        let count = u32::try_from(left.len()).ok()?;
        Some(match self.operation? {
            Operation::Read => opcode::Readv::new(file, left.as_ptr(), count).offset(self.offset).build(),
            Operation::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(file, left.as_ptr(), count).offset(self.offset).rw_flags(flags).build()
            }
            Operation::Punch { len } => opcode::Fallocate::new(file, len).offset(self.offset).mode(PUNCH).build(),
            Operation::Zero { len } => opcode::Fallocate::new(file, len).offset(self.offset).mode(ZERO).build(),
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

    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::guest_io::{Extent, GuestMemory};

    fn memory() -> Arc<GuestMemory> {
        Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap())
    }

    fn ring(file: &File) -> Ring {
        Ring::new(8, &[file.as_fd()], None).unwrap()
    }

    fn start(ring: &mut Ring, slot: u16, operation: Operation, buffers: Buffers<'_>, at: u64) -> io::Result<()> {
        ring.start(slot, Job { file: 0, operation, at, buffers })
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
            let extents = [at(addr, 12), at(addr, 500)];
            start(&mut ring, slot, write, Buffers::Guest(&memory, &extents), addr).unwrap();
        }
        assert_eq!(all(&mut ring).into_iter().filter(|(_, result)| result.is_ok()).count(), 8);
        start(&mut ring, 0, Operation::Sync, Buffers::None, 0).unwrap();
        start(&mut ring, 1, Operation::Read, Buffers::Guest(&memory, &[at(0x8000, 4096)]), 0).unwrap();
        assert!(all(&mut ring).iter().all(|(_, result)| result.is_ok()));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8000 + 4095)).unwrap(), 7);
    }

    #[test]
    fn a_read_past_the_end_is_an_error_after_what_was_there() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(512).unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        start(&mut ring, 0, Operation::Read, Buffers::Guest(&memory, &[at(0, 1024)]), 0).unwrap();
        let ended = all(&mut ring).remove(0).1.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_slot_in_use_or_a_bad_extent_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        let outside = start(&mut ring, 0, Operation::Read, Buffers::Guest(&memory, &[at(0xffff, 2)]), 0).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        start(&mut ring, 0, Operation::Sync, Buffers::None, 0).unwrap();
        let busy = start(&mut ring, 0, Operation::Sync, Buffers::None, 0).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert!(start(&mut ring, 8, Operation::Sync, Buffers::None, 0).is_err());
        assert_eq!(all(&mut ring).len(), 1);
    }

    #[test]
    fn ranges_become_zeros_with_their_blocks_or_without() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 0x4_0000], 0).unwrap();
        let whole = file.metadata().unwrap().blocks();
        let mut ring = ring(&file);
        start(&mut ring, 0, Operation::Punch { len: 0x1_0000 }, Buffers::None, 0x1_0000).unwrap();
        start(&mut ring, 1, Operation::Write { durable: false }, Buffers::Zeros(0x1_0200), 0x2_0000).unwrap();
        let ended = all(&mut ring);
        assert!(ended.iter().all(|(_, result)| result.is_ok()), "{ended:?}");
        start(&mut ring, 0, Operation::Zero { len: 0x1000 }, Buffers::None, 0).unwrap();
        match all(&mut ring).remove(0).1 {
            Ok(()) => {}
            // A tmpfs can't; who asks is told.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
                file.write_all_at(&[0; 0x1000], 0).unwrap();
            }
        }
        let mut is = vec![0; 0x4_0000];
        file.read_exact_at(&mut is, 0).unwrap();
        for (range, value) in [(0..0x1000, 0), (0x1000..0x1_0000, 7), (0x1_0000..0x3_0200, 0), (0x3_0200..0x4_0000, 7)]
        {
            assert!(is[range.clone()].iter().all(|byte| *byte == value), "{range:x?}");
        }
        assert!(file.metadata().unwrap().blocks() < whole, "the hole is one");
    }

    #[test]
    fn each_of_the_files_is_reached_and_bytes_come_back() {
        let (one, two) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut ring = Ring::new(2, &[one.as_fd(), two.as_fd()], None).unwrap();
        let write = Operation::Write { durable: false };
        let job = |file, operation, bytes| Job { file, operation, at: 3, buffers: Buffers::Bytes(bytes) };
        ring.start(0, job(0, write, b"first".to_vec())).unwrap();
        ring.start(1, job(1, write, b"second".to_vec())).unwrap();
        assert!(ring.bytes(0).is_none(), "the kernel has them");
        assert!(all(&mut ring).iter().all(|(_, result)| result.is_ok()));
        assert_eq!(ring.bytes(0).as_deref(), Some(&b"first"[..]));
        ring.start(0, job(1, Operation::Read, vec![0; 6])).unwrap();
        ring.start(1, job(0, Operation::Read, vec![9; 7])).unwrap();
        let ended = all(&mut ring);
        assert!(ended[0].1.is_ok());
        assert_eq!(ended[1].1.as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ring.bytes(0).as_deref(), Some(&b"second"[..]));
        assert_eq!(ring.bytes(1).as_deref(), Some(&b"first\x09\x09"[..]), "what was there, and the rest as it was");
        ring.start(0, job(2, Operation::Read, vec![0])).unwrap();
        assert_eq!(all(&mut ring)[0].1.as_ref().unwrap_err().raw_os_error(), Some(libc::EBADF), "there is no third");
    }

    #[test]
    fn memory_is_held_until_the_kernel_is_done() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (memory, mut ring) = (memory(), ring(&file));
        start(&mut ring, 0, Operation::Read, Buffers::Guest(&memory, &[at(0, 4096)]), 0).unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
        all(&mut ring);
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn what_a_ring_holds_is_closed_when_the_ring_is_gone() {
        let file = tempfile::tempfile().unwrap();
        let (waits, lives) = rustix::pipe::pipe().unwrap();
        let ring = Ring::new(1, &[file.as_fd()], Some(lives.as_fd())).unwrap();
        drop(lives);
        let hangs_up = |milliseconds: i64| {
            let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
            let mut set = [rustix::event::PollFd::new(&waits, rustix::event::PollFlags::empty())];
            rustix::event::poll(&mut set, Some(&limit)).unwrap() == 1
        };
        assert!(!hangs_up(0));
        drop(ring);
        // The kernel takes a ring apart in its own time.
        assert!((0..100).any(|_| hangs_up(200)));
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
