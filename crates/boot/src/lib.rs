//! What the guest finds in memory at reset: kernels, ACPI, memory map.
//!
//! The probe asks [`kernel::Kernel::probe`] what a user's file is; the vm process then calls [`reset::fill`] once, over the
//! guest's memory, and gets back the state of the first vCPU as plain data. Nothing here performs I/O on anything it was not
//! handed, logs, or knows KVM. Kernels and initial RAM disks are a user's files: every number in them is hostile.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::arithmetic_side_effects
    )
)]

pub mod acpi;
mod error;
pub mod initrd;
pub mod kernel;
pub mod layout;
pub mod registers;
pub mod reset;
mod start_info;
mod zero_page;

pub use error::Error;
pub use reset::Entry;
