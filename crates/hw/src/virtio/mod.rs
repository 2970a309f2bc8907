//! virtio over PCI (virtio 1.2, 4.1): the registers of a device, not its queues' contents nor its meaning.
//!
//! A back end (its own process, or a thread of the vm process) serves the queues; here live negotiation, status, queue
//! set-up, interrupts' routing and the configuration space's copy.
//!
//! ```text
//!            DRIVER_OK                status = 0                    reset_done
//! Stopped ───────────────► Active ───────────────────► Resetting ───────────────► Stopped
//!            Activate               Reset                status reads non-zero
//! ```

pub mod function;
pub mod ids;
pub mod layout;
pub mod queue;
pub mod transport;

pub use function::{Device, Function};
pub use ids::Kind;
