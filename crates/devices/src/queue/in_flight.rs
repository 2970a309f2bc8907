//! The record of what was taken from a split virtqueue and not handed back (QEMU's docs/interop/vhost-user.rst, "Inflight I/O
//! tracking"): it lies in memory that the front end keeps, so that another process goes on with each request of one that died.
//!
//! ```text
//! 0 features 8   8 version 2   10 desc_num 2   12 last_batch_head 2   14 used_idx 2   16 an entry of 16 bytes for each descriptor:
//!                                                   0 inflight 1   6 next 2   8 counter 8
//! ```
//!
//! The stores follow one another so that after any of them the record and the used ring together tell what is under way: a request
//! may be carried out again by that, but none is lost and none is answered twice. What is read from the record was written by a
//! process that may have been taken over, or by a front end: no number of it is believed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sys::guest_io::GuestMemory;
use vm_memory::{Address, Bytes, GuestAddress};

use super::RingFault;

/// The only version there is. A record of zeros is a new one.
const VERSION: u16 = 1;
const VERSION_AT: u64 = 8;
const DESC_NUM: u64 = 10;
const LAST_BATCH_HEAD: u64 = 12;
const USED_IDX: u64 = 14;
const ENTRIES: u64 = 16;

const ENTRY_LEN: u64 = 16;
const NEXT: u64 = 6;
const COUNTER: u64 = 8;

/// Records of several queues begin at multiples of this (INFLIGHT_ALIGNMENT of QEMU's libvhost-user).
const ALIGNMENT: u64 = 64;

/// Bytes of the record of a queue with so many entries, up to where the next one may begin.
pub const fn len(size: u16) -> u64 {
    (size as u64).saturating_mul(ENTRY_LEN).saturating_add(ENTRIES).next_multiple_of(ALIGNMENT)
}

/// Where the record of one queue lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// The memory that the front end keeps, mapped; its addresses are offsets.
    pub memory: Arc<GuestMemory>,
    /// The record's first byte; [`len`] bytes from here on are its own.
    pub at: GuestAddress,
}

/// The record of a queue in use.
pub(super) struct InFlight {
    place: Place,
    size: u16,
    counter: u64,
    /// Stores until the process is as if killed.
    #[cfg(test)]
    pub(super) left: u32,
}

impl InFlight {
    /// Takes a record over, with the used index as the ring has it. Gives also the heads that are under way, in the order in which
    /// they were taken. A record that is new, or of another size or version, has none.
    pub(super) fn open(place: Place, size: u16, used: u16) -> Result<(Self, Vec<u16>), RingFault> {
        let mut record = Self {
            place,
            size,
            counter: 0,
            #[cfg(test)]
            left: u32::MAX,
        };
        record.get::<u8>(len(size).saturating_sub(1))?; // all of it is there
        let found = (record.get::<u16>(VERSION_AT)?, record.get::<u16>(DESC_NUM)?);
        if (u16::from_le(found.0), u16::from_le(found.1)) != (VERSION, size) {
            record.begin(used)?;
            return Ok((record, Vec::new()));
        }
        record.finish_batch(used)?;
        let mut taken = Vec::new();
        for head in 0..size {
            if record.get::<u8>(record.entry(head, 0)?)? == 1 {
                taken.push((u64::from_le(record.get(record.entry(head, COUNTER)?)?), head));
            }
        }
        taken.sort_unstable();
        record.counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok((record, taken.into_iter().map(|(_, head)| head).collect()))
    }

    /// A record of nothing. Its version, which makes it one, comes last.
    fn begin(&mut self, used: u16) -> Result<(), RingFault> {
        self.put(VERSION_AT, 0u16)?;
        for at in (0..len(self.size)).step_by(8).filter(|at| *at != 8) {
            self.put(at, 0u64)?;
        }
        self.put(LAST_BATCH_HEAD, 0u16)?;
        self.put(USED_IDX, used.to_le())?;
        self.put(DESC_NUM, self.size.to_le())?;
        self.put(VERSION_AT, VERSION.to_le())
    }

    /// What the used ring shows and the record does not yet is handed back: the last batch, which hangs together.
    fn finish_batch(&mut self, used: u16) -> Result<(), RingFault> {
        let shown = used.wrapping_sub(u16::from_le(self.get(USED_IDX)?));
        let mut head = u16::from_le(self.get(LAST_BATCH_HEAD)?);
        for _ in 0..shown.min(self.size) {
            if head >= self.size {
                break;
            }
            self.put(self.entry(head, 0)?, 0u8)?;
            head = u16::from_le(self.get(self.entry(head, NEXT)?)?);
        }
        self.put(USED_IDX, used.to_le())
    }

    /// A chain was taken.
    pub(super) fn took(&mut self, head: u16) -> Result<(), RingFault> {
        self.put(self.entry(head, COUNTER)?, self.counter.to_le())?;
        self.counter = self.counter.wrapping_add(1);
        self.put(self.entry(head, 0)?, 1u8)
    }

    /// Chains are about to be handed back, all at once.
    pub(super) fn hands_back(&mut self, used: &[(u16, u32)]) -> Result<(), RingFault> {
        for (head, _) in used {
            let last = self.get::<u16>(LAST_BATCH_HEAD)?;
            self.put(self.entry(*head, NEXT)?, last)?;
            self.put(LAST_BATCH_HEAD, head.to_le())?;
        }
        self.lives()
    }

    /// They were, and the used index is this now.
    pub(super) fn handed_back(&mut self, used: &[(u16, u32)], index: u16) -> Result<(), RingFault> {
        for (head, _) in used {
            self.put(self.entry(*head, 0)?, 0u8)?;
        }
        self.put(USED_IDX, index.to_le())
    }

    fn entry(&self, head: u16, field: u64) -> Result<u64, RingFault> {
        let inside = (head < self.size).then(|| u64::from(head).saturating_mul(ENTRY_LEN));
        inside.map(|entry| entry.saturating_add(ENTRIES).saturating_add(field)).ok_or(RingFault::Index(head))
    }

    fn get<T: vm_memory::ByteValued>(&self, offset: u64) -> Result<T, RingFault> {
        self.place.memory.read_obj(self.at(offset)?).map_err(|_| RingFault::Host)
    }

    /// A store that comes after those before it: one process alone reads it, and later.
    fn put<T: vm_memory::AtomicAccess>(&mut self, offset: u64, value: T) -> Result<(), RingFault> {
        self.lives()?;
        self.place.memory.store(value, self.at(offset)?, Ordering::Release).map_err(|_| RingFault::Host)
    }

    fn at(&self, offset: u64) -> Result<GuestAddress, RingFault> {
        self.place.at.checked_add(offset).ok_or(RingFault::Host)
    }

    #[cfg(not(test))]
    fn lives(&mut self) -> Result<(), RingFault> {
        Ok(())
    }

    #[cfg(test)]
    fn lives(&mut self) -> Result<(), RingFault> {
        self.left = self.left.checked_sub(1).ok_or(RingFault::Host)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
