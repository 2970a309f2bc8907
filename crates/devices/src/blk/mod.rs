//! vioblk: the block device (virtio 1.2, 5.2) of one disk, in a process of its own.
//!
//! Offered: VERSION_1, SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, INDIRECT_DESC, EVENT_IDX; DISCARD and WRITE_ZEROES for a disk
//! that is written, RO for one that is only read. Not offered: CONFIG_WCE, MQ and what needs them. Its peers: vmm, which describes the disk on
//! descriptor 3, and the VM, a vhost-user front end. Its promise: transfers on the disk it was handed, nothing else.

mod back_end;
mod chain;
mod clearing;
mod config;
mod engine;
mod pace;
mod raw;
mod request;
mod serve;
mod start;
mod state;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use back_end::BackEnd;
pub use chain::Chain;
pub use config::{Blocks, Config, MAX_SEGMENTS};
pub use engine::Engine;
pub use raw::Raw;
pub use request::{Clear, Disk, Range, Request, Status, parse, range};
pub use serve::{Blk, MAX_IN_FLIGHT};
pub use start::run;
pub use state::State;

/// What every disk offers.
const FEATURES: u64 = (1 << VIRTIO_F_VERSION_1)
    + (1 << VIRTIO_BLK_F_SEG_MAX)
    + (1 << VIRTIO_BLK_F_BLK_SIZE)
    + (1 << VIRTIO_BLK_F_TOPOLOGY)
    + (1 << VIRTIO_BLK_F_FLUSH)
    + (1 << VIRTIO_RING_F_INDIRECT_DESC)
    + (1 << VIRTIO_RING_F_EVENT_IDX);

/// What a disk offers that is written.
const WRITTEN: u64 = FEATURES + (1 << VIRTIO_BLK_F_DISCARD) + (1 << VIRTIO_BLK_F_WRITE_ZEROES);

/// What a disk offers that is only read.
const READ_ONLY: u64 = FEATURES + (1 << VIRTIO_BLK_F_RO);
