//! MSI-X (PCI 3.0, 6.8.2): the table, the pending bits and the mask, as registers. Delivery is the caller's.

use serde::{Deserialize, Serialize};

use crate::access;
use crate::effect::MsiMessage;
use crate::saved::{Flaw, check};

/// Bytes of a table entry: address low and high, data, vector control.
pub const ENTRY_LEN: u16 = 16;
/// Most vectors a table can have (6.8.2.3: 11 bits of table size).
pub const MAX_VECTORS: u16 = 2048;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: the vector is masked. The other bits are reserved and read 0.
const VECTOR_MASKED: u32 = 1;
/// Messages are aligned.
const ADDRESS_BITS: u64 = !3;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// The vectors of one function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Msix {
    entries: Vec<Entry>,
    /// These two follow the message control register.
    #[serde(skip)]
    enabled: bool,
    #[serde(skip)]
    function_masked: bool,
}

impl Msix {
    /// A table of `vectors` masked entries, MSI-X off.
    pub fn new(vectors: u16) -> Self {
        let entry = Entry { address: 0, data: 0, masked: true, pending: false };
        Self { entries: vec![entry; usize::from(vectors)], enabled: false, function_masked: false }
    }

    /// Whether the guest has switched MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(MAX_VECTORS)
    }

    /// The message control register changed. Switching MSI-X off forgets what was pending.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if !self.enabled {
            self.entries.iter_mut().for_each(|entry| entry.pending = false);
        }
    }

    /// Takes a table that was saved, and the message control register that belongs to it.
    pub fn restore(&mut self, saved: Self, control: u16) -> Result<(), Flaw> {
        check(saved.entries.len() == self.entries.len(), "the MSI-X table's length")?;
        check(saved.entries.iter().all(|entry| entry.address & !ADDRESS_BITS == 0), "an MSI-X address")?;
        let pending = saved.entries.iter().any(|entry| entry.pending);
        *self = saved;
        self.set_control(control);
        check(self.enabled || !pending, "a pending bit of MSI-X")
    }

    /// What an interrupt of this vector sends; `None` while it is masked, is off, or does not name a local APIC.
    pub fn message(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        let open = self.enabled && !self.function_masked && !entry.masked;
        let message = MsiMessage { address: entry.address, data: entry.data };
        (open && deliverable(message)).then_some(message)
    }

    /// Remembers an interrupt of a masked vector.
    pub fn set_pending(&mut self, vector: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            entry.pending = true;
        }
    }

    /// Messages that were pending and can now be sent; they are no longer pending.
    pub fn take_deliverable(&mut self) -> Vec<MsiMessage> {
        let waiting = |(vector, entry): (u16, &Entry)| entry.pending.then_some(vector);
        let vectors: Vec<u16> = (0..=u16::MAX).zip(&self.entries).filter_map(waiting).collect();
        let mut messages = Vec::new();
        for vector in vectors {
            if let (Some(message), Some(entry)) = (self.message(vector), self.entries.get_mut(usize::from(vector))) {
                entry.pending = false;
                messages.push(message);
            }
        }
        messages
    }

    /// Reads the table at any offset and width; beyond its end: 0.
    pub fn read_table(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..=u16::MAX).zip(data) {
            let lane = usize::from(at % ENTRY_LEN);
            if let Some(entry) = self.entries.get(usize::from(at / ENTRY_LEN)) {
                access::copy(&entry.bytes(), lane, std::slice::from_mut(byte), 0);
            }
        }
    }

    /// Writes a naturally aligned 4 or 8 bytes; other accesses are not defined (6.8.2) and change nothing.
    pub fn write_table(&mut self, offset: u16, data: &[u8]) {
        let aligned = matches!((data.len(), offset % 8), (4, 0 | 4) | (8, 0));
        let Some(entry) = self.entries.get_mut(usize::from(offset / ENTRY_LEN)).filter(|_| aligned) else {
            return;
        };
        let mut bytes = entry.bytes();
        access::merge(&mut bytes, 0, usize::from(offset % ENTRY_LEN), data);
        entry.set(bytes);
    }

    /// Reads the pending bits at any offset and width. `held` says whether the owner holds an interrupt of a vector.
    pub fn read_pending(&self, offset: u16, data: &mut [u8], held: impl Fn(u16) -> bool) {
        data.fill(0);
        for (at, byte) in (offset..=u16::MAX).zip(data) {
            for bit in 0..8 {
                let vector = at.saturating_mul(8).saturating_add(bit);
                let Some(entry) = self.entries.get(usize::from(vector)) else { return };
                if self.enabled && (entry.pending || held(vector)) {
                    *byte |= 1 << bit;
                }
            }
        }
    }
}

impl Entry {
    fn bytes(&self) -> [u8; 16] {
        let control = if self.masked { VECTOR_MASKED } else { 0 };
        let words = u128::from(self.address) | u128::from(self.data) << 64 | u128::from(control) << 96;
        words.to_le_bytes()
    }

