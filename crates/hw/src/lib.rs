//! What the guest sees as hardware: PCI, MSI-X, virtio-pci transport, RTC, UART, ACPI power management, reset ports.
//!
//! Register models only. Nothing here does I/O, reads a clock, starts a thread or logs: a model takes an access (and the
//! time, where it matters) and answers with [`Effect`]s, which the `vm` crate performs. Each model is a [`Chip`]: a plain
//! struct that can be owned and tested alone. [`Chipset`] holds the one table of them, puts one lock around each and
//! dispatches ports and addresses, so that vCPUs only wait for one another at the same chip.
//!
//! ```text
//! KVM_EXIT_IO / KVM_EXIT_MMIO                                     event loop (pty, timers, back ends)
//!        │ pio_read, pio_write, mmio_read, mmio_write                     │ serial_input, timer, reset_done, ...
//!        ▼                                                                ▼
//!   Chipset ──Table──► Mutex<dyn Chip>: Uart, Rtc, Pm, I8042, ... a Function per slot ──► Effect ──► Edge::perform
//! ```
//!
//! What the vm crate writes: an implementation of [`Edge`], and of [`World`], which is what chips may ask. `perform` is
//! called with the lock of the chip held that decided the effect, so the effects of one chip arrive in the order they were
//! decided. It must not block and must not call into the `Chipset` again.
//!
//! What the vm crate calls (`&self`, from any thread; `edge: &dyn Edge` last):
//!
//! | call | when |
//! |---|---|
//! | `Chipset::new(Setup)` | once; [`Setup`] names RAM ranges, vCPU count, and the virtio functions of slots 1.. |
//! | `Chipset::restore(Setup, &SavedChipset, edge)` | instead: a machine that goes on where another was saved |
//! | `save(edge) -> SavedChipset` | while no vCPU runs and the back ends are quiet |
//! | `pio_read(port, &mut [u8], edge)`, `pio_write(port, &[u8], edge)` | KVM_EXIT_IO, once per item of a string access |
//! | `mmio_read(gpa, &mut [u8], edge)`, `mmio_write(gpa, &[u8], edge)` | KVM_EXIT_MMIO |
//! | `timer(Timer, edge)` | the deadline of the last `Effect::Deadline` of that timer has passed |
//! | `serial_input(&[u8], edge) -> usize` | bytes from the console; the number taken |
//! | `serial_output(&mut [u8]) -> usize` | after `Effect::SerialOutput`, until it gives 0 |
//! | `ask_to_stop(edge)` | the graceful stop: by vmmci where its driver listens, else by the power button |
//! | `reset_done(slot, edge)` | the back end has stopped after `DeviceEffect::Reset` |
//! | `needs_reset(slot, edge)` | the back end found the rings broken or could not be activated |
//! | `set_device_config(slot, bytes, edge)` | the back end's configuration space changed |
//! | `queue_interrupt(slot, queue, edge)` | the queue's call came while its delivery is `Delivery::Intx` |
//!
//! Addresses and ports that nothing answers read all ones; writes to them are lost.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap
    )
)]

mod access;
pub mod chip;
pub mod chipset;
pub mod effect;
pub mod i8042;
pub mod pci;
pub mod pm;
pub mod reset_port;
pub mod rtc;
pub mod saved;
mod setup;
mod table;
pub mod uart;
pub mod virtio;
pub mod vmmci;

pub use chip::Chip;
pub use chipset::Chipset;
pub use effect::{
    Activation, Delivery, DeviceEffect, Edge, Effect, Effects, MsiMessage, Now, QueueSetup, Slot, Timer, World,
};
pub use saved::SavedChipset;
pub use setup::{RestoreError, Setup, SetupError};
