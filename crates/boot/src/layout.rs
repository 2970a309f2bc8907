//! Where everything lies in the guest's physical address space. Shared by loader, ACPI tables and the vm process.
//!
//! ```text
//! 0 ......... low RAM ......... C0000000 .. MMIO .. E0000000 ECAM .. FEC00000 APICs .. 100000000 ..... high RAM
//! ```

use crate::Error;

/// One MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// Least memory of a guest: a stock Debian kernel with its initial RAM disk does not start in less.
pub const MIN_MEMORY: u64 = 64 * MIB;
/// Most memory of a guest: 40 bits, what every x86-64 host with nested paging can address.
pub const MAX_MEMORY: u64 = 1 << 40;
/// Most vCPUs of a guest: xAPIC ids and the MADT's plain entries reach that far without x2APIC.
pub const MAX_VCPUS: u16 = 64;

/// End of RAM below the hole at most; the rest of the memory lies from [`HIGH_RAM`].
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM: u64 = 0x1_0000_0000;
/// BARs of PCI functions: first byte.
pub const PCI_MMIO32: u64 = 0xC000_0000;
/// BARs of PCI functions: length of the window.
pub const PCI_MMIO32_LEN: u64 = 0x2000_0000;
/// PCI Express configuration space (ECAM) of bus 0.
pub const ECAM: u64 = 0xE000_0000;
/// 32 devices, 8 functions, 4 KiB each.
pub const ECAM_LEN: u64 = MIB;
/// The I/O APIC, emulated by KVM.
pub const IOAPIC: u32 = 0xFEC0_0000;
/// The local APICs, emulated by KVM.
pub const LAPIC: u32 = 0xFEE0_0000;
/// Identity map page of KVM on Intel processors: below the place of 4 MiB of firmware.
pub const KVM_IDENTITY_MAP: u64 = 0xFEFF_C000;
/// Three pages for KVM's task state segment on Intel processors.
pub const KVM_TSS: u64 = 0xFEFF_D000;

/// GDT of the entry state.
pub const GDT: u64 = 0x500;
/// PVH start info, module list and memory map.
pub const START_INFO: u64 = 0x6000;
/// Linux `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of a stack of almost a page that no entry protocol requires.
pub const BOOT_STACK: u64 = 0x8FF0;
/// Page tables of the 64-bit entry: PML4, PDPT, four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// ACPI tables but the RSDP, at the end of conventional memory: below the area of firmware, whose own tables lie elsewhere.
pub const ACPI: u64 = 0x9_0000;
/// Room for ACPI tables.
pub const ACPI_LEN: u64 = 0x1_0000;
/// First byte of the VGA hole, where conventional memory ends.
pub const CONVENTIONAL_END: u64 = ACPI + ACPI_LEN;
/// The RSDP of a kernel that is entered without firmware. It is told where; one that is not searches from here on.
pub const RSDP: u64 = 0xE_0000;
/// Length of an RSDP (ACPI 6.5, 5.2.5.3).
pub const RSDP_LEN: u64 = 36;
/// F000:FFF0, where a processor in real mode finds its way into firmware. A guest that resets by it jumps there.
pub const RESET_VECTOR: u64 = 0xF_FFF0;
/// First byte that a kernel may take.
pub const KERNEL_MIN: u64 = MIB;

/// ACPI fixed hardware: PM1a event block, 4 bytes of I/O ports.
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// ACPI fixed hardware: PM1a control block, 2 bytes.
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// ACPI fixed hardware: PM timer, 4 bytes.
pub const PM_TIMER_PORT: u16 = 0x608;
/// Ports of all ACPI fixed hardware, from [`PM1A_EVENT_PORT`].
pub const PM_PORTS_LEN: u8 = 0xC;
/// The interrupt of ACPI events: level, active high.
pub const SCI: u8 = 9;
/// SLP_TYP of the S5 state, as \_S5 tells the guest.
pub const S5_SLP_TYP: u8 = 5;
/// INTx of the PCI functions, which share these: level, and below 16, so that a guest reaches them through the I/O APIC and
/// through the 8259s alike. No device of this machine has them otherwise.
pub const INTX_IRQS: [u8; 3] = [5, 10, 11];
/// COM1: first of its eight ports.
pub const COM1_PORT: u16 = 0x3F8;
/// COM1's interrupt.
pub const COM1_IRQ: u8 = 4;
/// Index port of the CMOS clock; the other is the next.
pub const RTC_PORT: u16 = 0x70;
/// The CMOS clock's interrupt.
pub const RTC_IRQ: u8 = 8;
/// The reset control register of PC chipsets.
pub const RESET_PORT: u16 = 0xCF9;
/// What the guest writes to [`RESET_PORT`]: a hard reset.
pub const RESET_VALUE: u8 = 6;

/// The interrupt of the function in a slot of PCI bus 0.
#[must_use]
pub const fn intx_irq(slot: u8) -> u8 {
    let [a, b, c] = INTX_IRQS;
    match slot % 3 {
        0 => a,
        1 => b,
        _ => c,
    }
}

/// A piece of RAM; the pieces lie in one memory object, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ram {
    /// Guest physical address of its first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset of its first byte in the memory object.
    pub offset: u64,
}

