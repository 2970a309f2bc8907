//! What the guest finds in memory at reset: kernels, ACPI, memory map.
#![forbid(unsafe_code)]
