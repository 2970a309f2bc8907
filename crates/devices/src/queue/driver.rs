//! A driver for tests: a ring in memory, without a front end or a thread.

use std::fs::File;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::serve_vhost::Active;

pub(crate) const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
pub(crate) const BUFFERS: u64 = 0x8000;
pub(crate) const END: u64 = 0x1_0000;
pub(crate) const SIZE: u16 = 4;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const SETUP: RingSetup = RingSetup {
    addresses: RingAddresses {
        descriptors: GuestAddress(DESCRIPTORS),
        available: GuestAddress(AVAILABLE),
        used: GuestAddress(USED),
    },
    size: SIZE,
    last_avail: 0,
    event_idx: false,
    indirect: false,
};

pub(crate) const EVENT_IDX: RingSetup = RingSetup { event_idx: true, ..SETUP };

pub(crate) fn extent(addr: u64, len: u32) -> Extent {
    Extent { addr: GuestAddress(addr), len }
}

/// The driver's side, and the device's.
pub(crate) struct Driver {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) ring: Vring,
    call: File,
    offered: u16,
}

impl Driver {
    pub(crate) fn new(setup: RingSetup) -> Driver {
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), END as usize)]).unwrap());
        let call = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap().into();
        let ring = Vring::new(&memory, setup).unwrap();
        Driver { memory, ring, call, offered: 0 }
    }

    pub(crate) fn put(&self, addr: u64, value: u16) {
        self.memory.write_obj(value, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn at(&self, addr: u64) -> u16 {
        self.memory.read_obj(GuestAddress(addr)).unwrap()
    }

    /// What a device gets.
    pub(crate) fn active(&mut self) -> Active<'_> {
        Active::new(&self.memory, &mut self.ring, &self.call)
    }

    /// Whether the device has interrupted since the last time.
    pub(crate) fn was_called(&self) -> bool {
        rustix::io::read(&self.call, &mut [0u8; 8]).is_ok()
    }

    /// How many elements were used.
    pub(crate) fn used(&self) -> u16 {
        self.at(USED + 2)
    }

    /// Head and length of a used element.
    pub(crate) fn element(&self, slot: u64) -> [u32; 2] {
        self.memory.read_obj(GuestAddress(USED + 4 + slot * 8)).unwrap()
    }

    /// Writes a descriptor of a table.
    pub(crate) fn describe(&self, table: u64, index: u16, (addr, len): (u64, u32), flags: u16, next: u16) {
        let at = table + u64::from(index) * 16;
        self.memory.write_obj(addr, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    /// Makes a chain available.
    pub(crate) fn offer(&mut self, head: u16) {
        self.put(AVAILABLE + 4 + u64::from(self.offered % self.ring.size()) * 2, head);
        self.offered = self.offered.wrapping_add(1);
        self.put(AVAILABLE + 2, self.offered);
    }

    pub(crate) fn pop(&mut self) -> Result<Chain, RingFault> {
        let mut chain = Chain::default();
        assert!(self.ring.pop(&self.memory, &mut chain)?, "a chain is there");
        Ok(chain)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty(&self.memory).unwrap()
    }

    pub(crate) fn push(&mut self, count: usize) {
        self.ring.push_used(&self.memory, &vec![(0, 0); count]).unwrap();
    }

    pub(crate) fn needs_interrupt(&mut self) -> bool {
        self.ring.needs_interrupt(&self.memory).unwrap()
    }

    pub(crate) fn enable_kicks(&mut self) -> bool {
        self.ring.enable_kicks(&self.memory).unwrap()
    }
}
