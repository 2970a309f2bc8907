//! The differentiated system description table: AML (ACPI 6.5, chapter 20) for S5, PCI host bridge, serial port and clock.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
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
    let mut aml = Vec::new();
    let slp_typ = layout::S5_SLP_TYP;
    Name::new("_S5_".into(), &Package::new(vec![&slp_typ, &slp_typ, &ZERO, &ZERO])).to_aml_bytes(&mut aml);
    Scope::new("\\_SB_".into(), vec![&HostBridge, &Board, &SerialPort, &Clock]).to_aml_bytes(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt.as_slice().to_vec()
}

/// Bus 0, its I/O ports, its window for BARs and its functions' interrupts.
struct HostBridge;

impl Aml for HostBridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let bus = AddressSpace::new_bus_number(0u16, 0u16);
        let config = IO::new(CONFIG_PORTS, CONFIG_PORTS, 1, CONFIG_PORTS_LEN);
        let low_ports = AddressSpace::new_io(0u16, CONFIG_PORTS.saturating_sub(1), None);
        let high_ports = AddressSpace::new_io(CONFIG_PORTS.saturating_add(CONFIG_PORTS_LEN.into()), u16::MAX, None);
        let window = mmio32(layout::PCI_MMIO32, layout::PCI_MMIO32_LEN);
        Device::new(
            "PCI0".into(),
            vec![
                &hid("PNP0A08"),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_SEG".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&bus, &config, &low_ports, &high_ports, &window]),
                ),
                &InterruptRouting,
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// `_PRT` (6.2.13): where INTA of each slot is wired, the same with the I/O APIC and the 8259s.
struct InterruptRouting;

impl Aml for InterruptRouting {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let routes: Vec<(u32, u8)> = (1..SLOTS).map(|slot| (any_function(slot), layout::intx_irq(slot))).collect();
        let entry = |(address, irq)| Package::new(vec![address as &dyn Aml, &INTA, &ZERO, irq]);
        let entries: Vec<Package<'_>> = routes.iter().map(|(address, irq)| entry((address, irq))).collect();
        let entries = entries.iter().map(|entry| entry as &dyn Aml).collect();
        Name::new("_PRT".into(), &Package::new(entries)).to_aml_bytes(sink);
    }
}

/// `_ADR` of all functions of a slot (6.1.1).
fn any_function(slot: u8) -> u32 {
    u32::from_le_bytes([0xFF, 0xFF, slot, 0])
}

/// Motherboard resources: a guest believes the MCFG only if its area is reserved here (PCI Firmware 3.3, 4.1.2).
struct Board;

impl Aml for Board {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ecam = Memory32Fixed::new(true, low_32(layout::ECAM), low_32(layout::ECAM_LEN));
        let pm = IO::new(layout::PM1A_EVENT_PORT, layout::PM1A_EVENT_PORT, 1, layout::PM_PORTS_LEN);
        device(sink, "MBRD", "PNP0C02", &[&ecam, &pm]);
    }
}

/// COM1.
struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(layout::COM1_PORT, layout::COM1_PORT, 1, 8);
        device(sink, "COM1", "PNP0501", &[&ports, &isa_interrupt(layout::COM1_IRQ)]);
    }
}

/// The CMOS clock.
struct Clock;

impl Aml for Clock {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(layout::RTC_PORT, layout::RTC_PORT, 1, 2);
        device(sink, "RTC_", "PNP0B00", &[&ports, &isa_interrupt(layout::RTC_IRQ)]);
    }
}

fn device(sink: &mut dyn AmlSink, name: &str, id: &str, resources: &[&dyn Aml]) {
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    Device::new(name.into(), vec![&hid(id), &Name::new("_UID".into(), &ZERO), &resources]).to_aml_bytes(sink);
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
