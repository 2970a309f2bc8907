//! The multiple APIC description table (ACPI 6.5, 5.2.12): local APICs, the I/O APIC, and which interrupts are levels.
//!
//! ISA interrupt 0 needs no override: with the interrupt routing of the vm process the timer is at pin 0, as the number says.

use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::{Error, layout};

/// The header of all tables, then address of the local APICs and flags.
const LEN: u32 = 44;
const REVISION: u8 = 5;
const LOCAL_APIC_ADDRESS: usize = 36;
const FLAGS: usize = 40;
/// There are also two 8259 interrupt controllers, to be masked.
const PCAT_COMPAT: u32 = 1;
/// Interrupt source override (5.2.12.5): type, length, bus ISA, source, GSI, flags level and active high.
const fn level(irq: u8) -> [u8; 10] {
    [2, 10, 0, irq, irq, 0, 0, 0, 0b1101, 0]
}
/// Local APIC NMI (5.2.12.7): type, length, all processors, flags as the bus has it, LINT1.
const LOCAL_NMI: [u8; 6] = [4, 6, 0xFF, 0, 0, 1];

pub(super) fn table(vcpus: u16) -> Result<Vec<u8>, Error> {
    if !(1..=layout::MAX_VCPUS).contains(&vcpus) {
        return Err(Error::VcpuCount(vcpus));
    }
    // MAX_VCPUS is below 255, so ids of vCPUs and of the I/O APIC fit a byte.
    let count = u8::try_from(vcpus).map_err(|_| Error::VcpuCount(vcpus))?;
    let mut madt = Sdt::new(*b"APIC", LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_bytes(LOCAL_APIC_ADDRESS, &layout::LAPIC.to_le_bytes());
    madt.write_bytes(FLAGS, &PCAT_COMPAT.to_le_bytes());
    for id in 0..count {
        madt.append_slice(&bytes(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    madt.append_slice(&bytes(&IoApic::new(ioapic_id(), layout::IOAPIC, 0)));
    for irq in layout::INTX_IRQS.into_iter().chain([layout::SCI]) {
        madt.append_slice(&level(irq));
    }
    madt.append_slice(&LOCAL_NMI);
    Ok(madt.as_slice().to_vec())
}

/// KVM's I/O APIC answers with id 0 until the guest programs another; this one no vCPU has.
fn ioapic_id() -> u8 {
    u8::try_from(layout::MAX_VCPUS).unwrap_or(u8::MAX)
}
