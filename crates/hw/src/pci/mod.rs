//! PCI bus 0: configuration addresses, configuration space of a type 0 function, BAR decoding, MSI-X.
//!
//! Pure registers. Functions other than 0, other buses and bridges do not exist (openbsd/devices.md, 1.2).

pub mod address;
pub mod bars;
pub mod config_address;
pub mod config_space;
pub mod host_bridge;
pub mod lines;
pub mod msix;
