//! A descriptor chain, walked once and copied: nothing of it is read from the guest a second time.

use sys::guest_io::{Extent, GuestMemory};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress};

use super::{RingFault, RingSetup};

/// Bytes of one chain at most (virtio 1.2, 2.7.5.2: less than 2^32 in total). A longer one can't be answered in the used
/// element's length; the device refuses the request.
pub const MAX_CHAIN_BYTES: u64 = 0xffff_ffff;

/// Size of a descriptor (virtio 1.2, 2.7.5).
const DESCRIPTOR: u32 = 16;

/// What the driver made available in one go: what the device may read, then what it may write.
#[derive(Default, Debug)]
pub struct Chain {
    /// Its first descriptor's number, by which it is handed back.
    pub head: u16,
    /// In order; may be of length zero, or outside guest memory.
    pub readable: Vec<Extent>,
    /// Likewise.
    pub writable: Vec<Extent>,
}

impl Chain {
    /// Follows the chain from `head`. At most as many links as the ring has entries (virtio 1.2, 2.7.5.3.1).
    pub(super) fn walk(&mut self, memory: &GuestMemory, ring: &RingSetup, head: u16) -> Result<(), RingFault> {
        self.clear();
        self.head = head;
        let (mut table, mut entries) = (ring.addresses.descriptors, ring.size);
        let (mut index, mut links, mut is_indirect) = (head, 0u16, false);
        loop {
            let descriptor = read(memory, table, entries, index)?;
            if descriptor.refers_to_indirect_table() {
                if !ring.indirect || is_indirect || descriptor.has_next() {
                    return Err(RingFault::Indirect);
                }
                entries = indirect_entries(descriptor.len(), ring.size)?;
                (table, index, is_indirect) = (descriptor.addr(), 0, true);
                continue;
            }
            links = links.checked_add(1).filter(|links| *links <= ring.size).ok_or(RingFault::TooLong)?;
            self.add(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    /// Bytes that the device may read.
    pub fn readable_bytes(&self) -> u64 {
        bytes(&self.readable)
    }

    /// Bytes that the device may write.
    pub fn writable_bytes(&self) -> u64 {
        bytes(&self.writable)
    }

    /// Copies the first bytes of the readable part out and takes them off: however the driver split them.
    pub fn take_front(&mut self, memory: &GuestMemory, mut into: &mut [u8]) -> Result<(), RingFault> {
        for extent in &mut self.readable {
            let count = into.len().min(usize::try_from(extent.len).unwrap_or(usize::MAX));
            let (now, later) = into.split_at_mut_checked(count).ok_or(RingFault::TooShort)?;
            if !now.is_empty() {
                memory.read_slice(now, extent.addr).map_err(|_| RingFault::Outside)?;
            }
            *extent = if now.is_empty() { *extent } else { extent.after(count).ok_or(RingFault::Outside)? };
            into = later;
        }
        if into.is_empty() { Ok(()) } else { Err(RingFault::TooShort) }
    }

    /// Copies the first bytes of what is left of the readable part, and leaves them.
    pub fn copy_front(&self, memory: &GuestMemory, mut into: &mut [u8]) -> Result<(), RingFault> {
        for extent in &self.readable {
            let count = into.len().min(usize::try_from(extent.len).unwrap_or(usize::MAX));
            let (now, later) = into.split_at_mut_checked(count).ok_or(RingFault::TooShort)?;
            if !now.is_empty() {
                memory.read_slice(now, extent.addr).map_err(|_| RingFault::Outside)?;
            }
            into = later;
        }
        if into.is_empty() { Ok(()) } else { Err(RingFault::TooShort) }
    }

    /// Takes the last writable byte off.
    pub fn take_last_byte(&mut self) -> Result<GuestAddress, RingFault> {
        let last = self.writable.iter_mut().rev().find(|extent| extent.len > 0).ok_or(RingFault::TooShort)?;
        last.len = last.len.saturating_sub(1);
        last.addr.checked_add(u64::from(last.len)).ok_or(RingFault::Outside)
    }

    /// Takes the first `len` writable bytes off, however the driver split them: `into` gets them in place of what it had.
    pub fn take_writable(&mut self, len: u32, into: &mut Vec<Extent>) -> Result<(), RingFault> {
        into.clear();
        let mut left = len;
        for extent in &mut self.writable {
            let count = left.min(extent.len);
            if count > 0 {
                into.push(Extent { addr: extent.addr, len: count });
                let count = usize::try_from(count).map_err(|_| RingFault::TooShort)?;
                *extent = extent.after(count).ok_or(RingFault::Outside)?;
            }
            left = left.saturating_sub(count);
        }
        if left == 0 { Ok(()) } else { Err(RingFault::TooShort) }
    }

    fn add(&mut self, descriptor: &Descriptor) -> Result<(), RingFault> {
        let extent = Extent { addr: descriptor.addr(), len: descriptor.len() };
        if descriptor.is_write_only() {
            self.writable.push(extent);
        } else if self.writable.is_empty() {
            self.readable.push(extent);
        } else {
            return Err(RingFault::Direction); // 2.7.4.2: what is readable comes first
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// Copies bytes to the front of writable extents, as far as both go; how many were copied.
pub fn fill_front(memory: &GuestMemory, extents: &[Extent], mut from: &[u8]) -> Result<usize, RingFault> {
    let whole = from.len();
    for extent in extents {
        let count = from.len().min(usize::try_from(extent.len).unwrap_or(usize::MAX));
        let (now, later) = from.split_at_checked(count).ok_or(RingFault::TooShort)?;
        if !now.is_empty() {
            memory.write_slice(now, extent.addr).map_err(|_| RingFault::Outside)?;
        }
        from = later;
    }
    Ok(whole.saturating_sub(from.len()))
}

fn bytes(extents: &[Extent]) -> u64 {
    // At most 1024 extents of less than 2^32 bytes: no sum of them reaches 2^64.
    extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(u64::from(extent.len)))
}

/// Entries of an indirect table (virtio 1.2, 2.7.5.3): whole descriptors, at least one, no more than the ring has.
fn indirect_entries(len: u32, ring_size: u16) -> Result<u16, RingFault> {
    if len == 0 || len.checked_rem(DESCRIPTOR) != Some(0) {
        return Err(RingFault::Indirect);
    }
    let entries = len.checked_div(DESCRIPTOR).and_then(|entries| u16::try_from(entries).ok());
    entries.filter(|entries| *entries <= ring_size).ok_or(RingFault::Indirect)
}

fn read(memory: &GuestMemory, table: GuestAddress, entries: u16, index: u16) -> Result<Descriptor, RingFault> {
    if index >= entries {
        return Err(RingFault::Index(index));
    }
    let offset = u64::from(index).saturating_mul(u64::from(DESCRIPTOR));
    let at = table.checked_add(offset).ok_or(RingFault::Outside)?;
    memory.read_obj(at).map_err(|_| RingFault::Outside)
}
