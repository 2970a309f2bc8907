//! A split virtqueue as the device sees it (virtio 1.2, 2.7): chains out of the available ring, used elements in,
//! notifications both ways. Used by every device; virtio-queue holds the indices, what it leaves open is here.
//!
//! virtio-queue 0.18 ends a broken chain as if it were whole, checks ring areas across several ranges of memory,
//! publishes one used element at a time and does not know VIRTQ_AVAIL_F_NO_INTERRUPT: so the walk, the check of a set-up,
//! the used ring and the question of an interrupt are our own. Nothing here panics, loops or grows by what a guest wrote.

mod chain;
#[cfg(test)]
pub(crate) mod driver;
pub mod in_flight;

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use sys::guest_io::{Extent, GuestMemory};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use in_flight::InFlight;

pub use chain::{Chain, MAX_CHAIN_BYTES, fill_front};

/// Largest ring (vmd's limit; virtio 1.2, 2.7 would allow 32768). A larger one is refused at set-up.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// Where the three parts of a ring lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, 16 bytes an entry.
    pub descriptors: GuestAddress,
    /// Available ring, which virtio-pci calls the driver area.
    pub available: GuestAddress,
    /// Used ring, the device area.
    pub used: GuestAddress,
}

/// All that makes a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Where it lies.
    pub addresses: RingAddresses,
    /// Entries: a power of two.
    pub size: u16,
    /// The next available entry to be taken; 0 for a new ring.
    pub last_avail: u16,
    /// VIRTIO_F_EVENT_IDX was accepted.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC was accepted.
    pub indirect: bool,
}

/// Why a ring can't be set up; it stays disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Zero, no power of two, or over [`MAX_QUEUE_SIZE`].
    #[error("queue size {0} is no power of two up to {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// An address that is zero or not aligned (virtio 1.2, 2.7).
    #[error("ring at {:#x} is not aligned", .0.0)]
    Alignment(GuestAddress),
    /// A part that does not lie wholly inside one range of guest memory.
    #[error("ring at {:#x} is not in guest memory", .0.0)]
    Outside(GuestAddress),
}

/// Why a ring with a record can't be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// As without one.
    #[error(transparent)]
    Ring(#[from] SetupError),
    /// The record is not in the memory that was given for it.
    #[error("record of requests under way: {0}")]
    Record(RingFault),
}

/// Why a ring is broken: the device stops and asks for a reset (openbsd/devices.md, 11: R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The available index is further ahead than the ring is long.
    #[error("available index is out of range")]
    AvailableIndex,
    /// A head or a link names no descriptor.
    #[error("descriptor {0} is out of range")]
    Index(u16),
    /// More links than the ring has entries: a loop.
    #[error("descriptor chain is too long")]
    TooLong,
    /// An indirect table that was not negotiated, is nested, has a next, or has no legal length.
    #[error("indirect descriptor is invalid")]
    Indirect,
    /// A readable descriptor after a writable one, or of the wrong kind for this queue.
    #[error("descriptor has the wrong direction")]
    Direction,
    /// A part that the device must have is missing or too short.
    #[error("descriptor chain is too short")]
    TooShort,
    /// A ring, a table or a header that is not in guest memory.
    #[error("address is not in guest memory")]
    Outside,
    /// The host's side of the queue failed.
    #[error("host error")]
    Host,
}

/// A ring in use. Holds no memory: each call is given it.
pub struct Vring {
    queue: Queue,
    setup: RingSetup,
    /// The used index when an interrupt was last considered.
    considered: u16,
    /// Nothing was pushed yet: what the driver waits for is not known, and the first push interrupts in any case.
    is_new: bool,
    /// Where what is under way is recorded, and what a process that died had taken and has not handed back.
    record: Option<InFlight>,
    again: VecDeque<u16>,
}

