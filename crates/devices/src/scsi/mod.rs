//! vioscsi: a SCSI host (virtio 1.2, 5.6) with one CD-ROM drive, in a process of its own.
//!
//! Offered: VERSION_1, INDIRECT_DESC, EVENT_IDX. Not offered: INOUT (no command has data in both directions), HOTPLUG,
//! CHANGE and T10_PI; so the event queue's buffers stay where they are. The drive is target 0, LUN 0. A guest hears of
//! another medium as from a real drive: by a unit attention, and by GET EVENT STATUS NOTIFICATION.
//! Its peers: vmm, which describes the drive on descriptor 3, and the VM, a vhost-user front end. Its promise: reads of
//! the images that it was handed, nothing else.

mod answers;
mod command;
mod config;
mod drive;
mod medium;
mod request;
mod sense;
mod serve;
mod start;
mod state;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use answers::{Answer, MAX_ANSWER};
pub use command::{Command, parse};
pub use config::Config;
pub use drive::{Drive, Locked, Reaction};
pub use medium::Medium;
pub use request::{CDB, Lun, TaskRequest};
pub use sense::Sense;
pub use serve::{MAX_IN_FLIGHT, Scsi};
pub use start::run;
pub use state::State;

/// Bytes of a block of a CD-ROM (MMC-6, 4.2.3.7: mode 1, user data).
pub const BLOCK: u64 = 2048;

/// What every host offers.
const FEATURES: u64 = (1 << VIRTIO_F_VERSION_1) + (1 << VIRTIO_RING_F_INDIRECT_DESC) + (1 << VIRTIO_RING_F_EVENT_IDX);
