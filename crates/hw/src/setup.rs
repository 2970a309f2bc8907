//! What a machine is built from, and why one can't be, or can't be restored.

use std::ops::Range;

use thiserror::Error;

use crate::effect::Now;
use crate::pci::config_space::LayoutError;
use crate::saved::{Flaw, VERSION};
use crate::virtio::Device;

/// What a machine is built from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pieces of RAM, as guest-physical addresses.
    pub ram: Vec<Range<u64>>,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Where firmware puts BARs. The guest may put them anywhere between RAM and the APICs, but for the ECAM.
    pub mmio: Range<u64>,
    /// First byte of bus 0's ECAM, 1 MiB long.
    pub ecam: u64,
    /// The devices of slots 1 and up, in order.
    pub devices: Vec<Device>,
    /// The IOAPIC pin of vmmci's INTx, shared with other functions alone; `None`: the machine has no vmmci. It is in the slot
    /// after the last device.
    pub vmmci: Option<u8>,
    /// The time of the start.
    pub now: Now,
}

/// A machine that cannot be built.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// Slot 0 is the host bridge's, and there are 32.
    #[error("{count} devices: the PCI bus has 31 free slots")]
    TooManyDevices {
        /// How many were asked for.
        count: usize,
    },
    /// A function's configuration space is full.
    #[error("device in slot {slot}: {error}")]
    Layout {
        /// The slot.
        slot: u8,
        /// Why.
        error: LayoutError,
    },
}

/// Why a machine can't be restored.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// There is no such machine to restore into.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// Another program's state.
    #[error("saved state: version {found} is not known, only {VERSION}")]
    Version {
        /// What came.
        found: u16,
    },
    /// The machine was another.
    #[error("saved state: it has {found} chips, this machine {count}")]
    Chips {
        /// How many came.
        found: usize,
        /// How many there are.
        count: usize,
    },
    /// The machine was another, or its chips are in disorder.
    #[error("saved state: another chip is in the place of {chip}")]
    Order {
        /// The chip that this machine has there.
        chip: String,
    },
    /// A chip does not take its state.
    #[error("saved state of {chip}: {flaw}")]
    Chip {
        /// Which.
        chip: String,
        /// What it does not take.
        flaw: Flaw,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_chip_and_field() {
        let error = RestoreError::Chip { chip: "uart".into(), flaw: Flaw::Field("the receiver") };
        assert_eq!(
            error.to_string(),
            "saved state of uart: the receiver has a value that is not possible in this machine"
        );
    }
}