impl Vring {
    /// Checks a set-up and takes the ring over from where it stands.
    pub fn new(memory: &GuestMemory, setup: RingSetup) -> Result<Vring, SetupError> {
        check(memory, &setup)?;
        let RingAddresses { descriptors, available, used } = setup.addresses;
        let mut queue = Queue::new(MAX_QUEUE_SIZE).map_err(|_| SetupError::Size(setup.size))?;
        queue.try_set_size(setup.size).map_err(|_| SetupError::Size(setup.size))?;
        queue.try_set_desc_table_address(descriptors).map_err(|_| SetupError::Alignment(descriptors))?;
        queue.try_set_avail_ring_address(available).map_err(|_| SetupError::Alignment(available))?;
        queue.try_set_used_ring_address(used).map_err(|_| SetupError::Alignment(used))?;
        queue.set_event_idx(setup.event_idx);
        queue.set_next_avail(setup.last_avail);
        let next_used = queue.used_idx(memory, Ordering::Acquire).map_err(|_| SetupError::Outside(used))?;
        queue.set_next_used(next_used.0);
        queue.set_ready(true);
        Ok(Vring { queue, setup, considered: next_used.0, is_new: true, record: None, again: VecDeque::new() })
    }

    /// The same with a record of what is under way. Where the set-up says that the ring stands is no matter: it goes on where the
    /// process stood that had the record before, whose requests that are under way come first, in their order.
    pub fn recorded(memory: &GuestMemory, setup: RingSetup, place: in_flight::Place) -> Result<Vring, RecordError> {
        let mut ring = Self::new(memory, setup)?;
        let used = ring.queue.next_used();
        let (record, again) = InFlight::open(place, setup.size, used).map_err(RecordError::Record)?;
        let under_way = u16::try_from(again.len()).map_err(|_| RecordError::Record(RingFault::Host))?;
        ring.queue.set_next_avail(used.wrapping_add(under_way));
        (ring.record, ring.again) = (Some(record), again.into());
        Ok(ring)
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.setup.size
    }

    /// The set-up that would continue this ring: what a pause, a migration or another process needs.
    pub fn save(&self) -> RingSetup {
        RingSetup { last_avail: self.queue.next_avail(), ..self.setup }
    }

    /// Whether no chain is available.
    pub fn is_empty(&self, memory: &GuestMemory) -> Result<bool, RingFault> {
        let available = self.queue.avail_idx(memory, Ordering::Acquire).map_err(|_| RingFault::Outside)?;
        Ok(self.again.is_empty() && available.0 == self.queue.next_avail())
    }

