//! The differentiated system description table: AML (ACPI 6.5, chapter 20) for S5, PCI host bridge, serial port and clock.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, PackageBuilder,
    Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::layout;

const HEADER_LEN: u32 = 36;
/// Revision 2 and later: integers have 64 bits.
const REVISION: u8 = 2;
/// The PCI configuration ports, which are the host bridge's own.
const CONFIG_PORTS: u16 = 0xCF8;
const CONFIG_PORTS_LEN: u8 = 8;
/// Slots of a PCI bus; the host bridge's, 0, has no interrupt.
const SLOTS: u8 = 32;
/// The first of a function's four pins, as `_PRT` counts them.
const INTA: u8 = 0;

pub(super) fn table() -> Vec<u8> {
    let slp_typ = layout::S5_SLP_TYP;
    let s5 = Name::new("_S5_".into(), &Package::new(vec![&slp_typ, &slp_typ, &ZERO, &ZERO]));
    // Motherboard resources: a guest believes the MCFG only if its area is reserved here (PCI Firmware 3.3, 4.1.2).
    let ecam = Memory32Fixed::new(true, low_32(layout::ECAM), low_32(layout::ECAM_LEN));
    let pm = ports(layout::PM1A_EVENT_PORT, layout::PM_PORTS_LEN);
    let devices = [
        host_bridge(),
        device("MBRD", "PNP0C02", &[&ecam, &pm]),
        device("COM1", "PNP0501", &[&ports(layout::COM1_PORT, 8), &isa_interrupt(layout::COM1_IRQ)]),
        device("RTC_", "PNP0B00", &[&ports(layout::RTC_PORT, 2), &isa_interrupt(layout::RTC_IRQ)]),
    ];
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&bytes(&s5));
    dsdt.append_slice(&Scope::raw("\\_SB_".into(), devices.concat()));
    dsdt.as_slice().to_vec()
}

/// Bus 0, its I/O ports, its window for BARs and its functions' interrupts.
fn host_bridge() -> Vec<u8> {
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = ports(CONFIG_PORTS, CONFIG_PORTS_LEN);
    let low_ports = AddressSpace::new_io(0u16, CONFIG_PORTS.saturating_sub(1), None);
    let high_ports = AddressSpace::new_io(CONFIG_PORTS.saturating_add(CONFIG_PORTS_LEN.into()), u16::MAX, None);
    let window = mmio32(layout::PCI_MMIO32, layout::PCI_MMIO32_LEN);
    let resources = ResourceTemplate::new(vec![&bus, &config, &low_ports, &high_ports, &window]);
    let zero = |name: &str| Name::new(name.into(), &ZERO);
    let names: [&dyn Aml; 7] = [
        &hid("PNP0A08"),
        &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
        &zero("_UID"),
        &zero("_SEG"),
        &zero("_BBN"),
        &Name::new("_CRS".into(), &resources),
        &interrupt_routing(),
    ];
    bytes(&Device::new("PCI0".into(), names.to_vec()))
}

/// `_PRT` (6.2.13): where INTA of each slot is wired, the same with the I/O APIC and the 8259s.
fn interrupt_routing() -> Name {
    let mut routes = PackageBuilder::new();
    for slot in 1..SLOTS {
        let any_function = u32::from_le_bytes([0xFF, 0xFF, slot, 0]); // as in `_ADR` (6.1.1)
        routes.add_element(&Package::new(vec![&any_function, &INTA, &ZERO, &layout::intx_irq(slot)]));
    }
    Name::new("_PRT".into(), &routes)
}

fn device(name: &str, id: &str, resources: &[&dyn Aml]) -> Vec<u8> {
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    bytes(&Device::new(name.into(), vec![&hid(id), &Name::new("_UID".into(), &ZERO), &resources]))
}

fn ports(first: u16, len: u8) -> IO {
    IO::new(first, first, 1, len)
}

fn hid(id: &str) -> Name {
    Name::new(Path::from("_HID"), &EISAName::new(id))
}

/// Edge-triggered, active high and not shared, as on the ISA bus.
fn isa_interrupt(irq: u8) -> Interrupt {
    Interrupt::new(true, true, false, false, irq.into())
}

fn mmio32(gpa: u64, len: u64) -> AddressSpace<u32> {
    let last = low_32(gpa.saturating_add(len).saturating_sub(1));
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, low_32(gpa), last, None)
}

/// Addresses of this layout's devices all lie below 4 GiB.
fn low_32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}
