//! Vectored reads and writes between a file and guest memory, each done before the call returns: what disks use where
//! io_uring is not to be had.
#![allow(unsafe_code)] // preadv2(2) and pwritev2(2) take raw vectors; rustix has them for slices only

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use crate::guest_io::{Extent, GuestMemory, Vectors};
use crate::ring::Operation;

/// A file that is read and written in place.
pub struct Plain {
    file: OwnedFd,
    vectors: Vectors,
}

impl Plain {
    /// Takes the file.
    pub fn new(file: OwnedFd) -> Self {
        Plain { file, vectors: Vectors::default() }
    }

    /// Does all of one operation, or fails: `UnexpectedEof` where a read meets the file's end, `InvalidInput` for an
    /// extent outside guest memory.
    pub fn perform(
        &mut self,
        operation: Operation,
        memory: &Arc<GuestMemory>,
        extents: &[Extent],
        offset: u64,
    ) -> io::Result<()> {
        if operation == Operation::Sync {
            return rustix::io::retry_on_intr(|| rustix::fs::fdatasync(self.file.as_fd())).map_err(io::Error::from);
        }
        self.vectors.fill(memory, extents).map_err(|outside| io::Error::new(io::ErrorKind::InvalidInput, outside))?;
        let result = self.transfer(operation, offset);
        self.vectors.clear();
        result
    }

    fn transfer(&mut self, operation: Operation, mut offset: u64) -> io::Result<()> {
        while !self.vectors.left().is_empty() {
            let done = match self.once(operation, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(done) => done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.vectors.advance(done);
            offset = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn once(&self, operation: Operation, offset: u64) -> io::Result<usize> {
        let (fd, left) = (self.file.as_raw_fd(), self.vectors.left());
        let count = libc::c_int::try_from(left.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `vectors` holds the guest memory that `left` points into for the whole call, and the kernel reads
        // or writes nothing else; guest memory is never seen as a Rust reference, so no aliasing rule is broken.
        let done = unsafe {
            match operation {
                Operation::Write { durable: true } => libc::pwritev2(fd, left.as_ptr(), count, offset, libc::RWF_DSYNC),
                Operation::Write { durable: false } => libc::pwritev2(fd, left.as_ptr(), count, offset, 0),
                Operation::Read | Operation::Sync => libc::preadv2(fd, left.as_ptr(), count, offset, 0),
            }
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1024).unwrap();
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap());
        memory.write_slice(&[7; 512], GuestAddress(0x1000)).unwrap();
        let at = |addr, len| Extent { addr: GuestAddress(addr), len };
        let mut plain = Plain::new(file.try_clone().unwrap().into());
        let write = [at(0x1000, 100), at(0x1100, 0), at(0x1000, 412)];
        plain.perform(Operation::Write { durable: true }, &memory, &write, 512).unwrap();
        plain.perform(Operation::Sync, &memory, &[], 0).unwrap();
        plain.perform(Operation::Read, &memory, &[at(0x2000, 1024)], 0).unwrap();
        let mut back = [0; 1024];
        memory.read_slice(&mut back, GuestAddress(0x2000)).unwrap();
        assert_eq!((&back[..512], &back[512..]), (&[0; 512][..], &[7; 512][..]));

        let past = plain.perform(Operation::Read, &memory, &[at(0x2000, 1024)], 512).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        let outside = plain.perform(Operation::Read, &memory, &[at(0x3f00, 512)], 0).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        let mut file: File = file;
        assert_eq!(file.read(&mut back).unwrap(), 1024);
    }
}