/// The RAM of a guest with `bytes` of memory: one piece, or two around the hole below 4 GiB.
pub fn ram(bytes: u64) -> Result<Vec<Ram>, Error> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&bytes) || !bytes.is_multiple_of(MIB) {
        return Err(Error::MemorySize { bytes });
    }
    let low = bytes.min(LOW_RAM_END);
    let mut pieces = vec![Ram { gpa: 0, len: low, offset: 0 }];
    let high = bytes.saturating_sub(low);
    if high > 0 {
        pieces.push(Ram { gpa: HIGH_RAM, len: high, offset: low });
    }
    Ok(pieces)
}

/// First byte behind all RAM: the guest's physical address width must reach it.
#[must_use]
pub fn ram_end(ram: &[Ram]) -> u64 {
    ram.iter().map(|piece| piece.gpa.saturating_add(piece.len)).max().unwrap_or(0)
}

/// First byte behind the RAM below the hole.
#[must_use]
pub fn low_ram_end(ram: &[Ram]) -> u64 {
    ram.first().map_or(0, |piece| piece.len)
}

/// What an area of the address space is, in the numbers of E820 (ACPI 6.5, table 15.4), which PVH's memory map shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AreaKind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Reserved: not to be used, and no place for BARs.
    Reserved = 2,
    /// ACPI tables, which stay: the FACS among them is in use as long as the guest runs.
    AcpiNvs = 4,
}

/// One line of the memory map that the guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: AreaKind,
}

/// The memory map for the guest, ascending and without overlap.
#[must_use]
pub fn memory_map(ram: &[Ram]) -> Vec<Area> {
    let area = |gpa: u64, end: u64, kind| Area { gpa, len: end.saturating_sub(gpa), kind };
    let mut map = vec![
        area(0, ACPI, AreaKind::Ram),
        area(ACPI, CONVENTIONAL_END, AreaKind::AcpiNvs),
        area(CONVENTIONAL_END, KERNEL_MIN, AreaKind::Reserved),
        area(KERNEL_MIN, low_ram_end(ram), AreaKind::Ram),
        area(ECAM, ECAM.saturating_add(ECAM_LEN), AreaKind::Reserved),
    ];
    map.extend(ram.iter().skip(1).map(|piece| Area { gpa: piece.gpa, len: piece.len, kind: AreaKind::Ram }));
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_size_that_is_no_memory_is_refused() {
        for mib in [0, 1, 2, 4, 5, 63] {
            assert_eq!(ram(mib * MIB), Err(Error::MemorySize { bytes: mib * MIB }));
        }
        for bytes in [64 * MIB + 1, MAX_MEMORY + MIB, 1 << 44, u64::MAX] {
            assert_eq!(ram(bytes), Err(Error::MemorySize { bytes }));
        }
    }

    #[test]
    fn memory_up_to_the_hole_is_one_piece() {
        assert_eq!(ram(MIN_MEMORY).unwrap(), [Ram { gpa: 0, len: MIN_MEMORY, offset: 0 }]);
        assert_eq!(ram(LOW_RAM_END).unwrap().len(), 1);
        assert_eq!(ram_end(&ram(LOW_RAM_END).unwrap()), LOW_RAM_END);
    }

    #[test]
    fn memory_beyond_the_hole_goes_on_at_4_gib() {
        let pieces = ram(6 << 30).unwrap();
        assert_eq!(pieces[1], Ram { gpa: HIGH_RAM, len: (6 << 30) - LOW_RAM_END, offset: LOW_RAM_END });
        assert_eq!(ram_end(&pieces), HIGH_RAM + (3 << 30));
        assert_eq!(ram(LOW_RAM_END + MIB).unwrap()[1].len, MIB);
    }

    #[test]
    fn functions_share_interrupts_that_nothing_else_has() {
        let used: std::collections::BTreeSet<u8> = (1..32).map(intx_irq).collect();
        assert_eq!(used, INTX_IRQS.into());
        // Timer, keyboard, cascade, COM1, spurious, clock, SCI: as a PC has them.
        assert!([0, 1, 2, COM1_IRQ, 7, RTC_IRQ, SCI].iter().all(|irq| !used.contains(irq)));
    }

    #[test]
    fn the_small_areas_do_not_overlap() {
        let mut areas = [
            (GDT, 0x28),
            (START_INFO, 0x1000),
            (ZERO_PAGE, 0x1000),
            (BOOT_STACK - 0xFF0, 0xFF0),
            (PAGE_TABLES, 6 * 0x1000),
            (COMMAND_LINE, 0x1_0000),
            (ACPI, ACPI_LEN),
            (CONVENTIONAL_END, 0x2_0000), // VGA
            (RSDP, RSDP_LEN),
            (RESET_VECTOR, 0x10),
            (KERNEL_MIN, 1),
        ];
        areas.sort_unstable();
        assert!(areas.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }

    proptest! {
        #[test]
        fn the_map_is_sorted_disjoint_and_holds_all_ram(mib in 64u64..(1 << 20)) {
            let pieces = ram(mib * MIB).unwrap();
            let map = memory_map(&pieces);
            prop_assert!(map.windows(2).all(|pair| pair[0].gpa + pair[0].len <= pair[1].gpa));
            prop_assert!(map.iter().all(|area| area.len > 0));
            let usable: u64 = map.iter().filter(|area| area.kind == AreaKind::Ram).map(|area| area.len).sum();
            prop_assert_eq!(usable, mib * MIB - (KERNEL_MIN - ACPI));
            prop_assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), mib * MIB);
        }
    }
}
