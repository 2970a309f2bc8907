//! The host bridge in slot 0: an identity that guests look for, without any register of its own
//! (openbsd/devices.md, 1.2).

use super::config_space::{ConfigSpace, Identity};

/// OpenBSD's PCI vendor id.
pub const PCI_VENDOR_OPENBSD: u16 = 0x0B5D;
/// vmd's host bridge.
pub const PCI_PRODUCT_OPENBSD_PCHB: u16 = 0x0666;
/// Bridge device, host bridge (PCI code and ID assignment 1.11, 1.7).
const CLASS: (u8, u8) = (0x06, 0x00);

/// The bridge's configuration space; nothing in it can be written.
pub fn config_space() -> ConfigSpace {
    ConfigSpace::new(Identity {
        vendor: PCI_VENDOR_OPENBSD,
        device: PCI_PRODUCT_OPENBSD_PCHB,
        subsystem_vendor: PCI_VENDOR_OPENBSD,
        subsystem: 0,
        class: CLASS.0,
        subclass: CLASS.1,
        revision: 0,
    })
}
