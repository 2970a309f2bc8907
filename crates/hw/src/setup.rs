//! What a machine is built from, and why one can't be.

use std::ops::Range;

use thiserror::Error;

use crate::effect::Now;
use crate::pci::config_space::LayoutError;
use crate::virtio::Device;

/// What a machine is built from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pieces of RAM, as guest-physical addresses.
    pub ram: Vec<Range<u64>>,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Where BARs may be.
    pub mmio: Range<u64>,
    /// First byte of bus 0's ECAM, [`crate::pci::address::ECAM_BUS_LEN`] long.
    pub ecam: u64,
    /// The devices of slots 1 and up, in order.
    pub devices: Vec<Device>,
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
