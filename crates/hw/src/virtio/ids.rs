//! PCI identities of the virtio devices (openbsd/devices.md, 1.2; virtio 1.2, 4.1.2).

use crate::pci::config_space::Identity;
use crate::pci::host_bridge::PCI_VENDOR_OPENBSD;

/// PCI vendor id of all virtio devices (virtio 1.2, 4.1.2).
pub const PCI_VENDOR_VIRTIO: u16 = 0x1AF4;
/// PCI device id of a non-transitional device, less its virtio device id (virtio 1.2, 4.1.2.1).
const PCI_DEVICE_BASE: u16 = 0x1040;
/// Revision of a non-transitional device: 1 or more (virtio 1.2, 4.1.2.1).
const REVISION: u8 = 1;

/// What kind of virtio device it is: the virtio device id (virtio 1.2, 5), which is the subsystem id too: firmware and guests
/// of vmd look for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// A network card.
    pub const NETWORK: Self = Self(1);
    /// A disk.
    pub const BLOCK: Self = Self(2);
    /// A random number generator.
    pub const ENTROPY: Self = Self(4);
    /// A SCSI host.
    pub const SCSI: Self = Self(8);

    /// Base class and subclass (PCI code and ID assignment 1.11). A network card says that it is one, unlike vmd's; what has no
    /// class of its own is "other system peripheral".
    const fn class(self) -> (u8, u8) {
        match self {
            Self::NETWORK => (0x02, 0x00),
            Self::BLOCK | Self::SCSI => (0x01, 0x00),
            Self(_) => (0x08, 0x80),
        }
    }

    /// The identity of a function of this kind.
    pub const fn identity(self) -> Identity {
        let (class, subclass) = self.class();
        Identity {
            vendor: PCI_VENDOR_VIRTIO,
            device: PCI_DEVICE_BASE.wrapping_add(self.0),
            subsystem_vendor: PCI_VENDOR_OPENBSD,
            subsystem: self.0,
            class,
            subclass,
            revision: REVISION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_those_of_the_table() {
        let rows = [
            (Kind::ENTROPY, 0x1044, 4, (8, 0x80)),
            (Kind::NETWORK, 0x1041, 1, (2, 0)),
            (Kind::BLOCK, 0x1042, 2, (1, 0)),
            (Kind::SCSI, 0x1048, 8, (1, 0)),
            (Kind(5), 0x1045, 5, (8, 0x80)),
        ];
        for (kind, device, subsystem, class) in rows {
            let id = kind.identity();
            assert_eq!((id.vendor, id.device, id.revision), (0x1AF4, device, 1));
            assert_eq!((id.subsystem_vendor, id.subsystem), (0x0B5D, subsystem));
            assert_eq!((id.class, id.subclass), class);
        }
    }
}