    /// Takes the next available chain; false where there is none.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, RingFault> {
        if let Some(head) = self.again.pop_front() {
            return chain.walk(memory, &self.setup, head).map(|()| true);
        }
        let head = match self.queue.iter(memory) {
            Ok(mut heads) => heads.next().map(|found| found.head_index()),
            Err(virtio_queue::Error::InvalidAvailRingIndex) => return Err(RingFault::AvailableIndex),
            Err(_) => return Err(RingFault::Outside),
        };
        match head {
            Some(head) => {
                self.record.as_mut().map_or(Ok(()), |record| record.took(head))?;
                chain.walk(memory, &self.setup, head).map(|()| true)
            }
            None => Ok(false),
        }
    }

    /// The same. If no chain is available, the driver's next one comes with a kick.
    #[inline]
    pub fn pop_or_wait(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, RingFault> {
        Ok(self.pop(memory, chain)? || (self.enable_kicks(memory)? && self.pop(memory, chain)?))
    }

    /// Puts the last `count` chains back: they were looked at, and nothing was done to them. Not of a ring with a record, which
    /// would tell of them as under way.
    pub fn put_back(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Hands chains back to the driver, all at once: the driver sees none of them before it sees the last. Each is its
    /// head and the bytes written to it.
    pub fn push_used(&mut self, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), RingFault> {
        self.record.as_mut().map_or(Ok(()), |record| record.hands_back(used))?;
        let mut next = self.queue.next_used();
        for (head, written) in used {
            // virtio 1.2, 2.7.8: flags and index are 2 bytes each, then 8 bytes an element.
            let slot = u64::from(next.checked_rem(self.setup.size).ok_or(RingFault::Outside)?);
            let at = self.used_at(slot.saturating_mul(8).saturating_add(4))?;
            let element = [u32::from(*head).to_le(), written.to_le()]; // id, len
            memory.write_obj(element, at).map_err(|_| RingFault::Outside)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        memory.store(next.to_le(), self.used_at(2)?, Ordering::Release).map_err(|_| RingFault::Outside)?;
        self.record.as_mut().map_or(Ok(()), |record| record.handed_back(used, next))
    }

    /// Whether the driver wants to be interrupted for what was pushed since the last call (virtio 1.2, 2.7.7 and
    /// 2.7.10).
    pub fn needs_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, RingFault> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.considered, new);
        if old == new {
            return Ok(false);
        }
        if std::mem::take(&mut self.is_new) {
            return Ok(true);
        }
        fence(Ordering::SeqCst); // the used index is out before the driver's wish is read
        if !self.setup.event_idx {
            let flags = self.load(memory, 0)?;
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let used_event = self.load(memory, u64::from(self.setup.size).saturating_mul(2).saturating_add(4))?;
        Ok(new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Tells the driver that it need not kick.
    pub fn disable_kicks(&mut self, memory: &GuestMemory) -> Result<(), RingFault> {
        self.queue.disable_notification(memory).map_err(|_| RingFault::Outside)
    }

    /// Asks for kicks again; true where something became available meanwhile, for which none may come.
    pub fn enable_kicks(&mut self, memory: &GuestMemory) -> Result<bool, RingFault> {
        self.queue.enable_notification(memory).map_err(|_| RingFault::Outside)
    }

    /// A u16 of the available ring.
    fn load(&self, memory: &GuestMemory, offset: u64) -> Result<u16, RingFault> {
        let at = self.setup.addresses.available.checked_add(offset).ok_or(RingFault::Outside)?;
        memory.load::<u16>(at, Ordering::Relaxed).map(u16::from_le).map_err(|_| RingFault::Outside)
    }

    fn used_at(&self, offset: u64) -> Result<GuestAddress, RingFault> {
        self.setup.addresses.used.checked_add(offset).ok_or(RingFault::Outside)
    }
}

/// Whether the ring is one that virtio 1.2, 2.7 allows, each part wholly inside one range of memory.
fn check(memory: &GuestMemory, setup: &RingSetup) -> Result<(), SetupError> {
    let size = u64::from(setup.size);
    if !setup.size.is_power_of_two() || setup.size > MAX_QUEUE_SIZE {
        return Err(SetupError::Size(setup.size));
    }
    let RingAddresses { descriptors, available, used } = setup.addresses;
    // With the 2 bytes of the event index, used or not (2.7.6, 2.7.8).
    let parts = [
        (descriptors, 16u64, size.saturating_mul(16)),
        (available, 2, size.saturating_mul(2).saturating_add(6)),
        (used, 4, size.saturating_mul(8).saturating_add(6)),
    ];
    for (addr, align, len) in parts {
        if addr.0 == 0 || addr.0.checked_rem(align) != Some(0) {
            return Err(SetupError::Alignment(addr));
        }
        let len = usize::try_from(len).map_err(|_| SetupError::Outside(addr))?;
        memory.get_slice(addr, len).map_err(|_| SetupError::Outside(addr))?;
    }
    Ok(())
}

/// Whether an extent lies wholly inside one range of memory; an empty one does everywhere.
pub fn is_inside(memory: &GuestMemory, extent: Extent) -> bool {
    let Ok(len) = usize::try_from(extent.len) else { return false };
    len == 0 || memory.get_slice(extent.addr, len).is_ok()
}

/// Whether a feature bit is set.
pub fn accepted(features: u64, bit: u32) -> bool {
    features.checked_shr(bit).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests;
