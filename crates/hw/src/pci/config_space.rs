//! Configuration space of a type 0 function (PCI 3.0, chapter 6): bytes, and which bits of them a guest can change.
//!
//! Everything is immutable but the bits named writable when the function is built: identity, class, header type,
//! capability pointers and bodies cannot be changed by any access (openbsd/devices.md, 1.2). A BAR's low bits are
//! immutable too, so writing all ones and reading back gives the size, as in hardware.

use thiserror::Error;

use crate::access;
use crate::saved::{Flaw, check};

/// Configuration space that mechanism #1 reaches; the rest of an ECAM page reads all ones, as of functions that
/// are no PCI Express ones: Linux then knows their size, where 0 has it look for extended capabilities again and again.
pub const LEN: usize = 256;

/// Register offsets (PCI 3.0, 6.1).
pub mod offset {
    /// Command register.
    pub const COMMAND: usize = 0x04;
    /// Status register.
    pub const STATUS: usize = 0x06;
    /// First of the six BARs.
    pub const BAR0: usize = 0x10;
    /// Pointer to the first capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line, storage for the guest's use; then the interrupt pin: 0 none, 1 INTA.
    pub const INTERRUPT_LINE: usize = 0x3C;
}

/// Command register: accesses of ports are decoded.
pub const COMMAND_IO: u16 = 1;
/// Command register: memory accesses are decoded.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may master the bus.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: INTx is off.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Parity error response and SERR# enable: stored, without meaning here.
const COMMAND_ERRORS: u16 = 0x140;
/// Status register: an INTx interrupt waits.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status register: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST_CAPABILITY: u8 = 0x40;

/// Who a function is; none of it ever changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
    /// Base class.
    pub class: u8,
    /// Subclass.
    pub subclass: u8,
    /// Revision.
    pub revision: u8,
}

/// A function that cannot be built: a capability of so many bytes does not fit into its 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no room for a capability of {0} bytes")]
pub struct LayoutError(usize);

