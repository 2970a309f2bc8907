//! ACPI tables (ACPI 6.5, chapter 5): what tells the guest of its processors, interrupts, power button, PCI bus and ports.
//!
//! Fixed hardware, not the reduced kind: older OpenBSD and Windows guests do not take the latter. The RSDP lies where also a
//! guest without a pointer searches for it, all other tables in [`layout::ACPI`].

mod dsdt;
mod fadt;
mod madt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::{Error, layout};

/// The FACS wants 64 bytes (5.2.10), the others nothing in particular.
const TABLE_ALIGN: u64 = 64;
const OEM_ID: [u8; 6] = *b"VMD   ";
const OEM_TABLE_ID: [u8; 8] = *b"VMDGUEST";
const OEM_REVISION: u32 = 1;
/// The only segment group, whose only bus is 0.
const PCI_SEGMENT: u16 = 0;

/// Writes all tables for a guest with `vcpus` vCPUs, whose APIC ids are 0 and up.
pub fn write<M: GuestMemoryBackend>(memory: &M, vcpus: u16) -> Result<(), Error> {
    for (gpa, bytes) in tables(vcpus)? {
        memory.write_slice(&bytes, GuestAddress(gpa)).map_err(|_| Error::Memory(gpa))?;
    }
    Ok(())
}

/// The tables with their addresses.
fn tables(vcpus: u16) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let mut area = Area { next: layout::ACPI, tables: Vec::new() };
    let facs = area.add(bytes(&FACS::new()))?;
    let dsdt = area.add(dsdt::table())?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(area.add(fadt::table(facs, dsdt)?)?);
    xsdt.add_entry(area.add(madt::table(vcpus)?)?);
    xsdt.add_entry(area.add(mcfg())?);
    let xsdt = area.add(bytes(&xsdt))?;
    area.tables.push((layout::RSDP, bytes(&Rsdp::new(OEM_ID, xsdt))));
    Ok(area.tables)
}

fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM, PCI_SEGMENT, 0, 0);
    bytes(&mcfg)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Places tables one behind the other.
struct Area {
    next: u64,
    tables: Vec<(u64, Vec<u8>)>,
}

impl Area {
    fn add(&mut self, bytes: Vec<u8>) -> Result<u64, Error> {
        let gpa = self.next;
        let end = gpa.saturating_add(bytes.len() as u64);
        if end > layout::ACPI.saturating_add(layout::ACPI_LEN) {
            return Err(Error::AcpiArea);
        }
        self.next = end.next_multiple_of(TABLE_ALIGN);
        self.tables.push((gpa, bytes));
        Ok(gpa)
    }
}

#[cfg(test)]
mod tests;
