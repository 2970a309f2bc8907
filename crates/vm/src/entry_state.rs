//! What a vCPU starts with, in KVM's terms: registers of the entry, MSRs, local interrupt pins.

use boot::registers::{Registers, Segment};
use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::error::Error;

const MSR_IA32_MISC_ENABLE: u32 = 0x1A0;
/// Fast strings.
const MISC_ENABLE: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
/// Enabled, and write-back wherever no range says otherwise.
const MTRR_WRITE_BACK: u64 = 0xC06;

const FCW_RESET: u16 = 0x37F;
const MXCSR_RESET: u32 = 0x1F80;

/// Offsets in the local APIC's page (Intel SDM volume 3, table 11-1).
const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector.
const MODE_NMI: u32 = 0b100 << 8;
const MODE_EXTINT: u32 = 0b111 << 8;
/// All bits of the mode.
const MODES: u32 = 0b111 << 8;
/// A local vector that tells nothing.
const MASKED: u32 = 1 << 16;

/// MSRs that every vCPU starts with.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE), entry(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries).expect("two entries are fewer than the most");
    let set = vcpu.set_msrs(&msrs).map_err(Error::kvm("set MSRs"))?;
    if set < entries.len() {
        return Err(Error::NoKvm("lacks MSRs that every processor has"));
    }
    Ok(())
}

/// The first vCPU's registers. The others wait for the first to wake them, in the state that KVM made them in.
pub fn set_first(vcpu: &VcpuFd, registers: &Registers) -> Result<(), Error> {
    vcpu.set_regs(&general(registers)).map_err(Error::kvm("set registers"))?;
    let mut special = vcpu.get_sregs().map_err(Error::kvm("get special registers"))?;
    set_special(&mut special, registers);
    vcpu.set_sregs(&special).map_err(Error::kvm("set special registers"))?;
    let fpu = kvm_fpu { fcw: FCW_RESET, mxcsr: MXCSR_RESET, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("set floating point"))?;
    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("get local APIC"))?;
    wire_local_pins(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(Error::kvm("set local APIC"))
}

fn general(registers: &Registers) -> kvm_regs {
    kvm_regs {
        rip: registers.rip,
        rsp: registers.rsp,
        rbx: registers.rbx,
        rsi: registers.rsi,
        rflags: registers.rflags,
        ..Default::default()
    }
}

fn set_special(special: &mut kvm_sregs, registers: &Registers) {
    let data = segment(registers.data);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.cs = segment(registers.code);
    special.tr = segment(registers.task);
    special.gdt.base = registers.gdt_base;
    special.gdt.limit = registers.gdt_limit;
    (special.idt.base, special.idt.limit) = (0, 0);
    (special.cr0, special.cr3, special.cr4) = (registers.cr0, registers.cr3, registers.cr4);
    special.efer = registers.efer;
}

/// What the processor reads of a descriptor (Intel SDM volume 3, figure 3-8).
fn segment(Segment { selector, descriptor }: Segment) -> kvm_segment {
    let [l0, l1, b0, b1, b2, access, flags, b3] = descriptor.to_le_bytes();
    let limit = u32::from_le_bytes([l0, l1, flags & 0xF, 0]);
    let bit = |byte: u8, place: u8| byte >> place & 1;
    let g = bit(flags, 7);
    kvm_segment {
        base: u32::from_le_bytes([b0, b1, b2, b3]).into(),
        limit: if g == 1 { limit << 12 | 0xFFF } else { limit },
        selector,
        type_: access & 0xF,
        s: bit(access, 4),
        dpl: access >> 5 & 3,
        present: bit(access, 7),
        avl: bit(flags, 4),
        l: bit(flags, 5),
        db: bit(flags, 6),
        g,
        ..Default::default()
    }
}

