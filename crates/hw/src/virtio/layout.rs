//! BAR 0 of a virtio function and the capabilities that describe it (virtio 1.2, 4.1.4; PCI 3.0, 6.8.2).
//!
//! ```text
//! 0x0000 common configuration   0x3000 notify: queue n at 4 * n (own page: ioeventfds)
//! 0x1000 ISR status             0x8000 MSI-X table
//! 0x2000 device configuration   0xC000 MSI-X pending bits            64 KiB of 32-bit memory
//! ```

use crate::pci::config_space::{ConfigSpace, LayoutError};

/// log2 of the BAR's length.
pub const BAR_BITS: u32 = 16;
/// The BAR's length.
pub const BAR_LEN: u64 = 1 << BAR_BITS;
/// Common configuration.
pub const COMMON: u16 = 0x0000;
/// ISR status.
pub const ISR: u16 = 0x1000;
/// Device configuration.
pub const DEVICE: u16 = 0x2000;
/// Queue notification.
pub const NOTIFY: u16 = 0x3000;
/// Bytes between the notify registers of two queues.
pub const NOTIFY_MULTIPLIER: u16 = 4;
/// End of the notify registers: so many queues at most.
const NOTIFY_END: u16 = 0x4000;
/// MSI-X table.
pub const MSIX_TABLE: u16 = 0x8000;
/// MSI-X pending bits.
pub const MSIX_PENDING: u16 = 0xC000;
/// Most queues of a device: each has a notify register and an MSI-X vector, and one vector more is the configuration's.
pub const MAX_QUEUES: u16 = 512;
/// Most bytes of device configuration.
pub const MAX_CONFIG_LEN: usize = 0x1000;

/// A region of the BAR, and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// Common configuration.
    Common(u16),
    /// ISR status.
    Isr(u16),
    /// Device configuration.
    Device(u16),
    /// A queue's notify register: its index.
    Notify(u16),
    /// MSI-X table.
    MsixTable(u16),
    /// MSI-X pending bits.
    MsixPending(u16),
    /// Between the regions.
    None,
}

/// Which region of the BAR holds `offset`.
pub fn region(offset: u16) -> Region {
    match offset {
        COMMON..ISR => Region::Common(offset),
        ISR..DEVICE => Region::Isr(offset & 0xFFF),
        DEVICE..NOTIFY => Region::Device(offset & 0xFFF),
        NOTIFY..NOTIFY_END => Region::Notify((offset & 0xFFF) / NOTIFY_MULTIPLIER),
        MSIX_TABLE..MSIX_PENDING => Region::MsixTable(offset & 0x3FFF),
        MSIX_PENDING.. => Region::MsixPending(offset & 0x3FFF),
        _ => Region::None,
    }
}

const PCI_CAP_ID_VNDR: u8 = 0x09;
const PCI_CAP_ID_MSIX: u8 = 0x11;
/// Message control: enable and function mask can be changed.
const MSIX_CONTROL_WRITABLE: [u8; 2] = [0x00, 0xC0];
/// cfg_type of virtio's capabilities (virtio 1.2, 4.1.4).
const VIRTIO_PCI_CAP_COMMON_CFG: u8 = 1;
const VIRTIO_PCI_CAP_NOTIFY_CFG: u8 = 2;
const VIRTIO_PCI_CAP_ISR_CFG: u8 = 3;
const VIRTIO_PCI_CAP_DEVICE_CFG: u8 = 4;
const VIRTIO_PCI_CAP_PCI_CFG: u8 = 5;
/// Length of the common configuration up to and with queue_reset (virtio 1.2, 4.1.4.3).
pub const COMMON_LEN: u16 = 0x3C;

/// Where the capabilities lie that the function itself looks at.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// Offset of MSI-X's.
    pub msix: usize,
    /// Offset of the PCI configuration access capability.
    pub pci_cfg: usize,
}

/// Adds the capabilities of a function with so many queues and bytes of device configuration.
pub fn add_capabilities(space: &mut ConfigSpace, queues: u16, config_len: u16) -> Result<Capabilities, LayoutError> {
    let [low, high] = queues.to_le_bytes(); // table size is N - 1, and there are queues + 1 vectors
    let (table, pending) = (u32::from(MSIX_TABLE), u32::from(MSIX_PENDING));
    let mut body = vec![low, high];
    body.extend(table.to_le_bytes().iter().chain(&pending.to_le_bytes()));
    let msix = space.add_capability(PCI_CAP_ID_MSIX, &body, &MSIX_CONTROL_WRITABLE)?;

    let notify_len = queues.saturating_mul(NOTIFY_MULTIPLIER);
    let multiplier = u32::from(NOTIFY_MULTIPLIER).to_le_bytes();
    add_virtio(space, VIRTIO_PCI_CAP_COMMON_CFG, COMMON, COMMON_LEN, &[])?;
    add_virtio(space, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, notify_len, &multiplier)?;
    add_virtio(space, VIRTIO_PCI_CAP_ISR_CFG, ISR, 1, &[])?;
    if config_len > 0 {
        add_virtio(space, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE, config_len, &[])?;
    }
    let body = virtio_body(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, &[0; 4]);
    // The driver may change bar, offset, length and pci_cfg_data (4.1.4.9).
    let writable = [0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    let pci_cfg = space.add_capability(PCI_CAP_ID_VNDR, &body, &writable)?;
    Ok(Capabilities { msix, pci_cfg })
}

fn add_virtio(space: &mut ConfigSpace, cfg_type: u8, offset: u16, len: u16, more: &[u8]) -> Result<usize, LayoutError> {
    space.add_capability(PCI_CAP_ID_VNDR, &virtio_body(cfg_type, offset, len, more), &[])
}

/// `struct virtio_pci_cap` after cap_vndr and cap_next; bar, id and padding are 0.
fn virtio_body(cfg_type: u8, offset: u16, len: u16, more: &[u8]) -> Vec<u8> {
    let cap_len = if more.is_empty() { 16 } else { 20 };
    let mut body = vec![cap_len, cfg_type, 0, 0, 0, 0];
    body.extend(u32::from(offset).to_le_bytes());
    body.extend(u32::from(len).to_le_bytes());
    body.extend(more);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offset_is_in_its_region() {
        for (offset, is) in [
            (0x0000, Region::Common(0)),
            (0x0FFF, Region::Common(0xFFF)),
            (0x1000, Region::Isr(0)),
            (0x1FFF, Region::Isr(0xFFF)),
            (0x2001, Region::Device(1)),
            (0x3000, Region::Notify(0)),
            (0x3004, Region::Notify(1)),
            (0x300B, Region::Notify(2)),
            (0x3FFC, Region::Notify(0x3FF)),
            (0x4000, Region::None),
            (0x7FFF, Region::None),
            (0x8010, Region::MsixTable(0x10)),
            (0xBFFF, Region::MsixTable(0x3FFF)),
            (0xC008, Region::MsixPending(8)),
            (0xFFFF, Region::MsixPending(0x3FFF)),
        ] {
            assert_eq!(region(offset), is, "{offset:#x}");
        }
    }
}