/// The 256 bytes of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; LEN]>,
    writable: Box<[u8; LEN]>,
    /// Where the next capability goes, and where its offset is written.
    free: u8,
    link: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities, its decoders off.
    pub fn new(id: Identity) -> Self {
        let mut space = Self {
            bytes: Box::new([0; LEN]),
            writable: Box::new([0; LEN]),
            free: FIRST_CAPABILITY,
            link: offset::CAPABILITIES,
        };
        space.put(0x00, &id.vendor.to_le_bytes());
        space.put(0x02, &id.device.to_le_bytes());
        space.put(0x08, &[id.revision, 0, id.subclass, id.class]);
        space.put(0x2C, &id.subsystem_vendor.to_le_bytes());
        space.put(0x2E, &id.subsystem.to_le_bytes());
        space
    }

    /// Lets the guest change the command bits of a function with this decoder, and the registers that are storage.
    pub fn allow_commands(&mut self, decoder: u16) {
        const COMMANDS: u16 = COMMAND_MASTER + COMMAND_INTX_DISABLE + COMMAND_ERRORS;
        self.allow(offset::COMMAND, &(COMMANDS | decoder).to_le_bytes());
        self.allow(0x0C, &[0xFF]); // cache line size
        self.allow(offset::INTERRUPT_LINE, &[0xFF]);
    }

    /// Gives the function BAR 0: 32-bit memory of `1 << bits` bytes, not prefetchable, with the base that firmware would
    /// have written.
    pub fn add_bar0(&mut self, bits: u32, base: u32) {
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0) & 0xFFFF_FFF0;
        self.put(offset::BAR0, &(base & mask).to_le_bytes());
        self.allow(offset::BAR0, &mask.to_le_bytes());
    }

    /// Gives the function BAR 0: `1 << bits` ports (PCI 3.0, 6.2.5.1), with the base that firmware would have written.
    pub fn add_port_bar0(&mut self, bits: u32, base: u16) {
        const PORTS: u32 = 1;
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0) & 0xFFFF_FFFC;
        self.put(offset::BAR0, &(u32::from(base) & mask | PORTS).to_le_bytes());
        self.allow(offset::BAR0, &mask.to_le_bytes());
    }

    /// Gives the function an interrupt pin (INTA) with the line firmware would have written.
    pub fn set_interrupt(&mut self, line: u8) {
        self.put(offset::INTERRUPT_LINE, &[line, 1]);
    }

    /// Appends a capability whose bytes after the link are `body`; `writable` has a bit for each that the guest may
    /// change. Returns the capability's offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<usize, LayoutError> {
        let error = LayoutError(body.len());
        let at = self.free;
        let len = body.len().checked_add(2).and_then(|len| u8::try_from(len.next_multiple_of(4)).ok());
        self.free = len.and_then(|len| at.checked_add(len)).ok_or(error)?;
        self.put(self.link, &[at]);
        let at = usize::from(at);
        self.put(at, &[id, 0]);
        self.put(at.saturating_add(2), body);
        self.allow(at.saturating_add(2), writable);
        self.link = at.saturating_add(1);
        self.put(offset::STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        Ok(at)
    }

    /// Reads at any offset and width; beyond the 256 bytes: all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        access::copy(self.bytes.as_slice(), usize::from(offset), data, 0xFF);
    }

    /// Writes at any offset and width: only writable bits change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, new) in (usize::from(offset)..LEN).zip(data) {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = (*byte & !mask) | (new & mask);
            }
        }
    }

    /// The 16-bit register at `at`.
    pub fn u16_at(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        access::copy(self.bytes.as_slice(), at, &mut bytes, 0);
        u16::from_le_bytes(bytes)
    }

    /// The 32-bit register at `at`.
    pub fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        access::copy(self.bytes.as_slice(), at, &mut bytes, 0);
        u32::from_le_bytes(bytes)
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.u16_at(offset::COMMAND)
    }

    /// Shows in the status register whether an INTx interrupt waits.
    pub fn show_interrupt(&mut self, waits: bool) {
        let others = self.u16_at(offset::STATUS) & !STATUS_INTERRUPT;
        let status = if waits { others | STATUS_INTERRUPT } else { others };
        self.put(offset::STATUS, &status.to_le_bytes());
    }

    /// All 256 bytes, to be saved.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Takes bytes that were saved, if nothing in them differs that no guest can change: a function of the same kind had
    /// them. Whether an interrupt waits is left to [`Self::show_interrupt`].
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        check(bytes.len() == LEN, "the configuration space's length")?;
        let [interrupt, _] = STATUS_INTERRUPT.to_le_bytes();
        let own = (0_usize..).zip(self.bytes.iter().zip(self.writable.iter()));
        let same = own.zip(bytes).all(|((at, (own, writable)), saved)| {
            let shown = if at == offset::STATUS { interrupt } else { 0 };
            (own ^ saved) & !(writable | shown) == 0
        });
        check(same, "the configuration space")?;
        self.write(0, bytes);
        Ok(())
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        for (at, byte) in (at..LEN).zip(data) {
            if let Some(to) = self.bytes.get_mut(at) {
                *to = *byte;
            }
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (at, bits) in (at..LEN).zip(mask) {
            if let Some(to) = self.writable.get_mut(at) {
                *to |= bits;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_register_shows_capabilities_and_a_waiting_interrupt() {
        let id =
            Identity { vendor: 1, device: 2, subsystem_vendor: 3, subsystem: 4, class: 5, subclass: 6, revision: 7 };
        let mut space = ConfigSpace::new(id);
        assert_eq!(space.u16_at(0x06), 0);
        space.add_capability(9, &[0; 6], &[]).unwrap();
        for (waits, status) in [(false, 0x10), (true, 0x18), (true, 0x18), (false, 0x10)] {
            space.show_interrupt(waits);
            assert_eq!(space.u16_at(0x06), status);
        }
    }

    #[test]
    fn the_guest_changes_the_bits_of_commands_and_of_storage_alone() {
        let id =
            Identity { vendor: 1, device: 2, subsystem_vendor: 3, subsystem: 4, class: 5, subclass: 6, revision: 7 };
        let mut space = ConfigSpace::new(id);
        space.allow_commands(COMMAND_MEMORY);
        space.set_interrupt(11);
        assert_eq!(space.u16_at(0x3C), 0x010B);
        space.write(0, &[0xFF; 0x40]);
        assert_eq!((space.u16_at(0x04), space.u16_at(0x06)), (0x0546, 0));
        assert_eq!((space.u32_at(0x0C), space.u16_at(0x3C), space.u32_at(0x10)), (0xFF, 0x01FF, 0));
        space.write(0x04, &[0x02, 0x04]);
        assert_eq!(space.u16_at(0x04), 0x0402);
    }
}
