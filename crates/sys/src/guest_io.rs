//! What one transfer reads or writes, as vectors: guest memory, bytes of ours, or zeros. The only place where guest
//! addresses become host pointers for the kernel; they never leave `sys`, and whoever holds a [`Vectors`] holds the
//! memory they point into.
#![allow(unsafe_code)] // the kernel's vectors are raw pointers, which vm-memory hands out only by guard

use std::sync::Arc;

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A guest's memory as all device code sees it.
pub type GuestMemory = GuestMemoryMmap<()>;

/// A run of guest memory that a driver named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte, guest-physical.
    pub addr: GuestAddress,
    /// Bytes; zero is legal and transfers nothing.
    pub len: u32,
}

impl Extent {
    /// What follows the first `count` bytes; none where it has fewer.
    pub fn after(self, count: usize) -> Option<Extent> {
        let count = u32::try_from(count).ok()?;
        let addr = self.addr.checked_add(u64::from(count))?;
        Some(Extent { addr, len: self.len.checked_sub(count)? })
    }
}

/// An extent that is not wholly inside one range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest memory at {:#x}+{:#x}", .0.addr.0, .0.len)]
pub struct OutsideMemory(pub Extent);

/// What an operation transfers.
pub enum Buffers<'a> {
    /// Nothing: it is no transfer.
    None,
    /// Guest memory.
    Guest(&'a Arc<GuestMemory>, &'a [Extent]),
    /// Bytes of ours, read from or filled in place. They come back when the operation has ended.
    Bytes(Vec<u8>),
    /// So many zeros, to be written.
    Zeros(u32),
}

/// The vectors of one transfer, what is left of them, and what they point into.
#[derive(Default)]
pub(crate) struct Vectors {
    held: Held,
    vectors: Vec<libc::iovec>,
    first: usize,
}

/// What vectors point into.
#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Guest(#[expect(dead_code, reason = "held, not read")] Arc<GuestMemory>),
    Bytes(Vec<u8>),
}

/// What zeros are written from: constant, so no process has pages of its own for it.
static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];

// SAFETY: the pointers lie in mappings or on the heap, which `held` keeps, or in `ZEROS`; any thread may hold or drop them.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Takes the vectors of a new transfer. On failure there are none, and bytes are lost.
    pub(crate) fn take(&mut self, buffers: Buffers<'_>) -> Result<(), OutsideMemory> {
        match buffers {
            Buffers::None => self.clear(),
            Buffers::Guest(memory, extents) => return self.fill(memory, extents),
            Buffers::Bytes(mut bytes) => {
                self.clear();
                if !bytes.is_empty() {
                    // The bytes stay where they are on the heap however `held` moves.
                    self.vectors.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
                }
                self.held = Held::Bytes(bytes);
            }
            Buffers::Zeros(len) => {
                self.clear();
                let mut left = usize::try_from(len).unwrap_or(0);
                while left > 0 {
                    let now = left.min(ZEROS.len());
                    // The kernel only reads them: zeros are only written.
                    self.vectors.push(libc::iovec { iov_base: ZEROS.as_ptr().cast_mut().cast(), iov_len: now });
                    left -= now;
                }
            }
        }
        Ok(())
    }

    /// Gives the bytes of the last transfer back, if it had such.
    pub(crate) fn bytes(&mut self) -> Option<Vec<u8>> {
        self.vectors.clear();
        match std::mem::take(&mut self.held) {
            Held::Bytes(bytes) => Some(bytes),
            Held::Nothing | Held::Guest(_) => None,
        }
    }

    fn fill(&mut self, memory: &Arc<GuestMemory>, extents: &[Extent]) -> Result<(), OutsideMemory> {
        self.clear();
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            let Some(vector) = vector(memory, *extent) else {
                self.clear();
                return Err(OutsideMemory(*extent));
            };
            self.vectors.push(vector);
        }
        self.held = Held::Guest(memory.clone());
        Ok(())
    }

    /// The transfer has ended: lets go of guest memory, and keeps bytes for who asks.
    pub(crate) fn finished(&mut self) {
        self.vectors.clear();
        self.first = 0;
        if let Held::Guest(_) = self.held {
            self.held = Held::Nothing;
        }
    }

    /// Lets go of guest memory and bytes; the space for vectors is kept for the next transfer.
    pub(crate) fn clear(&mut self) {
        self.held = Held::Nothing;
        self.vectors.clear();
        self.first = 0;
    }

    /// What is still to be transferred. Valid until the next call with `&mut self`.
    pub(crate) fn left(&self) -> &[libc::iovec] {
        self.vectors.get(self.first..).unwrap_or(&[])
    }

    /// Takes `done` transferred bytes off the front.
    pub(crate) fn advance(&mut self, mut done: usize) {
        while let Some(vector) = self.vectors.get_mut(self.first) {
            if done < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(done);
                vector.iov_len -= done;
                return;
            }
            done -= vector.iov_len;
            self.first += 1;
        }
    }
}