    fn set(&mut self, bytes: [u8; 16]) {
        let (address, rest) = bytes.split_at(8);
        let (data, control) = rest.split_at(4);
        self.address = access::value(address) & ADDRESS_BITS;
        self.data = u32::try_from(access::value(data)).unwrap_or(0);
        self.masked = access::value(control) & u64::from(VECTOR_MASKED) != 0;
    }
}

/// Fixed and lowest-priority messages to the local APICs (openbsd/devices.md, 1.4; Intel SDM volume 3, 11.11). The
/// upper half of the address may hold the rest of an x2APIC id.
fn deliverable(message: MsiMessage) -> bool {
    let to_local_apics = message.address & 0xFFF0_0000 == 0xFEE0_0000;
    let delivery_mode = message.data >> 8 & 7;
    to_local_apics && delivery_mode <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0xFEE0_1000;

    fn open(msix: &mut Msix, vector: u16) {
        msix.write_table(vector * 16, &ADDRESS.to_le_bytes());
        msix.write_table(vector * 16 + 8, &0x41_u32.to_le_bytes());
        msix.write_table(vector * 16 + 12, &0_u32.to_le_bytes());
    }

    #[test]
    fn a_table_entry_starts_masked() {
        let mut msix = Msix::new(2);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(msix.message(0), None);
        open(&mut msix, 0);
        assert_eq!(msix.message(0), Some(MsiMessage { address: ADDRESS, data: 0x41 }));
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        assert_eq!(msix.message(0), None);
        msix.set_control(0);
        assert_eq!(msix.message(0), None);
    }

    #[test]
    fn a_pending_vector_is_delivered_once_when_unmasked() {
        let mut msix = Msix::new(2);
        msix.set_control(CONTROL_ENABLE);
        msix.set_pending(1);
        assert_eq!(msix.take_deliverable(), vec![]);
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits, |_| false);
        assert_eq!(bits, [2, 0, 0, 0, 0, 0, 0, 0]);
        open(&mut msix, 1);
        assert_eq!(msix.take_deliverable().len(), 1);
        assert_eq!(msix.take_deliverable(), vec![]);
    }

    #[test]
    fn what_was_pending_is_forgotten_when_msix_is_off_and_not_before() {
        let sent = |control| {
            let mut msix = Msix::new(2);
            assert_eq!(msix.vectors(), 2);
            msix.set_control(0x8000);
            open(&mut msix, 1);
            msix.set_control(0xC000); // masked as a whole
            msix.set_pending(1);
            msix.set_control(control);
            msix.set_control(0x8000);
            msix.take_deliverable().len()
        };
        assert_eq!([0x8000, 0xC000, 0x4000, 0].map(sent), [1, 1, 0, 0]);
    }

    #[test]
    fn wrong_vectors_widths_and_offsets_change_nothing() {
        let mut msix = Msix::new(2);
        msix.set_control(CONTROL_ENABLE);
        for (offset, len) in [(12, 1), (12, 2), (10, 4), (4, 8), (32, 4), (0xFFFC, 4), (0xFFF8, 8)] {
            msix.write_table(offset, &vec![0; len]);
        }
        let mut control = [0; 4];
        msix.read_table(12, &mut control);
        assert_eq!(control, [1, 0, 0, 0]);
        msix.set_pending(2);
        msix.set_pending(0xFFFF);
        assert_eq!(msix.take_deliverable(), vec![]);
    }

    #[test]
    fn a_message_that_names_no_local_apic_is_not_delivered() {
        let mut msix = Msix::new(1);
        msix.set_control(CONTROL_ENABLE);
        open(&mut msix, 0);
        for (address, data) in [(0x1000, 0x41), (0xFEF0_0000, 0x41), (ADDRESS, 0x0241), (ADDRESS, 0x0741)] {
            msix.write_table(0, &u64::to_le_bytes(address));
            msix.write_table(8, &u32::to_le_bytes(data));
            assert_eq!(msix.message(0), None, "{address:x} {data:x}");
        }
    }

    #[test]
    fn only_a_table_that_the_function_can_have_is_restored() {
        let restored = |saved, control| Msix::new(2).restore(saved, control);
        let mut pending = Msix::new(2);
        pending.set_pending(1);
        assert_eq!(restored(pending.clone(), CONTROL_ENABLE), Ok(()));
        assert_eq!(restored(pending, CONTROL_FUNCTION_MASK), Err(Flaw::Field("a pending bit of MSI-X")));
        assert_eq!(restored(Msix::new(3), 0), Err(Flaw::Field("the MSI-X table's length")));
        let mut odd = Msix::new(2);
        odd.entries[1].address = ADDRESS;
        assert_eq!(restored(odd.clone(), 0), Ok(()));
        odd.entries[1].address = ADDRESS | 2;
        assert_eq!(restored(odd, 0), Err(Flaw::Field("an MSI-X address")));
    }
}
