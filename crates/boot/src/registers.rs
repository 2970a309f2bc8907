//! The state of the first vCPU at entry, as plain data: the vm process translates it for KVM.

use crate::layout;

/// A segment register: all of its hidden part is in its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the descriptor in the GDT.
    pub selector: u16,
    /// The descriptor in memory (Intel SDM volume 3, figure 3-8).
    pub descriptor: u64,
}

/// What the first vCPU starts with; a register that isn't named is zero or as after reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// PVH: address of the start info.
    pub rbx: u64,
    /// Linux: address of the zero page.
    pub rsi: u64,
    /// Only the bit that is always set: interrupts are off.
    pub rflags: u64,
    /// Protection and, for the 64-bit entry, paging.
    pub cr0: u64,
    /// Root of the page tables.
    pub cr3: u64,
    /// Physical address extension for the 64-bit entry.
    pub cr4: u64,
    /// Long mode for the 64-bit entry.
    pub efer: u64,
    /// CS.
    pub code: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// TR.
    pub task: Segment,
    /// Address of the GDT.
    pub gdt_base: u64,
    /// Last byte of the GDT.
    pub gdt_limit: u16,
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

// Selectors of Linux' boot protocol (`__BOOT_CS`, `__BOOT_DS`, `__BOOT_TSS`).
/// All of memory, execute and read, accessed, 64-bit mode.
const CODE_64: Segment = Segment { selector: 0x10, descriptor: 0x00AF_9B00_0000_FFFF };
/// The same, 32 bits wide.
const CODE_32: Segment = Segment { selector: 0x10, descriptor: 0x00CF_9B00_0000_FFFF };
/// All of memory, read and write, accessed, 32 bits wide.
const DATA: Segment = Segment { selector: 0x18, descriptor: 0x00CF_9300_0000_FFFF };
/// The smallest 32-bit task state segment, busy.
const TASK: Segment = Segment { selector: 0x20, descriptor: 0x0000_8B00_0000_0067 };

/// Descriptors of the GDT: two that are null, code, data, task.
const GDT_ENTRIES: usize = 5;
/// Last byte of the GDT.
const GDT_LIMIT: u16 = 39;

impl Registers {
    /// The 64-bit entry of Linux' boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    #[must_use]
    pub fn linux_64(entry: u64) -> Self {
        Self {
            rsi: layout::ZERO_PAGE,
            cr0: CR0_PE + CR0_ET + CR0_PG,
            cr3: layout::PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LME + EFER_LMA,
            code: CODE_64,
            ..Self::protected(entry)
        }
    }

    /// The entry of Xen's PVH ABI (docs/misc/pvh.pandoc): 32-bit protected mode without paging.
    #[must_use]
    pub fn pvh(entry: u32) -> Self {
        Self { rbx: layout::START_INFO, ..Self::protected(u64::from(entry)) }
    }

    fn protected(entry: u64) -> Self {
        Self {
            rip: entry,
            rsp: layout::BOOT_STACK,
            rbx: 0,
            rsi: 0,
            rflags: RFLAGS_RESERVED,
            cr0: CR0_PE + CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            code: CODE_32,
            data: DATA,
            task: TASK,
            gdt_base: layout::GDT,
            gdt_limit: GDT_LIMIT,
        }
    }

    /// The GDT that fits these segments, for [`layout::GDT`].
    #[must_use]
    pub fn gdt(&self) -> [u64; GDT_ENTRIES] {
        [0, 0, self.code.descriptor, self.data.descriptor, self.task.descriptor]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gdt_of_the_64_bit_entry_holds_the_well_known_descriptors() {
        let registers = Registers::linux_64(0x100_0200);
        assert_eq!(registers.gdt()[2..4], [0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF]);
        assert_eq!(registers.gdt()[4], 0x0000_8B00_0000_0067);
        assert_eq!((registers.rip, registers.rsi), (0x100_0200, 0x7000));
        assert_eq!((registers.cr0, registers.cr4, registers.efer), (0x8000_0011, 0x20, 0x500));
    }

    #[test]
    fn pvh_enters_flat_protected_mode_without_paging() {
        let registers = Registers::pvh(0x100_0850);
        assert_eq!(registers.gdt()[2], 0x00CF_9B00_0000_FFFF);
        assert_eq!((registers.rip, registers.rbx), (0x100_0850, 0x6000));
        assert_eq!((registers.cr0, registers.cr3, registers.cr4, registers.efer), (0x11, 0, 0, 0));
        assert_eq!(registers.gdt()[4], 0x0000_8B00_0000_0067);
    }

    #[test]
    fn both_entries_begin_with_the_same_registers_but_for_their_own() {
        let linux = Registers::linux_64(0x100_0200);
        let pvh = Registers { cr0: 0x11, cr3: 0, cr4: 0, efer: 0, rsi: 0, rbx: 0x6000, ..linux };
        let bits_32 = Segment { descriptor: linux.code.descriptor ^ (0b11 << 53), ..linux.code };
        assert_eq!(Registers::pvh(0x100_0200), Registers { code: bits_32, ..pvh });
        assert_eq!((linux.cr3, linux.rbx, linux.rsp, linux.rflags), (0x9000, 0, 0x8FF0, 2));
        assert_eq!((linux.gdt_base, linux.gdt_limit), (0x500, 39));
        assert_eq!((linux.code.selector, linux.data.selector, linux.task.selector), (0x10, 0x18, 0x20));
    }

    #[test]
    fn the_gdt_limit_is_that_of_the_gdt() {
        assert_eq!(usize::from(GDT_LIMIT) + 1, GDT_ENTRIES * 8);
    }
}
