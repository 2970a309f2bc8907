//! Which function and register a configuration access means: mechanism #1 (PCI 3.0, 3.2.2.3.2) and ECAM (PCIe 5.0, 7.2.2).

use crate::effect::Slot;

/// Device numbers on a bus.
pub const SLOTS: u8 = 32;
/// Bytes of configuration space of a function in the ECAM.
pub const ECAM_PAGE_LEN: u16 = 4096;
/// Bytes of bus 0's ECAM: a page for each function.
pub const ECAM_LEN: u64 = SLOTS as u64 * 8 * ECAM_PAGE_LEN as u64;
const ENABLE: u32 = 1 << 31;

/// A register of an existing address: bus 0, function 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigRegister {
    /// The device number, below [`SLOTS`].
    pub slot: Slot,
    /// Byte offset in the function's configuration space.
    pub offset: u16,
}

/// What an access of `len` bytes to 0xCFC + `lane` means under the address register's value. `None` reads all ones.
pub fn mechanism_1(address: u32, lane: u16, len: usize) -> Option<ConfigRegister> {
    let [register, device_function, bus, _] = address.to_le_bytes();
    let fits = usize::from(lane).checked_add(len).is_some_and(|end| end <= 4);
    if address & ENABLE == 0 || bus != 0 || device_function & 7 != 0 || !fits {
        return None;
    }
    let offset = u16::from(register & 0xFC) | (lane & 3);
    Some(ConfigRegister { slot: Slot(device_function >> 3), offset })
}

/// What an access of `len` bytes at `offset` in bus 0's ECAM means, beyond its end too. `None` reads all ones.
pub fn ecam(offset: u64, len: usize) -> Option<ConfigRegister> {
    let slot = u8::try_from(offset >> 15).ok().filter(|slot| *slot < SLOTS)?;
    let function = (offset >> 12) & 7;
    let register = u16::try_from(offset & 0xFFF).ok()?;
    let fits = usize::from(register).checked_add(len).is_some_and(|end| end <= usize::from(ECAM_PAGE_LEN));
    (function == 0 && fits).then_some(ConfigRegister { slot: Slot(slot), offset: register })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanism_1_needs_the_enable_bit_bus_0_and_function_0() {
        let there = Some(ConfigRegister { slot: Slot(3), offset: 0x12 });
        assert_eq!(mechanism_1(0x8000_1810, 2, 2), there);
        assert_eq!(mechanism_1(0x8000_1813, 2, 2), there, "the two low bits are not part of the register number");
        assert_eq!(mechanism_1(0x0000_1810, 2, 2), None);
        assert_eq!(mechanism_1(0x8001_1810, 2, 2), None);
        for function in 1..8 {
            assert_eq!(mechanism_1(0x8000_1810 | function << 8, 0, 4), None);
        }
    }

    #[test]
    fn mechanism_1_stays_within_the_dword() {
        assert_eq!(mechanism_1(0x8000_0000, 3, 2), None);
        assert_eq!(mechanism_1(0x8000_0000, 1, 4), None);
        assert_eq!(mechanism_1(0x8000_00FC, 3, 1).map(|register| register.offset), Some(0xFF));
    }

    #[test]
    fn ecam_stays_within_the_page_and_the_bus() {
        assert_eq!(ecam(0x0001_8012, 2), Some(ConfigRegister { slot: Slot(3), offset: 0x12 }));
        assert_eq!(ecam(0x0001_8FFE, 4), None);
        assert_eq!(ecam(0x0001_9000, 4), None, "function 1");
        assert_eq!(ecam(0x0010_0000, 4), None, "bus 1");
        assert_eq!(ecam(u64::MAX, 8), None);
    }
}
