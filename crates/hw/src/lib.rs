//! What the guest sees as hardware: PCI, MSI-X, virtio-pci transport, RTC, UART, PM; register models only.
#![forbid(unsafe_code)]
