//! A whole chipset through its public door, as a guest and its driver see it; one test per class of
//! openbsd/devices.md, 11.1 and 11.6 that concerns registers.

mod acts;
mod anything;
mod clocks;
mod driver;
mod hostile;
mod msix;
mod pci;
mod platform;
mod saved;
mod virtio;
mod vmmci;
