//! A guest's side of a virtqueue, which writes what a driver would, or whatever it is told to.

use devices::queue::{RingAddresses, RingSetup};
use sys::guest_io::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::Script;

/// Two pieces of memory with a hole between them.
pub const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x2_0000;
const HIGH_LEN: u64 = 0x4000;
/// Where buffers lie; the rings of queue N lie from N * 0x4000 on.
pub const BUFFERS: u64 = 0x8000;
/// Most descriptors of a chain that is written as a driver would, and of an indirect table.
const MAX_PARTS: u8 = 8;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Memory of both pieces, all zero.
pub fn memory() -> GuestMemory {
    let pieces = [(GuestAddress(0), LOW as usize), (GuestAddress(HIGH), HIGH_LEN as usize)];
    GuestMemory::from_ranges(&pieces).expect("a little memory")
}

/// Makes it all zero again.
pub fn clear(memory: &GuestMemory) {
    for (at, len) in [(0, LOW), (HIGH, HIGH_LEN)] {
        put(memory, at, &ZEROS[..len as usize]);
    }
}

static ZEROS: [u8; LOW as usize] = [0; LOW as usize];

/// Writes where there is memory.
pub fn put(memory: &GuestMemory, at: u64, bytes: &[u8]) {
    let _ = memory.write_slice(bytes, GuestAddress(at));
}

/// A buffer: where, how long, and whether the device writes it.
pub type Part = (u64, u32, bool);

/// A queue as its driver has it.
pub struct Ring {
    /// Where it lies.
    pub at: RingAddresses,
    size: u16,
    offered: u16,
    next: u16,
}

impl Ring {
    /// The queue of this index, of up to 128 entries.
    pub fn new(queue: u64, choice: u8) -> Self {
        let at = |part: u64| GuestAddress(queue * 0x4000 + part);
        let at = RingAddresses { descriptors: at(0x1000), available: at(0x2000), used: at(0x3000) };
        Self { at, size: 1 << (choice % 8), offered: 0, next: 0 }
    }

    /// As the device is told of it.
    pub fn setup(&self, last_avail: u16, event_idx: bool, indirect: bool) -> RingSetup {
        RingSetup { addresses: self.at, size: self.size, last_avail, event_idx, indirect }
    }

    /// The device's index of used elements.
    pub fn used(&self, memory: &GuestMemory) -> u16 {
        memory.read_obj(GuestAddress(self.at.used.0 + 2)).expect("the ring lies in memory")
    }

    /// The driver does something, mostly what it may: buffers are for the device to write where it is so `usual`.
    pub fn act(&mut self, memory: &GuestMemory, script: &mut Script<'_>, usual: bool) {
        match script.byte() % 8 {
            0..=3 => {
                let parts = self.parts(script, usual);
                self.offer(memory, &parts, script.byte() % 4 == 0);
            }
            4 => {
                let (place, word) = (u64::from(script.word() % 0x3000), script.word());
                put(memory, self.at.descriptors.0 + place, &word.to_le_bytes());
            }
            5 => {
                // The index, the flags and the event index, which is where the event index of used elements is waited for.
                let at = [2, 0, 4 + 2 * u64::from(self.size)][usize::from(script.byte() % 3)];
                let word = script.word();
                put(memory, self.at.available.0 + at, &word.to_le_bytes());
                if at == 2 {
                    self.offered = word;
                }
            }
            6 => {
                let (place, len) = (u64::from(script.word() % 0x8000), usize::from(script.byte()));
                put(memory, BUFFERS + place, script.bytes(len));
            }
            _ => self.offered_again(memory, script.byte()),
        }
    }

    fn parts(&self, script: &mut Script<'_>, usual: bool) -> Vec<Part> {
        let count = 1 + script.byte() % MAX_PARTS;
        let part = |script: &mut Script<'_>| {
            let kind = script.byte();
            let addr = if kind & 0xF0 == 0xF0 { script.number() } else { BUFFERS + u64::from(script.byte()) * 0x80 };
            let len = match kind % 8 {
                0 => u32::from(script.byte()),
                1 => 12,
                2 => 1526,
                3 => 0x1000,
                4 => 0x7000,
                5 => u32::from(script.word()),
                6 => 0,
                _ => u32::try_from(script.number() & 0xFFFF_FFFF).unwrap_or(0),
            };
            (addr, len, usual ^ (kind & 0x78 == 0x78))
        };
        (0..count).map(|_| part(script)).collect()
    }

    /// Makes a chain available; in an indirect table where that is wanted, which the chain's first descriptor names.
    pub fn offer(&mut self, memory: &GuestMemory, parts: &[Part], indirect: bool) {
        let head = self.next % self.size;
        if indirect {
            let table = HIGH + u64::from(head % 16) * 0x80;
            self.describe(memory, table, 0, MAX_PARTS.into(), parts);
            let whole = u32::try_from(parts.len()).unwrap_or(0) * 16;
            put(memory, self.at.descriptors.0 + u64::from(head) * 16, &descriptor(table, whole, INDIRECT, 0));
            self.next = self.next.wrapping_add(1);
        } else {
            self.describe(memory, self.at.descriptors.0, head, self.size, parts);
            self.next = self.next.wrapping_add(u16::try_from(parts.len()).unwrap_or(0));
        }
        self.offered_again(memory, u8::try_from(head).unwrap_or(0));
    }

    fn describe(&self, memory: &GuestMemory, table: u64, first: u16, size: u16, parts: &[Part]) {
        for (nth, (addr, len, write)) in (0u16..).zip(parts) {
            let (index, next) = ((first + nth) % size, (first + nth + 1) % size);
            let last = usize::from(nth) + 1 == parts.len();
            let flags = if last { 0 } else { NEXT } | if *write { WRITE } else { 0 };
            put(memory, table + u64::from(index) * 16, &descriptor(*addr, *len, flags, next));
        }
    }

    fn offered_again(&mut self, memory: &GuestMemory, head: u8) {
        let slot = u64::from(self.offered % self.size);
        put(memory, self.at.available.0 + 4 + slot * 2, &u16::from(head).to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        put(memory, self.at.available.0 + 2, &self.offered.to_le_bytes());
    }
}

fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    [&addr.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}
