//! Memory that outlives a device's process: vmm makes its file, and gives it to each process of the device in turn.
//!
//! ```text
//! 0 records of the queues (`serve_vhost`)   OWN_AT words of the device's own, zeros at first ... the end of the file
//! ```
//!
//! What is read from it was written by a process that may have been taken over: no number of it is believed.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::device;
use sys::guest_io::GuestMemory;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::serve_vhost::MAX_RECORDS_LEN;

/// A page of the host (x86-64).
const PAGE: u64 = 4096;
/// Where the device's own words begin: at a page, since they are mapped by themselves.
const OWN_AT: u64 = MAX_RECORDS_LEN.next_multiple_of(PAGE);

/// Words that every device has.
pub const WORDS: u64 = PAGE / 8;

const _: () = assert!(OWN_AT + PAGE == device::KEPT, "vmm makes it as large as it is used here");

/// The words of a device. A clone is the same memory.
#[derive(Clone, Debug)]
pub struct Kept(Arc<GuestMemory>);

impl Kept {
    /// Maps the words in a file of at least [`device::KEPT`] bytes.
    pub fn map(file: &File) -> io::Result<Kept> {
        let len = file.metadata()?.len().checked_sub(OWN_AT).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| *len > 0).ok_or(io::ErrorKind::UnexpectedEof)?;
        let offset = FileOffset::new(file.try_clone()?, OWN_AT);
        let region = GuestRegionMmap::from_range(GuestAddress(0), len, Some(offset)).map_err(io::Error::other)?;
        Ok(Kept(Arc::new(GuestMemory::from_regions(vec![region]).map_err(io::Error::other)?)))
    }

    /// A word; 0 where nothing was kept.
    pub fn word(&self, nth: u64) -> u64 {
        self.0.load(at(nth), Ordering::Acquire).unwrap_or(0)
    }

    /// How many there are.
    pub fn words(&self) -> u64 {
        self.0.iter().map(|region| region.len() / 8).sum()
    }

    /// Keeps a word, before what is stored after it.
    pub fn keep(&self, nth: u64, word: u64) {
        // Beyond the end nothing is kept.
        let _ = self.0.store(word, at(nth), Ordering::Release);
    }
}

fn at(nth: u64) -> GuestAddress {
    GuestAddress(nth.saturating_mul(8))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What vmm makes.
    pub(crate) fn file(len: u64) -> File {
        sys::memory::sealed("kept", len).unwrap().into()
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_process_and_beyond_the_end_is_nothing() {
        let file = file(device::KEPT);
        let (first, second) = (Kept::map(&file).unwrap(), Kept::map(&file).unwrap());
        assert_eq!((first.word(0), first.word(WORDS - 1)), (0, 0));
        first.keep(0, 7);
        first.keep(WORDS - 1, u64::MAX);
        assert_eq!((second.word(0), second.word(1), second.word(WORDS - 1)), (7, 0, u64::MAX));
        for nth in [WORDS, u64::MAX] {
            first.keep(nth, 1);
            assert_eq!(second.word(nth), 0);
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(Kept::map(&file(OWN_AT)).is_err());
    }
}