/// Whether an edge at pin 1 is an NMI: the local vector's mode is NMI, and it is not masked.
pub fn takes_nmi(lapic: &kvm_lapic_state) -> bool {
    let mut vector = [0; size_of::<u32>()];
    for (byte, value) in vector.iter_mut().zip(lapic.regs.iter().skip(LAPIC_LVT_LINT1)) {
        [*byte] = value.to_le_bytes();
    }
    u32::from_le_bytes(vector) & (MASKED | MODES) == MODE_NMI
}

/// As firmware leaves them: the 8259 at pin 0, NMI at pin 1.
fn wire_local_pins(lapic: &mut kvm_lapic_state) {
    for (offset, mode) in [(LAPIC_LVT_LINT0, MODE_EXTINT), (LAPIC_LVT_LINT1, MODE_NMI)] {
        let register = lapic.regs.iter_mut().skip(offset).take(size_of::<u32>());
        for (byte, value) in register.zip(mode.to_le_bytes()) {
            *byte = i8::from_le_bytes([value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_pins_are_wired_as_firmware_leaves_them() {
        let mut lapic = kvm_lapic_state { regs: [-1; 1024] };
        wire_local_pins(&mut lapic);
        assert_eq!(lapic.regs[0x350..0x354], [0, 7, 0, 0]);
        assert_eq!(lapic.regs[0x360..0x364], [0, 4, 0, 0]);
        assert_eq!((lapic.regs[0x34F], lapic.regs[0x354]), (-1, -1));
    }

    #[test]
    fn an_nmi_is_taken_where_pin_1_says_so_and_is_not_masked() {
        let mut lapic = kvm_lapic_state { regs: [-1; 1024] };
        wire_local_pins(&mut lapic);
        assert!(takes_nmi(&lapic), "as firmware leaves it");
        for (byte, value) in [(0x362, 1), (0x361, 0), (0x361, 7), (0x361, 6)] {
            let mut other = lapic;
            other.regs[byte] = value;
            assert!(!takes_nmi(&other), "{byte:#x}: {value}");
        }
        lapic.regs[0x360] = 2;
        assert!(takes_nmi(&lapic), "the vector is not looked at");
    }

    #[test]
    fn a_descriptor_has_its_fields_where_the_processor_reads_them() {
        let none = kvm_segment { selector: 8, ..Default::default() };
        for (bits, read) in [
            (0, none),
            (0x1200_0034_5678_0000, kvm_segment { base: 0x1234_5678, ..none }),
            (0x000A_0000_0000_BCDE, kvm_segment { limit: 0xA_BCDE, ..none }),
            (0x008A_0000_0000_BCDE, kvm_segment { limit: 0xABCD_EFFF, g: 1, ..none }),
            (0xF << 40, kvm_segment { type_: 0xF, ..none }),
            (1 << 44, kvm_segment { s: 1, ..none }),
            (3 << 45, kvm_segment { dpl: 3, ..none }),
            (1 << 47, kvm_segment { present: 1, ..none }),
            (1 << 52, kvm_segment { avl: 1, ..none }),
            (1 << 53, kvm_segment { l: 1, ..none }),
            (1 << 54, kvm_segment { db: 1, ..none }),
        ] {
            assert_eq!(segment(Segment { selector: 8, descriptor: bits }), read, "{bits:#x}");
        }
    }

    #[test]
    fn segments_keep_all_that_the_entry_says() {
        let registers = Registers::linux_64(0x100_0200);
        let mut special = kvm_sregs::default();
        set_special(&mut special, &registers);
        assert_eq!((special.cs.selector, special.cs.l, special.cs.db, special.cs.type_), (0x10, 1, 0, 0xB));
        assert_eq!((special.ss.selector, special.ss.l, special.ss.db, special.ss.limit), (0x18, 0, 1, u32::MAX));
        assert_eq!((special.tr.s, special.tr.g, special.tr.limit), (0, 0, 0x67));
        assert_eq!((special.gdt.base, special.gdt.limit), (0x500, 39));
        assert_eq!(general(&registers).rsi, 0x7000);
    }
}
