//! Reads, writes, holes and syncs of a disk's files, each done before the call returns: what disks use where io_uring is
//! not to be had.
#![allow(unsafe_code)] // preadv2(2) and pwritev2(2) take raw vectors; rustix has them for slices only

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::FallocateFlags;

use crate::guest_io::Vectors;
use crate::ring::{Job, Operation, PUNCH, ZERO};

/// Files that are read and written in place.
pub struct Plain {
    files: Vec<OwnedFd>,
    vectors: Vectors,
}

impl Plain {
    /// Takes the files.
    pub fn new(files: Vec<OwnedFd>) -> Self {
        Plain { files, vectors: Vectors::default() }
    }

    /// Does all of one operation, or fails: `UnexpectedEof` where a read meets the file's end, `InvalidInput` for an
    /// extent outside guest memory or a file that was not given.
    pub fn perform(&mut self, job: Job<'_>) -> io::Result<()> {
        let Job { file, operation, at, buffers } = job;
        self.vectors.take(buffers).map_err(|outside| io::Error::new(io::ErrorKind::InvalidInput, outside))?;
        let Plain { files, vectors } = self;
        let file = files.get(usize::from(file)).ok_or(io::ErrorKind::InvalidInput)?.as_fd();
        let result = match operation {
            Operation::Sync => rustix::io::retry_on_intr(|| rustix::fs::fdatasync(file)).map_err(io::Error::from),
            Operation::Punch { len } => allocate(file, PUNCH, at, len),
            Operation::Zero { len } => allocate(file, ZERO, at, len),
            Operation::Read | Operation::Write { .. } => transfer(file, vectors, operation, at),
        };
        self.vectors.finished();
        result
    }

    /// The bytes that the last operation was given, if it was given such.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        self.vectors.bytes()
    }
}

fn allocate(file: BorrowedFd<'_>, mode: libc::c_int, at: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, at, len)).map_err(io::Error::from)
}

fn transfer(file: BorrowedFd<'_>, vectors: &mut Vectors, operation: Operation, mut offset: u64) -> io::Result<()> {
    while !vectors.left().is_empty() {
        let done = match once(file, vectors, operation, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => done,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        vectors.advance(done);
        offset = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn once(file: BorrowedFd<'_>, vectors: &Vectors, operation: Operation, offset: u64) -> io::Result<usize> {
    let (fd, left) = (file.as_raw_fd(), vectors.left());
    let count = libc::c_int::try_from(left.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `vectors` holds what `left` points into for the whole call, and the kernel reads or writes nothing else;
    // guest memory is never seen as a Rust reference, bytes of ours are borrowed by nobody meanwhile, and zeros are
    // only written from, so no aliasing rule is broken.
    let done = unsafe {
        match operation {
            Operation::Write { durable: true } => libc::pwritev2(fd, left.as_ptr(), count, offset, libc::RWF_DSYNC),
            Operation::Write { durable: false } => libc::pwritev2(fd, left.as_ptr(), count, offset, 0),
            Operation::Read | Operation::Sync | Operation::Punch { .. } | Operation::Zero { .. } => {
                libc::preadv2(fd, left.as_ptr(), count, offset, 0)
            }
        }
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::guest_io::{Buffers, Extent, GuestMemory};

    fn job(operation: Operation, at: u64, buffers: Buffers<'_>) -> Job<'_> {
        Job { file: 0, operation, at, buffers }
    }

    #[test]
    fn what_is_written_is_read_back_and_the_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1024).unwrap();
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap());
        memory.write_slice(&[7; 512], GuestAddress(0x1000)).unwrap();
        let at = |addr, len| Extent { addr: GuestAddress(addr), len };
        let mut plain = Plain::new(vec![file.try_clone().unwrap().into()]);
        let write = [at(0x1000, 100), at(0x1100, 0), at(0x1000, 412)];
        plain.perform(job(Operation::Write { durable: true }, 512, Buffers::Guest(&memory, &write))).unwrap();
        plain.perform(job(Operation::Sync, 0, Buffers::None)).unwrap();
        plain.perform(job(Operation::Read, 0, Buffers::Guest(&memory, &[at(0x2000, 1024)]))).unwrap();
        let mut back = [0; 1024];
        memory.read_slice(&mut back, GuestAddress(0x2000)).unwrap();
        assert_eq!((&back[..512], &back[512..]), (&[0; 512][..], &[7; 512][..]));

        let past = plain.perform(job(Operation::Read, 512, Buffers::Guest(&memory, &[at(0x2000, 1024)]))).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        let outside = plain.perform(job(Operation::Read, 0, Buffers::Guest(&memory, &[at(0x3f00, 512)]))).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        let mut file: File = file;
        assert_eq!(file.read(&mut back).unwrap(), 1024);
    }
    #[test]
    fn ranges_become_zeros_and_bytes_come_back() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 0x3000], 0).unwrap();
        let mut plain = Plain::new(vec![file.try_clone().unwrap().into()]);
        plain.perform(job(Operation::Punch { len: 0x1000 }, 0x1000, Buffers::None)).unwrap();
        plain.perform(job(Operation::Write { durable: false }, 0, Buffers::Zeros(3))).unwrap();
        if let Err(error) = plain.perform(job(Operation::Zero { len: 1 }, 0x2fff, Buffers::None)) {
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "as on a tmpfs");
            file.write_all_at(&[0], 0x2fff).unwrap();
        }
        plain.perform(job(Operation::Read, 0, Buffers::Bytes(vec![1; 0x3000]))).unwrap();
        let is = plain.bytes().unwrap();
        let zeros: Vec<usize> = (0..0x3000).filter(|at| is[*at] == 0).collect();
        assert_eq!(zeros, (0..3).chain(0x1000..0x2000).chain(0x2fff..0x3000).collect::<Vec<_>>());
        let third = Job { file: 1, ..job(Operation::Sync, 0, Buffers::None) };
        assert_eq!(plain.perform(third).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
