//! vioballoon: the balloon (virtio 1.2, 5.5) of one VM, in a process of its own. What the guest does not use goes back to
//! the host, as holes in the file that its memory is.
//!
//! Offered: VERSION_1, MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM, PAGE_REPORTING, INDIRECT_DESC, EVENT_IDX. Not offered:
//! FREE_PAGE_HINT, PAGE_POISON. Queues: inflate, deflate, then those of statistics and of free pages that the driver took
//! (5.5.2: a queue whose feature was not negotiated has no place). `pages.rs` knows what the guest gave, `request.rs` reads
//! what it wrote, `serve.rs` makes the holes. Its peers: vmm, on descriptor 3, and the VM, a vhost-user front end. Its
//! promise: holes in guest memory, nothing else.

mod config;
mod pages;
mod request;
mod serve;
mod start;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use config::Config;
pub use pages::{BLOCK, Given, PAGE, Pages};
pub use request::statistics;
pub use serve::{Balloon, State};
pub use start::run;

/// The driver tells before it uses a page again (virtio 1.2, 5.5.3).
pub const VIRTIO_BALLOON_F_MUST_TELL_HOST: u32 = 0;
/// It has a queue for statistics.
pub const VIRTIO_BALLOON_F_STATS_VQ: u32 = 1;
/// It may take pages back when its guest is out of memory.
pub const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
/// It has a queue for pages that are free.
pub const VIRTIO_BALLOON_F_PAGE_REPORTING: u32 = 5;

/// What every balloon offers.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_BALLOON_F_MUST_TELL_HOST
    | 1 << VIRTIO_BALLOON_F_STATS_VQ
    | 1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM
    | 1 << VIRTIO_BALLOON_F_PAGE_REPORTING
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;
