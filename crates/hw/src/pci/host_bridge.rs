//! The host bridge in slot 0 (PCI 3.0, 6.1): an identity that guests look for, without any register of its own
//! (openbsd/devices.md, 1.2).

use super::config_space::{ConfigSpace, Identity};
use crate::chip::{At, Chip, Place};
use crate::effect::{Effects, Slot, World};
use crate::saved::{Flaw, Saved};

/// OpenBSD's PCI vendor id.
pub const PCI_VENDOR_OPENBSD: u16 = 0x0B5D;
/// vmd's host bridge.
pub const PCI_PRODUCT_OPENBSD_PCHB: u16 = 0x0666;
/// Bridge device, host bridge (PCI code and ID assignment 1.11, 1.7).
const CLASS: (u8, u8) = (0x06, 0x00);
/// Of the saved state, which is empty.
const VERSION: u16 = 1;

/// The bridge; nothing in it can be written.
#[derive(Debug, Clone)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        Self(ConfigSpace::new(Identity {
            vendor: PCI_VENDOR_OPENBSD,
            device: PCI_PRODUCT_OPENBSD_PCHB,
            subsystem_vendor: PCI_VENDOR_OPENBSD,
            subsystem: 0,
            class: CLASS.0,
            subclass: CLASS.1,
            revision: 0,
        }))
    }
}

impl Chip for HostBridge {
    fn name(&self) -> String {
        "host-bridge".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Config(Slot(0))]
    }

    fn read(&mut self, at: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        self.0.read(at.offset, data);
    }

    fn write(&mut self, _: At, _: &[u8], _: &dyn World, _: &mut Effects) {}

    fn save(&self) -> Saved {
        Saved::of(VERSION, &())
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        saved.open(VERSION)
    }
}