/// One extent as a vector, if it lies wholly inside one range of memory.
pub(crate) fn vector(memory: &GuestMemory, extent: Extent) -> Option<libc::iovec> {
    let slice = memory.get_slice(extent.addr, usize::try_from(extent.len).ok()?).ok()?;
    Some(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<GuestMemory> {
        let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x1000), (GuestAddress(0x8000), 0x1000)];
        Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
    }

    fn extent(addr: u64, len: u32) -> Extent {
        Extent { addr: GuestAddress(addr), len }
    }

    #[test]
    fn an_extent_outside_one_range_is_refused() {
        let memory = memory();
        let mut vectors = Vectors::default();
        let bad = [
            extent(0x3000, 1),        // in the hole
            extent(0x7fff, 2),        // from the hole into a range
            extent(0x1fff, 2),        // over the border of two ranges
            extent(0x8fff, 2),        // past the end
            extent(u64::MAX, 2),      // wraps
            extent(0x8000, u32::MAX), // far too long
        ];
        for one in bad {
            assert_eq!(vectors.fill(&memory, &[extent(0, 16), one]), Err(OutsideMemory(one)));
            assert!(vectors.left().is_empty());
        }
        assert_eq!(vectors.fill(&memory, &[extent(0x8fff, 1), extent(0x1ff0, 16)]), Ok(()));
        assert_eq!(vectors.left().len(), 2);
    }

    #[test]
    fn zero_lengths_are_skipped_wherever_they_point() {
        let mut vectors = Vectors::default();
        assert_eq!(vectors.fill(&memory(), &[extent(0x5000, 0), extent(0, 1)]), Ok(()));
        assert_eq!(vectors.left().len(), 1);
    }

    #[test]
    fn zeros_are_cut_into_vectors_and_bytes_come_back() {
        let mut vectors = Vectors::default();
        for (len, lens) in [(0, vec![]), (1, vec![1]), (0x1_0000, vec![0x1_0000]), (0x1_0001, vec![0x1_0000, 1])] {
            vectors.take(Buffers::Zeros(len)).unwrap();
            assert_eq!(vectors.left().iter().map(|vector| vector.iov_len).collect::<Vec<_>>(), lens);
            assert_eq!(vectors.bytes(), None);
        }
        vectors.take(Buffers::Bytes(vec![1, 2, 3])).unwrap();
        assert_eq!(vectors.left().len(), 1);
        assert_eq!((vectors.bytes(), vectors.left().len()), (Some(vec![1, 2, 3]), 0));
        vectors.take(Buffers::Bytes(vec![])).unwrap();
        assert!(vectors.left().is_empty());
        vectors.take(Buffers::None).unwrap();
        assert_eq!(vectors.bytes(), None);
    }

    #[test]
    fn a_short_transfer_leaves_the_rest() {
        let mut vectors = Vectors::default();
        vectors.fill(&memory(), &[extent(0, 10), extent(0x100, 20)]).unwrap();
        let second = vectors.left()[1].iov_base;
        vectors.advance(4);
        assert_eq!(vectors.left()[0].iov_len, 6);
        vectors.advance(6);
        assert_eq!((vectors.left().len(), vectors.left()[0].iov_base), (1, second));
        vectors.advance(19);
        assert_eq!(vectors.left()[0].iov_len, 1);
        assert_eq!(vectors.left()[0].iov_base, second.wrapping_byte_add(19));
        vectors.advance(1);
        assert!(vectors.left().is_empty());
    }
}
