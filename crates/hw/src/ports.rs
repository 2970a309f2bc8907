//! Which device answers which I/O port (openbsd/devices.md, 7.5).

use crate::pm;
use crate::reset::Register;

/// The owner of a port, and which of its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// COM1, by offset.
    Uart(u16),
    /// The clock: 0 index, 1 value.
    Rtc(u16),
    /// ACPI fixed hardware, by offset.
    Pm(u16),
    /// PCI configuration mechanism #1, address.
    PciAddress,
    /// PCI configuration mechanism #1, data, by byte lane.
    PciData(u16),
    /// A way to reset the machine.
    Reset(Register),
    /// POST codes: Linux writes here to wait a moment.
    PostCode,
    /// Reads all ones.
    Nobody,
}

const COM1: u16 = 0x3F8;
const COM1_END: u16 = COM1 + 7;
const PM_END: u16 = pm::PORT + pm::PORTS - 1;

/// Whose port it is. The reset control register lies between the bytes of the PCI address register, which is only
/// accessed as a whole.
pub fn owner(port: u16) -> Owner {
    match port {
        0x60 => Owner::Reset(Register::I8042Data),
        0x64 => Owner::Reset(Register::I8042Command),
        0x70 => Owner::Rtc(0),
        0x71 => Owner::Rtc(1),
        0x80 => Owner::PostCode,
        0x92 => Owner::Reset(Register::Port92),
        COM1..=COM1_END => Owner::Uart(port & 7),
        pm::PORT..=PM_END => Owner::Pm(port & 0xF),
        0xCF8 => Owner::PciAddress,
        0xCF9 => Owner::Reset(Register::ResetControl),
        0xCFC..=0xCFF => Owner::PciData(port & 3),
        _ => Owner::Nobody,
    }
}
